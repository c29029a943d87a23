"""Compare runs from their per-image tables: one HTML report, the same as Markdown, figures, CSV and
LaTeX tables. No GPU, no model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtkd_cd.cli.common import at_least
from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.text import counted
from mtkd_cd.data.layout import SPLITS
from mtkd_cd.drawing.quick_start import import_matplotlib_quickly
from mtkd_cd.evaluation.statistics import CONFIDENCE, NUM_RESAMPLES


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='[LABEL=]RUN',
        help='per-image table (.json, .csv), archive of tables (.csv.gz, .csv.xz), or folder of '
        'tables: .../[seed<k>/][report/]MODEL/STRATEGY.csv; the first run is the reference. LABEL: '
        '[MODEL/]STRATEGY[/seed<k>] of a table, or what goes before the strategies of a folder',
    )
    parser.add_argument('--out', type=Path, required=True, help='folder of the report')
    parser.add_argument(
        '--reference',
        nargs='+',
        default=[],
        metavar='STRATEGY',
        help='compare with these, or MODEL/STRATEGY, as well',
    )
    parser.add_argument(
        '--common',
        action='store_true',
        help='compare on the images that all runs have, where they differ',
    )
    parser.add_argument(
        '--only',
        metavar='PATTERN',
        help="compare only images whose names match: 'levir/*', one of several data sets",
    )
    parser.add_argument(
        '--thresholds',
        nargs='+',
        type=float,
        help='CAR thresholds (default: of the first JSON table, else 0.05 0.2)',
    )
    parser.add_argument(
        '--bins',
        type=at_least(1),
        default=5,
        help='bins of equally many images (default: %(default)s)',
    )
    parser.add_argument(
        '--zero-division',
        type=float,
        help='score of 0 / 0 that CSV tables were written with (1), and that all runs get',
    )
    parser.add_argument(
        '--resamples',
        type=at_least(1),
        default=NUM_RESAMPLES,
        help='resamples of bootstrap and test (default: %(default)s)',
    )
    parser.add_argument(
        '--confidence',
        type=float,
        default=CONFIDENCE,
        help='confidence of the intervals (default: %(default)s)',
    )
    parser.add_argument(
        '--dataset',
        metavar='NAME',
        help='name of the evaluated data set; JL1-CD and SYSU-CD have published figures',
    )
    images = parser.add_mutually_exclusive_group()
    images.add_argument(
        '--data-root',
        help='data set of the images: thumbnails, and the CAR distribution of its splits',
    )
    images.add_argument(
        '--images',
        nargs='+',
        metavar='FOLDER',
        help='folders of date A, date B and, if there are any, labels',
    )
    parser.add_argument(
        '--split',
        choices=SPLITS,
        default='test',
        help='split of --data-root that was evaluated (default: %(default)s)',
    )
    parser.add_argument(
        '--dataset-type',
        default='CDDataset',
        help='data set class that knows the folders of --data-root',
    )
    parser.add_argument(
        '--show-dirs',
        nargs='+',
        default=[],
        metavar='[RUN=]FOLDER',
        help='predictions, as mtkd-cd recipe --show-dir has them',
    )
    parser.add_argument(
        '--num-images',
        type=at_least(0),
        default=5,
        help='images to show that gained most, and that lost most (default: %(default)s)',
    )
    parser.add_argument(
        '--png', action='store_true', help='write the figures as PNG too, for text processors'
    )
    args = parser.parse_args(argv)
    if args.images and len(args.images) not in (2, 3):
        parser.error(
            '--images takes the folders of date A and date B, and of the labels if there are any'
        )
    if args.show_dirs and not (args.data_root or args.images):
        parser.error('--show-dirs needs --data-root or --images')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Load, compare, write."""
    args = _parse(argv)

    import_matplotlib_quickly()
    from mtkd_cd.reporting import (
        Pictures,
        Settings,
        aligned,
        build_report,
        collect_runs,
        compare,
        restricted,
    )

    if with_images := bool(args.data_root or args.images):
        from mtkd_cd.reporting.thumbnails import (
            check_scenes,
            find_predictions,
            read_data_set,
            read_folders,
        )

        if args.data_root:
            scenes, cars = read_data_set(args.data_root, args.split, args.dataset_type)
        else:
            scenes, cars = read_folders(*args.images), {}
    found = collect_runs(args.runs, args.thresholds, args.zero_division)
    wanted = restricted(found.runs, args.only) if args.only else found.runs
    runs = aligned(wanted, args.common)
    if with_images:
        check_scenes(scenes, runs[0].table.files)
    partition = CARPartition(args.thresholds) if args.thresholds else None
    comparison = compare(
        runs, partition, args.reference, Settings(args.resamples, args.confidence), args.bins
    )
    pictures = Pictures()
    if with_images:
        predictions = find_predictions(args.show_dirs, comparison.entries)
        pictures = Pictures(scenes, cars, predictions)
    dropped = len(set().union(*(run.table.files for run in wanted))) - len(comparison.files)
    report = build_report(
        comparison,
        pictures,
        args.dataset,
        args.num_images,
        found.ignored,
        dropped,
        found.curves,
    )
    shown = [args.data_root, *(args.images or ())]
    report.write(args.out, [folder for folder in shown if folder], args.png)
    print(report.facts, *report.summary, *report.notes, sep='\n')
    if found.ignored:
        path, reason = found.ignored[0]
        count = counted(len(found.ignored), 'file')
        print(f'left out: {count}, listed under Sources. The first: {path}: {reason}')
    print(f'written to {args.out / "report.html"}')
