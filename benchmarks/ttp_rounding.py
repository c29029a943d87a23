"""How far rounding moves TTP's change map under the reference's weights, how far small errors do,
and how far away the reference is.

    python benchmarks/ttp_rounding.py ../shared/reference [--runs 8] [--threads 1]

The weights make the network chaotic: rounding grows to differences of the size of the values, and
    so do small errors. So the reference is
judged by whether it is as far from our runs as these are from each other. A run takes half a minute
on an idle core, and a few GB.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.registry import MODELS

_ROUNDING = 3e-7


def noisy(scale: float, seed: int = 0) -> Callable[[nn.Module], object]:
    """Relative noise on the tokens that enter the first layer."""

    def change(model: nn.Module) -> object:
        generator = torch.Generator().manual_seed(seed)

        def add(module: nn.Module, inputs: tuple[Tensor], tokens: Tensor) -> Tensor:
            return tokens * (
                1 + scale * torch.randn(tokens.shape, generator=generator, dtype=torch.float64)
            ).to(tokens.dtype)

        return model.backbone.encoder.drop_after_pos.register_forward_hook(add)

    return change


def scaled_lora(model: nn.Module) -> None:
    for layer in model.backbone.encoder.layers:
        layer.attn.qkv.scaling['default'] *= 1.0001


def tanh_gelu(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.GELU):
            module.approximate = 'tanh'


def swapped_gate(model: nn.Module) -> None:
    for layer in model.backbone.encoder.layers:
        if hasattr(layer, 'down_channel'):
            layer.down_channel.weight.data = torch.cat(
                layer.down_channel.weight.data.chunk(2, dim=1)[::-1], dim=1
            )


def outcome(change_map: Tensor, label: Tensor) -> tuple[np.ndarray, float]:
    """The map's values and its loss."""
    logits = F.interpolate(change_map, label.shape[1:], mode='bilinear', align_corners=False)
    loss = F.cross_entropy(logits, label, ignore_index=255, reduction='sum') / label.numel()
    return change_map.double().numpy().ravel(), float(loss)


def difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Correlation and median difference."""
    return float(np.corrcoef(one, other)[0, 1]), float(np.median(np.abs(one - other)))


def span(differences: list[tuple[float, float]]) -> str:
    columns = np.array(differences)
    return ' | '.join(
        f'{low:.3f} to {high:.3f}' for low, high in zip(columns.min(0), columns.max(0))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('reference', type=Path, help='folder with seeded.py and opencd/')
    parser.add_argument('--runs', type=int, default=8, help='runs that differ by rounding')
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    sys.path.insert(0, str(args.reference))
    from seeded import seeded_batch, seeded_state_dict  # type: ignore[import-not-found]

    DefaultScope.get_instance('benchmark', scope_name='mtkd_cd')
    config = Config.fromfile('configs/_base_/models/ttp_vitsam_l.py').model
    config.update(pretrained=None, data_preprocessor=None)
    facts = json.loads((args.reference / 'opencd' / 'ttp_vitsam_l.json').read_text())
    model = MODELS.build(config).eval()
    model.load_state_dict(seeded_state_dict(model, facts['salt']))
    inputs, label = seeded_batch(
        facts['input']['batch'], facts['input']['size'], facts['input']['seed']
    )
    maps = np.load(args.reference / 'opencd' / 'ttp_vitsam_l.npz')
    reference, reference_loss = outcome(torch.from_numpy(maps['change_map_0']), label)

    def run(change: Callable[[nn.Module], object]) -> tuple[np.ndarray, float]:
        changed = copy.deepcopy(model)
        change(changed)
        with torch.no_grad():
            return outcome(changed(inputs, mode='tensor'), label)

    runs, losses = zip(*[run(noisy(_ROUNDING, seed)) for seed in range(args.runs)])
    print('| | correlation | median difference | loss |\n|---|---|---|---|')
    pairs = [difference(runs[i], runs[j]) for i in range(args.runs) for j in range(i)]
    print(
        f'| {args.runs} runs with noise of {_ROUNDING}, to each other | {span(pairs)} | '
        f'{min(losses):.4f} to {max(losses):.4f} |'
    )
    print(
        f'| the reference to them | {span([difference(reference, values) for values in runs])} | '
        f'{reference_loss:.4f} |',
        flush=True,
    )

    errors = {f'noise of {scale}': noisy(scale) for scale in (1e-6, 1e-5, 1e-4)}
    errors |= {
        'scale of LoRA off by 1e-4': scaled_lora,
        'tanh form of GELU': tanh_gelu,
        'dates of the gate swapped': swapped_gate,
    }
    for name, change in errors.items():
        values, loss = run(change)
        print(
            f'| {name}, to the runs | {span([difference(values, other) for other in runs])} | '
            f'{loss:.4f} |',
            flush=True,
        )


if __name__ == '__main__':
    main()
