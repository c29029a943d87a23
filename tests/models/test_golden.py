"""Our models against what Open-CD computes with the same weights, inputs and labels.

``tests/data/golden`` holds thinned copies of the reference. ``MTKD_CD_REFERENCE=FOLDER pytest -s
tests/models/test_golden.py`` compares with the whole of it and prints the largest differences.
"""

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

_GOLDEN = Path(__file__).parents[1] / 'data' / 'golden'
_FULL = os.environ.get('MTKD_CD_REFERENCE')
# In the precision of the reference. Two networks make so much of rounding, with the reference's
# weights, that theirs is float64.
_TOLERANCE = dict(float32=1e-4, float64=1e-6)


@pytest.fixture(scope='module')
def golden():
    def load(name: str) -> tuple[dict, dict[str, np.ndarray]]:
        facts = json.loads((_GOLDEN / f'{name}.json').read_text())
        folder = Path(_FULL) if _FULL else _GOLDEN
        arrays = dict(np.load(folder / f'{name}.npz'))
        if _FULL:
            facts['steps'] = {key: 4 if key == 'logits_s4' else 1 for key in arrays}
            facts['largest'] = {key: float(np.abs(maps).max()) for key, maps in arrays.items()}
        return facts, arrays

    return load


def _digest(model: torch.nn.Module) -> str:
    keys = [f'{key} {list(value.shape)}' for key, value in sorted(model.state_dict().items())]
    return hashlib.sha256('\n'.join(keys).encode()).hexdigest()


def _margin(logits: torch.Tensor, threshold: float | None) -> torch.Tensor:
    """How far the logits (C, H, W) of each pixel are from the other decision."""
    return (
        logits[1] - logits[0]
        if len(logits) == 2
        else logits[0] - math.log(threshold / (1 - threshold))
    )


def _models():
    for path in sorted(_GOLDEN.glob('*.json')):
        large = json.loads(path.read_text())['parameters'] > 1e8
        # In float64 on two cores the largest takes longer than the rest of the suite.
        marks = [pytest.mark.exhaustive] if path.stem == 'ttp_vitsam_l' else []
        yield pytest.param(path.stem, marks=[*marks, pytest.mark.slow] if large else marks)


@pytest.mark.parametrize('name', _models())
def test_model_computes_what_open_cd_computes(name, golden, build_model, seed_weights, make_pairs):
    facts, arrays = golden(name)
    model = build_model(name).eval()
    state = model.state_dict()
    assert (type(model).__name__, sum(p.numel() for p in model.parameters())) == (
        facts['detector'],
        facts['parameters'],
    )
    assert (len(state), _digest(model)) == (
        facts['state_dict']['count'],
        facts['state_dict']['sha256'],
    )

    seed_weights(model, facts['salt'])
    inputs, samples = make_pairs(**facts['input'])
    dtype = facts.get('dtype', 'float32')
    tolerance = _TOLERANCE[dtype]
    model, inputs = model.to(getattr(torch, dtype)), inputs.to(getattr(torch, dtype))
    with torch.no_grad():
        change_maps = model(inputs, mode='tensor')
        losses = model(inputs, samples, mode='loss')
        logits = model.inference(inputs, [sample.metainfo for sample in samples])
        predictions = model.postprocess_result(logits, samples)
    outputs = {
        f'change_map_{i}': maps
        for i, maps in enumerate([change_maps] if torch.is_tensor(change_maps) else change_maps)
    }
    outputs['logits_s4'] = logits
    assert set(outputs) == set(arrays)

    report = [name]
    for key, reference in arrays.items():
        step = facts['steps'][key]
        output = outputs[key][:, :, ::step, ::step].numpy()
        difference = np.abs(output - reference).max()
        report.append(f'{key} {difference:.1e} (of {facts["largest"][key]:.1f})')
        assert difference <= tolerance * max(1, facts['largest'][key]), key
    for key, reference in facts['losses'].items():
        report.append(f'{key} {abs(float(losses[key]) - reference) / abs(reference):.1e} relative')
        assert float(losses[key]) == pytest.approx(reference, rel=tolerance), key
    for sample, image_logits, reference in zip(predictions, logits, facts['changed_pixels']):
        changed = int(sample.pred_sem_seg.data.sum())
        undecided = _margin(image_logits, model.decode_head.threshold).abs() <= 2 * tolerance * max(
            1, facts['largest']['logits_s4']
        )
        report.append(f'changed {changed} for {reference}')
        assert abs(changed - reference) <= int(undecided.sum())
    print(' | '.join(report))
