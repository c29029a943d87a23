"""Parameters and FLOPs of a config's detector, or of all 21, beside the paper's (arXiv:2502.13407,
table 6).

Counted for one pair of images, without auxiliary heads. Of an MTKD config
the student is counted: the teachers cost nothing at test time.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtkd_cd.cli.common import at_least
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.paper.published import published_models


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line per model as soon as it is counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='*', help='for instance configs/origin/changer_mitb0.py')
    parser.add_argument('--all', action='store_true', help='the 21 benchmark models')
    parser.add_argument(
        '--shape',
        nargs='+',
        type=at_least(1),
        default=[512, 512],
        metavar='SIDE',
        help='height and width, or one side',
    )
    args = parser.parse_args(argv)

    from mtkd_cd.analysis.complexity import count_complexity, published_complexity
    from mtkd_cd.engine.config import load_config

    paths = (
        [CONFIGS / 'origin' / f'{name}.py' for name in published_models()]
        if args.all
        else [Path(path) for path in args.config]
    )
    if not paths:
        parser.error('name a config, or --all')
    if len(args.shape) > 2:
        parser.error('--shape takes a height and a width')
    shape = (args.shape[0], args.shape[-1])

    print(f'{"":24}  parameters (M)       FLOPs (G) at {shape[0]} x {shape[1]}')
    print(f'{"model":24}{"here":>10}{"paper":>10}{"here":>12}{"paper":>12}')
    different = []
    for path in paths:
        found = count_complexity(load_config(path).model, shape)
        paper = published_complexity(path.stem)
        line = f'{path.stem:24}{found.parameters:10.3f}'
        line += f'{paper.parameters:10.3f}' if paper else f'{"-":>10}'
        comparable = paper is not None and shape == (512, 512)
        line += f'{found.flops:12.3f}' + (
            f'{paper.flops:12.3f}' if paper and comparable else f'{"-":>12}'
        )
        print(line, flush=True)
        if (
            paper
            and comparable
            and (round(found.parameters, 3), round(found.flops, 3))
            != (paper.parameters, paper.flops)
        ):
            different.append(path.stem)
    if different:
        raise UserError(f'other figures than the paper for {", ".join(different)}')
