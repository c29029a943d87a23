"""Write a synthetic change-detection data set in JL1-CD's layout: seeded scenes that need no
download."""

import argparse
from collections.abc import Sequence

from mtkd_cd.data.synthetic import make_dataset


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('root', metavar='ROOT', help='folder to make')
    parser.add_argument('--num-train', type=int, default=24, help='pairs to train on')
    parser.add_argument(
        '--num-val',
        type=int,
        default=0,
        help='pairs to select checkpoints on; with 0 a tenth of the training pairs is held out '
        'later',
    )
    parser.add_argument('--num-test', type=int, default=8, help='pairs to test on')
    parser.add_argument(
        '--size', type=int, default=256, help='height and width of the scenes in pixels'
    )
    parser.add_argument('--seed', type=int, default=0, help='the same seed gives the same files')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a synthetic data set that is there'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    make_dataset(
        args.root,
        num_train=args.num_train,
        num_val=args.num_val,
        num_test=args.num_test,
        size=args.size,
        seed=args.seed,
        overwrite=args.overwrite,
        progress=True,
    )
    print(
        f'{args.num_train} train, {args.num_val} val and {args.num_test} test pairs of {args.size} '
        f'x {args.size} pixels in {args.root}'
    )
