"""Rewrite one of Open-CD's configs for this package: scope, distilling detectors, data folders."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write, check_not_read


def main(argv: Sequence[str] | None = None) -> None:
    """Write the new config, or print it; say on stderr what was changed and what was not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', metavar='CONFIG', help='a config written for Open-CD')
    parser.add_argument('-o', '--out', type=Path, metavar='FILE', help='default: print it')
    parser.add_argument('--overwrite', action='store_true', help='replace FILE if it exists')
    args = parser.parse_args(argv)

    from mtkd_cd.opencd.migrate import migrate_config

    if args.out is not None and args.out.exists() and not args.overwrite:
        raise UserError(f'{args.out} exists: choose another name, or pass --overwrite')
    if args.out is not None:
        check_not_read(args.out, [args.config], 'settings')
    migration = migrate_config(args.config)
    text = migration.cfg.pretty_text
    if args.out is None:
        print(text)
    else:
        with atomic_write(args.out) as file:
            file.write(f'# Rewritten from {args.config} by mtkd-cd migrate.\n{text}')
    print(migration.text(), file=sys.stderr)
    if args.out is not None:
        command = shlex.join(['mtkd-cd', 'train', str(args.out)])
        first = (
            'Change by hand what could not be changed, then train' if migration.left else 'Train'
        )
        print(f'written to {args.out}. {first} it with: {command}', file=sys.stderr)
