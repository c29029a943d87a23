"""Score a change map against its label, raster or polygons on any grid: per tile with intervals,
pooled, and by objects.

Also a folder of change maps against one of labels, or the results.csv of mtkd-cd predict --pairs,
whose list named the labels.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mtkd_cd.cli.common import at_least
from mtkd_cd.core.files import atomic_write, check_not_read
from mtkd_cd.evaluation.image_table import check_table_suffix


def main(argv: Sequence[str] | None = None) -> None:
    """Print the scores; write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('prediction', help='a change map, a folder of them, or results.csv')
    parser.add_argument(
        'label', nargs='?', help='raster, picture or polygons (.gpkg, ...); a folder of them'
    )
    parser.add_argument(
        '--out', type=Path, help='write the table of each tile here: .csv, or .json with all else'
    )
    parser.add_argument(
        '--tile',
        type=at_least(1),
        help='side of the tiles in pixels; default: the window of the prediction, by its tag',
    )
    parser.add_argument(
        '--ignore-index', type=int, help='value of pixels of the label that do not count'
    )
    parser.add_argument(
        '--sizes',
        type=float,
        nargs='+',
        help='bounds between the size classes of objects, in pixels; default: 1024 9216',
    )
    parser.add_argument(
        '--square-metres', action='store_true', help='--sizes are square metres, not pixels'
    )
    parser.add_argument('--no-objects', action='store_true', help='leave the objects out')
    parser.add_argument('--overwrite', action='store_true', help='replace --out')
    args = parser.parse_args(argv)

    from mtkd_cd.core.errors import UserError
    from mtkd_cd.inference.evaluate import evaluate

    if args.out is not None:
        check_table_suffix(args.out)
        files = [args.prediction, args.label]
        check_not_read(args.out, [file for file in files if file and Path(file).is_file()])
        if args.out.exists() and not args.overwrite:
            raise UserError(f'{args.out} exists: choose another name, or pass --overwrite')
    evaluation = evaluate(
        args.prediction,
        args.label,
        tile=args.tile,
        ignore_index=args.ignore_index,
        sizes=args.sizes,
        sizes_in_m2=args.square_metres,
        with_objects=not args.no_objects,
    )
    print(evaluation.report())
    if args.out is None:
        return
    if args.out.suffix == '.csv':
        evaluation.table.save(args.out)
    else:
        with atomic_write(args.out) as file:
            json.dump(evaluation.as_dict(), file, indent=1)
    print(f'\nwritten to {args.out}')
