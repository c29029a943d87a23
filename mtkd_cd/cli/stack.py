"""Write both dates into one raster, A's bands before B's, as uint8 on A's grid: for tools that take
one image only, such as QGIS Deepness with a model of `mtkd-cd export`."""

import argparse
import sys
import warnings
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Write the raster."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('a', help='date A: what GDAL reads')
    parser.add_argument('b', help='date B; on another grid it is warped once')
    parser.add_argument('-o', '--out', required=True, metavar='AB.tif')
    parser.add_argument(
        '-m', '--model', help='a bundle or exported file, for its bands and radiometry'
    )
    parser.add_argument(
        '--stretch',
        metavar='RULE',
        help="how values become 0..255: 'linear(low=0, high=3000)', 'percentile(2, 98)'; default: "
        "the model's, else as they are",
    )
    parser.add_argument('--bands', metavar='3,2,1', help='which bands are red, green, blue')
    parser.add_argument('--offset-a', type=float, default=0.0, help='added to the values of A')
    parser.add_argument('--offset-b', type=float, default=0.0, help='added to the values of B')
    parser.add_argument('--nodata', type=float, help='of files that declare none')
    parser.add_argument(
        '--assume-aligned', action='store_true', help='equal pixels are equal places'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    args = parser.parse_args(argv)

    from mtkd_cd.data.images import band_numbers
    from mtkd_cd.inference.card import RGB
    from mtkd_cd.inference.stack import stack_pair

    rule = args.stretch or 'identity'
    names: tuple[str, ...] = RGB
    trained = None
    if args.model:
        from mtkd_cd.inference.inferencer import ChangeInferencer

        inferencer = ChangeInferencer(args.model, device='cpu')
        card, trained = inferencer.card, inferencer.trained_bands
        names = card.band_order
        rule = args.stretch or card.radiometry
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter('always', UserWarning)
        path = stack_pair(
            args.a,
            args.b,
            args.out,
            rule=rule,
            band_names=names,
            bands=band_numbers(args.bands) if args.bands else None,
            trained_bands=trained,
            overwrite=args.overwrite,
            offset_a=args.offset_a,
            offset_b=args.offset_b,
            nodata=args.nodata,
            assume_aligned=args.assume_aligned,
        )
    for note in notes:
        if note.category is UserWarning:
            print(f'warning: {note.message}', file=sys.stderr)
    print(path)
