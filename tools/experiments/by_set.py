"""Scores of an experiment over several data sets together: over all images and by set, strategy by
strategy, with the differences to the control seed by seed and their mean.

    python tools/experiments/by_set.py DIR/seed*/report/fc_siam_diff_10 --picture by_set.png
    python tools/experiments/by_set.py DIR/seed*/report/fc_siam_diff_10 --by car

Takes the folders of tables that ``mtkd-cd tables unpack`` writes, or those of a work dir. An
image's set is the first folder of its name; ``--by car`` takes the range of its label's CAR
instead, and images without change by themselves. Per image: the mean over images of the mIoU.
Pooled: F1 of the changed pixels, of all images together. Every figure is in percent.
"""

import argparse
import csv
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from mtkd_cd.core.strategy import CURVES, strategy_in, strategy_rank, strategy_title
from mtkd_cd.evaluation import ImageTable, load_table
from mtkd_cd.evaluation.scores import image_scores, pooled_scores, true_cars
from mtkd_cd.reporting.figures import styles

ALL = 'all'
SCORES = {'mIoU per image': 'mIoU', 'F1 pooled': 'F1'}


@dataclass(frozen=True)
class Score:
    """One table over one set.

    Attributes:
        images: How many.
        values: ``mIoU``, the mean over images, and ``F1`` of the changed pixels, pooled.
    """

    images: int
    values: Mapping[str, float]


def sets_of(table: ImageTable, by: str = 'set') -> dict[str, np.ndarray]:
    """(N,) bool by name: the images of each data set, or of each CAR range."""
    if by == 'set':
        names = np.array([file.partition('/')[0] for file in table.files])
        return {name: names == name for name in sorted(set(names))}
    cars = true_cars(table.counts)
    ranges = table.partition.range_of(cars)
    found = {'no change': cars == 0}
    for index, name in enumerate(table.partition.names):
        found[name] = (ranges == index) & (cars > 0)
    return {name: which for name, which in found.items() if which.any()}


def scores_by_set(table: ImageTable, by: str = 'set') -> dict[str, Score]:
    """The scores over all images, and over those of each set of :func:`sets_of`."""
    chosen = {ALL: np.ones(len(table), bool)} | sets_of(table, by)
    return {
        name: Score(
            int(which.sum()),
            {
                'mIoU': float(image_scores(table.counts[which])['mIoU'].mean()),
                'F1': pooled_scores(table.counts[which])['Fscore_changed'],
            },
        )
        for name, which in chosen.items()
    }


Found = dict[str, dict[int, dict[str, Score]]]  # by strategy, seed and set


def read(folders: Sequence[Path], by: str = 'set') -> Found:
    """The scores of all tables in the folders, whose paths hold ``seed<k>``."""
    found: Found = {}
    for folder in folders:
        seed = seed_of(folder)
        for path in sorted(folder.glob('*.json')):
            if strategy_in(path.stem):
                found.setdefault(path.stem, {})[seed] = scores_by_set(load_table(path), by)
    return dict(sorted(found.items(), key=lambda item: strategy_rank(item[0])))


def seed_of(folder: Path) -> int:
    """The seed in a path."""
    match = re.search(r'seed(\d+)', str(folder))
    return int(match[1]) if match else 0


def differences(found: Found, strategy: str, control: str, name: str, score: str) -> list[float]:
    """To the control, seed by seed, where there are both."""
    return [
        of_sets[name].values[score] - found[control][seed][name].values[score]
        for seed, of_sets in sorted(found[strategy].items())
        if seed in found[control]
    ]


def interval_text(values: Sequence[float]) -> str:
    """Their mean with the 95 % interval of Student's t; the mean alone of one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f'{mean:+.2f}'
    error = statistics.stdev(values) / len(values) ** 0.5
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return f'{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]'


def as_markdown(found: Found, control: str) -> str:
    """A table for each set."""
    first = next(iter(next(iter(found.values())).values()))
    parts = []
    for name in first:
        lines = [
            f'{name}, {first[name].images} images\n',
            '| | '
            + ' | '.join(f'{title} | to {control}, by seed | mean' for title in SCORES)
            + ' |',
            '|---' + '|---:|---|---' * len(SCORES) + '|',
        ]
        for strategy, of_seeds in found.items():
            cells = []
            for score in SCORES.values():
                values = [of_sets[name].values[score] for of_sets in of_seeds.values()]
                spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
                paired = differences(found, strategy, control, name, score)
                own = iter(paired)
                shown = ', '.join(
                    f'{next(own):+.2f}' if seed in of_seeds else '-'
                    for seed in sorted(found[control])
                    if strategy != control
                )
                mean = interval_text(paired) if strategy != control else ''
                cells += [f'{statistics.fmean(values):.2f}{spread}', shown, mean]
            lines.append(f'| {strategy_title(strategy)} | ' + ' | '.join(cells) + ' |')
        parts.append('\n'.join(lines) + '\n')
    return '\n'.join(parts)


def draw(found: Found, folders: Sequence[Path], control: str, path: Path) -> None:
    """Validation while training, and the differences of each score to the control by set, a dot per
    seed."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    colours = {strategy: look['color'] for strategy, look in styles(list(found)).items()}
    figure, (left, *others) = plt.subplots(1, 1 + len(SCORES), figsize=(13, 4.4))
    for folder in folders:
        curves: dict[str, list[tuple[int, float]]] = {}
        if (folder / CURVES).is_file():
            with (folder / CURVES).open(newline='') as file:
                for row in csv.DictReader(file):
                    if not row['range'] and row['strategy'] in colours:
                        point = (int(row['iter']), float(row['mIoU']))
                        curves.setdefault(row['strategy'], []).append(point)
        end = (curves.get('origin') or [(0, 0.0)])[-1][0]
        for strategy, points in curves.items():
            shift = 0 if strategy == 'origin' else end  # it starts from the origin's best weights
            x, y = zip(*((iteration + shift, value) for iteration, value in points))
            left.plot(x, y, 'o-', ms=4, lw=1.2, color=colours[strategy])
    for strategy, colour in colours.items():
        left.plot([], [], 'o-', ms=4, color=colour, label=strategy_title(strategy))
    left.legend(fontsize=8, loc='best')
    left.set(xlabel='iteration', ylabel='mIoU per image, validation (%)')
    left.set_title('while training, by seed', fontsize=10)
    compared = [strategy for strategy in found if strategy != control]
    names = list(next(iter(next(iter(found.values())).values())))
    for axis, (title, score) in zip(others, SCORES.items()):
        for place, strategy in enumerate(compared):
            for row, name in enumerate(names):
                own = differences(found, strategy, control, name, score)
                height = row + 0.8 * ((place + 0.5) / len(compared) - 0.5)
                axis.plot(own, [height] * len(own), 'o', ms=4, color=colours[strategy])
        axis.axvline(0, color='#999999', lw=0.8)
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_xlabel(f'{title}: difference to {control} (points)')
        axis.set_title('test, a dot per seed', fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print the tables, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folders', nargs='+', type=Path, help='.../seed<k>/report/MODEL')
    parser.add_argument('--control', default='continued')
    parser.add_argument('--by', choices=['set', 'car'], default='set', help='default: %(default)s')
    parser.add_argument('--picture', type=Path, help='file to draw to')
    args = parser.parse_args()
    found = read(args.folders, args.by)
    if args.control not in found:
        parser.error(f'no table {args.control}.json in {", ".join(map(str, args.folders))}')
    print(as_markdown(found, args.control))
    if args.picture:
        draw(found, args.folders, args.control, args.picture)


if __name__ == '__main__':
    main()
