"""Rewrite published weights in the names of our models: OpenAI's CLIP, segment-anything, the TinyCD
authors' checkpoints."""

import argparse
from collections.abc import Sequence

from mtkd_cd.models.conversion import LAYOUTS, convert_weights


def main(argv: Sequence[str] | None = None) -> None:
    """Convert a file and print what to do with the new one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', metavar='SRC', help='the published file')
    parser.add_argument('destination', metavar='DST', help='the file to write')
    parser.add_argument(
        '--from',
        dest='layout',
        choices=LAYOUTS,
        help='what SRC is; default: found by the names of its tensors',
    )
    args = parser.parse_args(argv)

    layout = LAYOUTS[convert_weights(args.source, args.destination, args.layout)]
    print(
        f'{args.source} is {layout.title}; written to {args.destination}. Use it with:\n  {layout.use.format(path=args.destination)}'
    )
