"""Every benchmark model exported, compared with torch and timed in each runtime, as a table.

    python benchmarks/export.py OUT [tinycd changer_mitb0 ...] [--dynamic batch none] [--size 256]
    python benchmarks/export.py OUT --formats onnx pt2 openvino --weights SHORT_RUNS
    python benchmarks/export.py OUT tinycd --weights tinycd=tinycd.mtkd --int8 LEVIR/val
    python benchmarks/export.py OUT --table

One thread, float32, torch both plain and prepared (mtkd_cd/models/prepare.py), as the inferencer
runs it; CPU time of the process per pair, the median of the rounds, in which the runtimes take
turns. ``--weights NAME=FILE`` takes a bundle or a checkpoint of the origin's
config, ``--weights FOLDER`` the bundles NAME.mtkd in it, as benchmarks/short_runs.py writes them.
A model without one is initialised so that it is well conditioned: batch norms have seen
made-up pairs, and logits are spread over both sides of the decision. Results are kept in
OUT/results.json; what is there is not measured again. OUT/NAME.npz has the inputs and torch's
probability, for benchmarks/load_onnx.py. Files of other formats than ONNX are compared with torch
and deleted. ``--pairs DATA`` compares files on tiles of DATA, not on made-up pairs. ``--int8 DATA``
quantises OUT/NAME.batch.onnx for both runtimes: half of 32 pairs of DATA calibrate, the others are
compared, and a pair is timed in float32 and in int8 in turn.
"""

import argparse
import dataclasses
import gc
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtkd_cd.apis import ChangeInferencer, init_model, list_models
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.export.description import from_metadata
from mtkd_cd.export.exporting import (
    FORMATS,
    Options,
    export_model,
    network_of,
    save_openvino,
    set_metadata,
    write_openvino,
)
from mtkd_cd.export.parity import compare_predictors, made_up_pairs, normalised
from mtkd_cd.export.quantise import loss, quantised_onnx, quantised_openvino, read_windows
from mtkd_cd.export.runtime import open_exported
from mtkd_cd.inference.predictor import Model, model_from_detector

CONFIGS = Path(__file__).parents[1] / 'configs' / 'origin'


def initialised(name: str, size: int) -> nn.Module:
    """A detector of seeded weights, made well conditioned by made-up pairs."""
    torch.manual_seed(0)
    detector = init_model(
        CONFIGS / f'{name}.py', device='cpu', cfg_options={'model.pretrained': None}
    )
    model = model_from_detector(detector)
    small = min(size, 128)
    pairs = normalised(made_up_pairs(model.card, small, 2), model.card)
    norms = [module for module in detector.modules() if isinstance(module, _BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.train()
        for _ in range(5):
            if norms:
                detector.encode_decode(pairs, [{}])
        detector.eval()
        logits = detector.encode_decode(pairs, [{}])
        margin = logits[:, -1:] - logits[:, :1] if logits.shape[1] == 2 else logits
        print(
            f'{name}: margin {margin.mean():.2f} +- {margin.std():.2f} when initialised', flush=True
        )
    return detector


def centred(model: Model, size: int) -> Model:
    """The model with the threshold at the median of its probabilities, so that decisions fall on
    both sides."""
    images = made_up_pairs(model.card, size, 1)
    found = model.predictor().probability(normalised(images, model.card))
    threshold = float(found.median())
    return dataclasses.replace(model, card=dataclasses.replace(model.card, threshold=threshold))


def loaded(name: str, weights: dict[str, str], size: int) -> tuple[Model, str]:
    """A model and what its weights are."""
    given = weights.get(name)
    if given is None:
        return centred(model_from_detector(initialised(name, size)), size), 'initialised'
    path, _, what = given.partition(':')
    config = path if path.endswith('.mtkd') else CONFIGS / f'{name}.py'
    checkpoint = None if path.endswith('.mtkd') else path
    model = ChangeInferencer(config, checkpoint, device='cpu').model
    return model, what or 'trained'


def weights_by_model(given: list[str]) -> dict[str, str]:
    """Each model's ``FILE[:WHAT]``; what is said of one model goes before a folder."""
    found: dict[str, str] = {}
    for item in sorted(given, key=lambda item: '=' in item):
        if '=' in item:
            name, _, found[name] = item.partition('=')
            continue
        folder, colon, what = item.partition(':')
        for path in Path(folder).glob('*.mtkd'):
            found[path.stem] = f'{path}{colon}{what}'
    return found


def milliseconds(rounds: int, calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """CPU time of each call, which take turns: the medians after a round to warm up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if number:
                found[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(spent) for name, spent in found.items()}


def export_row(
    model: Model, path: Path, size: int, dynamic: str, pairs: str | None
) -> dict[str, Any]:
    """How a file that is written differs from torch, its size and what it took."""
    start = time.process_time()
    try:
        (written,) = export_model(
            model, path, size=size, dynamic=dynamic, tolerance=1, overwrite=True, pairs=pairs
        )
    except UserError as error:
        return {'error': str(error)}
    return {
        **written.parity.as_dict(),
        'bytes': written.size_bytes,
        'export_s': time.process_time() - start,
    }


def key_of(format: str, dynamic: str) -> str:
    """Where a row keeps what is known of a file."""
    return dynamic if format == 'onnx' else f'{format}_{dynamic}'


def measure(
    name: str,
    folder: Path,
    weights: dict[str, str],
    formats: list[str],
    dynamic: list[str],
    size: int,
    rounds: int,
    known: dict[str, Any],
    pairs: str | None = None,
) -> dict[str, Any]:
    """What is not known yet of a model."""
    model, what = loaded(name, weights, size)
    row = {**known, 'weights': what}
    predictor = model.predictor()
    images = made_up_pairs(model.card, size, 3)
    if pairs is not None:
        images = read_windows(pairs, model.card, size, len(images)).images
    for format, kind in itertools.product(formats, dynamic):
        key = key_of(format, kind)
        if key in known and not known[key].get('error'):
            continue
        path = folder / f'{name}.{kind}{FORMATS[format]}'
        row[key] = export_row(model, path, size, kind, pairs)
        print(name, format, kind, row[key], flush=True)
        if format != 'onnx':
            path.unlink(missing_ok=True)
            path.with_suffix('.bin').unlink(missing_ok=True)
    path = next(
        (folder / f'{name}.{kind}.onnx' for kind in dynamic if 'bytes' in row.get(kind, {})), None
    )
    if path is None or 'ms' in row:
        return row
    backends = {backend: open_exported(path, backend) for backend in ('onnx', 'openvino')}
    card = backends['onnx'].card
    for backend, exported in backends.items():
        parity = compare_predictors(
            predictor, exported.predictor(), images, (model.card, card), card.threshold
        )
        row[f'parity_{backend}'] = parity.as_dict()
    inputs = normalised(images, card)
    wanted = predictor.probability(normalised(images, model.card)).numpy()
    np.savez_compressed(folder / f'{name}.npz', pair=inputs.numpy(), probability=wanted)
    row['changed'] = float((wanted > card.threshold).mean())
    one = normalised(images[:1], model.card)
    network = network_of(model, '', Options())
    calls = {
        'plain': torch.no_grad()(partial(network, inputs[:1])),
        'torch': partial(predictor.probability, one),
    }
    for backend, exported in backends.items():
        calls[backend] = partial(exported.predictor().probability, inputs[:1])
    row['ms'] = milliseconds(rounds, calls)
    print(name, row['ms'], flush=True)
    return row


def measure_int8(
    name: str, folder: Path, weights: dict[str, str], data: str, size: int, rounds: int
) -> dict[str, Any]:
    """What 8-bit integers change in each runtime, and a pair's time before and after."""
    onnx = require('onnx', 'export', 'int8')
    model, _ = loaded(name, weights, size)
    reference = model.predictor(), model.card
    source = folder / f'{name}.batch.onnx'
    graph = onnx.load(source)
    described = from_metadata({one.key: one.value for one in graph.metadata_props}, source)
    calibration, others = read_windows(data, described.card, size, 32).split()
    as_int8 = dataclasses.replace(described, int8=True)
    found: dict[str, Any] = {}
    for backend, suffix in (('onnx', '.onnx'), ('openvino', '.xml')):
        path = folder / f'{name}.int8{suffix}'
        if backend == 'onnx':
            result = quantised_onnx(graph, calibration, described)
            set_metadata(result, as_int8)
            path.write_bytes(result.SerializeToString())
            plain = source
        else:
            plain = folder / f'{name}.batch.xml'
            write_openvino(source.read_bytes(), described, plain)
            save_openvino(
                quantised_openvino(source.read_bytes(), calibration, described), as_int8, path
            )
        window = normalised(others.images[:1], described.card)
        files = {'float32': plain, 'int8': path}
        exported = {kind: open_exported(file, backend) for kind, file in files.items()}
        predictors = {kind: one.predictor() for kind, one in exported.items()}
        calls = {kind: partial(one.probability, window) for kind, one in predictors.items()}
        spent = milliseconds(rounds, calls)
        row: dict[str, Any] = {}
        for kind, file in files.items():
            parts = [part for part in (file, file.with_suffix('.bin')) if part.is_file()]
            row[kind] = {'ms': spent[kind], 'bytes': sum(part.stat().st_size for part in parts)}
        served = predictors['int8'], exported['int8'].card
        row['loss'] = loss(reference, served, others).as_dict()
        print(name, 'int8', backend, row, flush=True)
        found[backend] = row
    return found


def table(results: dict[str, Any]) -> str:
    """The rows as Markdown."""
    kinds = [(format, kind) for format in FORMATS for kind in ('none', 'batch')]
    asked = [kind for kind in kinds if any(key_of(*kind) in row for row in results.values())]
    titles = {'none': 'static', 'batch': 'dynamic batch'}
    columns = [
        'model',
        'weights',
        'pixels above the threshold',
        *(f'{FORMATS[format]} {titles[kind]}: max dp, flips' for format, kind in asked),
        'dynamic .onnx in OpenVINO: max dp, flips',
        'MB',
        *(f'{what}, ms' for what in ('torch', 'prepared', 'onnxruntime', 'OpenVINO')),
        *(f'int8 in {runtime}, ms' for runtime in ('onnxruntime', 'OpenVINO')),
    ]
    lines = [
        f'| {" | ".join(columns)} |',
        '|---' * (len(asked) + 4) + '|---:' * 7 + '|',
    ]

    def parity(found: dict[str, Any] | None) -> str:
        if found is None:
            return '-'
        if 'error' in found:
            return found['error']
        return f'{found["max_difference"]:.1e}, {found["flips"]}'

    for name, row in sorted(results.items()):
        ms = dict(row.get('ms', {}))
        if 'plain' not in ms and 'torch' in ms:  # of an older version, which timed no prepared one
            ms['plain'] = ms.pop('torch')
        for backend, found in row.get('int8', {}).items():
            ms[f'int8_{backend}'] = found['int8']['ms']
        size = (row.get('batch') or row.get('none') or {}).get('bytes')
        cells = [
            f'`{name}`',
            row['weights'],
            f'{100 * row["changed"]:.0f} %' if 'changed' in row else '-',
            *(parity(row.get(key_of(*kind))) for kind in asked),
            parity(row.get('parity_openvino')),
            f'{size / 1e6:.1f}' if size else '-',
            *(
                f'{ms[what]:.0f}' if what in ms else '-'
                for what in ('plain', 'torch', 'onnx', 'openvino', 'int8_onnx', 'int8_openvino')
            ),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    timed = [row['ms'] for row in results.values() if 'onnx' in row.get('ms', {})]
    for backend in ('onnx', 'openvino') if timed else ():
        ratios = [ms[backend] / ms.get('plain', ms['torch']) for ms in timed]
        mean = statistics.geometric_mean(ratios)
        lines.append(f'\n{backend} / plain torch, {len(ratios)} models, geometric mean: {mean:.2f}')
    return '\n'.join(lines + _int8_table(results))


def _int8_table(results: dict[str, Any]) -> list[str]:
    lines = [
        '\n| model | runtime | float32: ms, MB, mIoU | int8: ms, MB, mIoU | pixels that flip |',
        '|---|---|---|---|---:|',
    ]
    for name, row in sorted(results.items()):
        for backend, found in row.get('int8', {}).items():
            change = found['loss']
            cells = [
                f'{found[kind]["ms"]:.0f}, {found[kind]["bytes"] / 1e6:.2f}, {score:.2f}'
                for kind, score in zip(('float32', 'int8'), change['miou'])
            ]
            flipped = f'{100 * change["flipped"]:.2f} %'
            lines.append(f'| `{name}` | {backend} | {cells[0]} | {cells[1]} | {flipped} |')
    return lines if len(lines) > 2 else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path)
    parser.add_argument('models', nargs='*', metavar='MODEL', help='default: all 21')
    parser.add_argument('--formats', nargs='+', choices=list(FORMATS), default=['onnx'])
    parser.add_argument(
        '--dynamic', nargs='+', choices=['batch', 'none', 'all'], default=['batch', 'none']
    )
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument(
        '--weights',
        nargs='*',
        default=[],
        metavar='NAME=FILE[:WHAT] or FOLDER[:WHAT]',
        help='of a model, or of all',
    )
    parser.add_argument('--pairs', metavar='DATA', help='pairs to compare on')
    parser.add_argument('--int8', metavar='DATA', help='pairs with labels, to quantise with')
    parser.add_argument('--table', action='store_true', help='print what has been measured')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / 'results.json'
    results = json.loads(kept.read_text()) if kept.exists() else {}
    if not args.table:
        torch.set_num_threads(1)
        weights = weights_by_model(args.weights)
        for name in args.models or list_models():
            row = measure(
                name,
                args.out,
                weights,
                args.formats,
                args.dynamic,
                args.size,
                args.rounds,
                results.get(name, {}),
                args.pairs,
            )
            if args.int8 and 'int8' not in row:
                row['int8'] = measure_int8(
                    name, args.out, weights, args.int8, args.size, args.rounds
                )
            results = json.loads(kept.read_text()) if kept.exists() else {}
            results[name] = row
            kept.write_text(json.dumps(results, indent=1))
            gc.collect()
    chosen = {name: row for name, row in results.items() if name in (args.models or results)}
    print(table(chosen))


if __name__ == '__main__':
    main()
