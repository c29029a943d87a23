"""Pack the per-image tables of an experiment into one compressed file, or unpack such a file."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> None:
    """Pack or unpack."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    packing = commands.add_parser('pack', help='tables, with their validation curves, to one file')
    packing.add_argument(
        'runs', nargs='+', metavar='[LABEL=]RUN', help='tables, or folders of tables, as in compare'
    )
    packing.add_argument(
        '--out', type=Path, required=True, help='file to write: .csv.gz or .csv.xz'
    )
    packing.add_argument('--dataset', help='name of the data set, for tables that do not say')
    unpacking = commands.add_parser('unpack', help='a file back into [seed<k>/]report/MODEL/')
    unpacking.add_argument('archive', type=Path, help='file that pack wrote')
    unpacking.add_argument('--out', type=Path, required=True, help='folder to write to')
    unpacking.add_argument(
        '--format',
        choices=('json', 'csv'),
        default='json',
        help='of the tables (default: %(default)s)',
    )
    args = parser.parse_args(argv)

    from mtkd_cd.reporting.archive import pack, unpack
    from mtkd_cd.reporting.collect import collect_runs

    if args.command == 'pack':
        runs = collect_runs(args.runs).runs
        pack(runs, args.out, args.dataset)
        print(f'{len(runs)} tables packed into {args.out}')
    else:
        tables = unpack(args.archive, args.out, f'.{args.format}')
        print(f'{len(tables)} tables unpacked into {args.out}')
