"""Export a trained model to ONNX, torch's .pt2 or OpenVINO, and compare the file with torch before
it gets its name."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtkd_cd.cli.common import (
    add_config_options,
    add_trust_argument,
    add_weights_argument,
    at_least,
)

if TYPE_CHECKING:
    from mtkd_cd.export.exporting import Exported


def main(argv: Sequence[str] | None = None) -> None:
    """Export, and say how the files differ from torch."""
    args = _parser().parse_args(argv)

    from mtkd_cd.export.exporting import export_model

    files = export_model(
        args.model,
        args.out,
        weights=args.weights,
        overwrite=args.overwrite,
        trusted=args.trust_checkpoint,
        cfg_options=args.cfg_options or None,
        progress=_tell if sys.stderr.isatty() else None,
        size=args.size,
        dynamic=args.dynamic,
        input=args.input,
        channels=args.channels,
        opset=args.opset,
        tolerance=args.tolerance,
        format=args.format,
        int8=args.int8,
        calibration=args.calibration,
        pairs=args.pairs,
    )
    for one in files:
        print(line(one))


def line(one: 'Exported') -> str:
    """The line that is printed for a file."""
    parity, loss = one.parity, one.loss
    if loss is not None:
        text = (
            f'{one.path} ({one.size_bytes / 1e6:.1f} MB, int8): on {loss.pairs} other pairs, '
            f'probabilities differ from float32 by {loss.mean_difference:.1e} on average and '
            f'{loss.max_difference:.2f} at most, {100 * loss.flipped:.2f} % of the pixels flip'
        )
        if loss.miou is not None:
            text += f'; mIoU {loss.miou[0]:.2f} in float32, {loss.miou[1]:.2f} in int8'
        return text
    return (
        f'{one.path} ({one.size_bytes / 1e6:.1f} MB): differs from torch by '
        f'{parity.max_difference:.1e} at most, {parity.flips} of {parity.pixels} pixels flip '
        f'(batches of {" and ".join(map(str, parity.batches))})'
    )


def _tell(text: str) -> None:
    print(f'{text} ...', file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', metavar='MODEL', help='a bundle, or a config (then --weights too)')
    parser.add_argument(
        '-o',
        '--out',
        required=True,
        metavar='FILE',
        help='m.onnx, m.pt2, m.xml (OpenVINO); m.mtkd: the bundle with ONNX in it; of a cascade a '
        'folder',
    )
    add_weights_argument(parser)
    parser.add_argument(
        '--size', type=at_least(1), metavar='S', help="side of the input; default: the model's"
    )
    parser.add_argument(
        '--dynamic',
        choices=['batch', 'none', 'all'],
        default='batch',
        help='what is free: the batch, nothing, or batch, height and width',
    )
    parser.add_argument(
        '--input',
        choices=['normalised', 'raw'],
        default='normalised',
        help='what the graph takes: normalised values, or 0 to 255',
    )
    parser.add_argument(
        '--channels',
        type=int,
        choices=[1, 2],
        default=1,
        help='1: the probability of change; 2: that of no change before it',
    )
    parser.add_argument('--opset', type=int, default=18, help='of ONNX, 18 to 20')
    parser.add_argument(
        '--tolerance',
        type=float,
        default=1e-4,
        help='largest difference of a probability from torch, and share of flipped pixels',
    )
    parser.add_argument(
        '--pairs',
        metavar='DATA',
        help='compare on three of these pairs, a folder with A/ and B/ or a CSV file; default: '
        'on made-up ones',
    )
    parser.add_argument(
        '--format',
        choices=['onnx', 'pt2', 'openvino'],
        default='onnx',
        help="of a cascade's files",
    )
    parser.add_argument(
        '--int8', action='store_true', help='8-bit integers, calibrated; says what is lost'
    )
    parser.add_argument(
        '--calibration',
        metavar='DATA',
        help='validation pairs: a folder with A/, B/ and perhaps label/, or a CSV file',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace what is there')
    add_config_options(parser)
    add_trust_argument(parser)
    return parser
