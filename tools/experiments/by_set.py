"""Scores of an experiment over several data sets together: over all images and by set, strategy by
strategy, with the differences to the control seed by seed and their mean.

    python tools/experiments/by_set.py DIR/seed*/report/fc_siam_diff_10 --picture by_set.png
    python tools/experiments/by_set.py DIR/seed*/report/fc_siam_diff_10 --by car
    python tools/experiments/by_set.py DIR/seed*/report/{changer_mitb0,fc_ef} --picture models.png

Takes the folders of tables that ``mtkd-cd tables unpack`` writes, or those of a work dir. An
image's set is the first folder of its name; ``--by car`` takes the range of its label's CAR
instead, and images without change by themselves. Of several models: the tables of each, one of all
origins together, and a picture with a row for each model. Per image: the mean over images of the
mIoU. Pooled: F1 of the changed pixels, of all images together. Every figure is in percent.
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
from mtkd_cd.reporting.plotting import styles

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


def over_models(found: Mapping[str, Found], control: str) -> str:
    """A table of each strategy's differences to the control over the origins of all models."""
    lines = ['| | origins | ' + ' | '.join(f'{title} | ahead' for title in SCORES) + ' |']
    lines.append('|---|---:' + '|---|---:' * len(SCORES) + '|')
    strategies = {strategy for of_model in found.values() for strategy in of_model} - {control}
    for strategy in sorted(strategies, key=strategy_rank):
        cells = []
        for score in SCORES.values():
            values = [
                value
                for of_model in found.values()
                if strategy in of_model and control in of_model
                for value in differences(of_model, strategy, control, ALL, score)
            ]
            cells += [interval_text(values), str(sum(value > 0 for value in values))]
        lines.append(f'| {strategy_title(strategy)} | {len(values)} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def draw_models(
    found: Mapping[str, Found], folders: Sequence[Path], control: str, path: Path
) -> None:
    """Validation of the origins while training, and the differences of each score to the control
    over all images, a row for each model and a dot per seed; what lies far out is drawn at the
    edge, with its value."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    compared = {strategy for of_model in found.values() for strategy in of_model} - {control}
    looks = styles(sorted(compared | {control}, key=strategy_rank))
    figure, (left, *others) = plt.subplots(1, 1 + len(SCORES), figsize=(15, 1.6 + 1.1 * len(found)))
    colours = dict(zip(found, plt.get_cmap('Dark2').colors))
    for folder in folders:
        points = curves_of(folder).get('origin')
        if points:
            left.plot(*zip(*points), 'o-', ms=3, lw=1, color=colours[folder.name])
    for model, colour in colours.items():
        left.plot([], [], 'o-', ms=3, color=colour, label=model)
    left.legend(fontsize=8)
    left.set(xlabel='iteration', ylabel='mIoU per image, validation (%)')
    left.set_title('origins while training, a line per seed', fontsize=10)
    for axis, (title, score) in zip(others, SCORES.items()):
        shown = {
            (model, strategy): differences(of_model, strategy, control, ALL, score)
            for model, of_model in found.items()
            for strategy in of_model
            if strategy != control and control in of_model
        }
        sizes = [abs(value) for own in shown.values() for value in own]
        limit = 1.6 * float(np.quantile(sizes, 0.85)) or 1.0
        for row, (model, of_model) in enumerate(found.items()):
            own = [strategy for strategy in of_model if strategy != control]
            for place, strategy in enumerate(own):
                height = row + 0.8 * ((place + 0.5) / len(own) - 0.5)
                look = dict(color=looks[strategy]['color'], ms=5)
                values = shown.get((model, strategy), ())
                for value in values:
                    if abs(value) <= limit:
                        axis.plot(value, height, looks[strategy]['marker'], **look)
                for side, mark in ((-1, '<'), (1, '>')):
                    far = [f'{value:+.0f}' for value in values if side * value > limit]
                    if far:
                        axis.plot(side * limit, height, mark, **look)
                        axis.annotate(
                            ', '.join(far),
                            (side * limit, height),
                            xytext=(-6 * side, 0),
                            textcoords='offset points',
                            ha='right' if side > 0 else 'left',
                            va='center',
                            fontsize=7,
                        )
            axis.axhline(row + 0.5, color='#dddddd', lw=0.8)
        axis.axvline(0, color='#999999', lw=0.8)
        axis.set_xlim(-1.1 * limit, 1.1 * limit)
        axis.set_yticks(range(len(found)), list(found) if axis is others[0] else [])
        axis.set_ylim(len(found) - 0.5, -0.5)
        axis.set_xlabel(f'{title}: difference to {control} (points)')
        axis.set_title('test, a dot per seed', fontsize=10)
    handles = [
        plt.Line2D([], [], **{**looks[strategy], 'linestyle': ''}, label=title)
        for strategy in sorted(compared, key=strategy_rank)
        for title in [strategy_title(strategy)]
    ]
    figure.legend(handles=handles, loc='lower center', ncols=len(handles), fontsize=8)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def curves_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(iteration, validation mIoU) by strategy, without those of the specialists."""
    curves: dict[str, list[tuple[int, float]]] = {}
    if (folder / CURVES).is_file():
        with (folder / CURVES).open(newline='') as file:
            for row in csv.DictReader(file):
                if not row['range']:
                    point = (int(row['iter']), float(row['mIoU']))
                    curves.setdefault(row['strategy'], []).append(point)
    return curves


def draw(found: Found, folders: Sequence[Path], control: str, path: Path) -> None:
    """Validation while training, and the differences of each score to the control by set, a dot per
    seed."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    colours = {strategy: look['color'] for strategy, look in styles(list(found)).items()}
    figure, (left, *others) = plt.subplots(1, 1 + len(SCORES), figsize=(13, 4.4))
    for folder in folders:
        curves = {name: own for name, own in curves_of(folder).items() if name in colours}
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
    folders: dict[str, list[Path]] = {}
    for folder in args.folders:
        folders.setdefault(folder.name, []).append(folder)
    found = {model: read(own, args.by) for model, own in folders.items()}
    for model, of_model in found.items():
        if args.control not in of_model:
            parser.error(f'no table {args.control}.json in {", ".join(map(str, folders[model]))}')
        if len(found) > 1:
            print(f'## {model}\n')
        print(as_markdown(of_model, args.control))
    if len(found) > 1:
        print(f'## All models, differences to {args.control}\n\n{over_models(found, args.control)}')
    if args.picture and len(found) > 1:
        draw_models(found, args.folders, args.control, args.picture)
    elif args.picture:
        draw(next(iter(found.values())), args.folders, args.control, args.picture)


if __name__ == '__main__':
    main()
