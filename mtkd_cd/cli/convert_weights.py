"""Rewrite published weights in the names of our models: OpenAI's CLIP, segment-anything, the TinyCD
authors' checkpoints; and take the detectors out of a file of Open-CD's MTKD training."""

import argparse
import shlex
from collections.abc import Sequence

from mtkd_cd.cli.common import add_trust_argument
from mtkd_cd.models.conversion import LAYOUTS, convert_weights

OPENCD = 'opencd-mtkd'


def main(argv: Sequence[str] | None = None) -> None:
    """Convert a file and print what to do with the new one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', metavar='SRC', help='the published file')
    parser.add_argument(
        'destination', metavar='DST', help='the file to write; for opencd-mtkd the folder'
    )
    parser.add_argument(
        '--from',
        dest='layout',
        choices=(*LAYOUTS, OPENCD),
        help='what SRC is; default: found by the names of its tensors',
    )
    add_trust_argument(parser)
    args = parser.parse_args(argv)

    from mtkd_cd.core.checkpoint import read_weights
    from mtkd_cd.opencd.checkpoints import convert_distilled, is_distilled

    if args.layout == OPENCD or (args.layout is None and is_distilled(read_weights(args.source))):
        files = convert_distilled(args.source, args.destination)
        print(f"{args.source} is of Open-CD's MTKD training; written:")
        for name, path in files.items():
            print(f'  {name}: {path}')
        student = shlex.quote(str(files['student']))
        print(f'Test the student with: mtkd-cd test CONFIG {student}')
        return
    layout = LAYOUTS[convert_weights(args.source, args.destination, args.layout)]
    print(
        f'{args.source} is {layout.title}; written to {args.destination}. Use it with:\n'
        f'  {layout.use.format(path=shlex.quote(str(args.destination)))}'
    )
