"""One synthetic scene, and whole data sets of them in JL1-CD's layout: the same bytes on every
run."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import MANIFEST, OutputFolder, atomic_folder
from mtkd_cd.data.layout import SPLITS
from mtkd_cd.data.synthetic.changes import make_pair
from mtkd_cd.data.synthetic.render import random_looks, render

MIN_SIZE = 64
MAX_CAR = 0.9
_MIN_CHANGED_CAR = 0.002
_KIND = 'synthetic scenes'
_GOLDEN_RATIO = (5**0.5 - 1) / 2


def make_scene(
    rng_or_seed: np.random.Generator | int | Sequence[int], size: int = 256, target_car: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A place at two dates, about one metre per pixel, and what changed.

    Between the dates buildings and roads appear, buildings vanish, woods are cleared, land is
    developed or flooded: that is change. Season, light, haze, shadows, cars, noise and a
    misregistration of less than a pixel are not; the label has the geometry of date A.

    Args:
        rng_or_seed: A generator, or a seed for one.
        size: Height and width in pixels.
        target_car: Share of changed pixels, in [0, 0.9]; the label has it to within a pixel.

    Returns:
        A and B, (size, size, 3) uint8 RGB, and the label, (size, size) uint8 of 0 and 255.

    Raises:
        UserError: A size that is no whole number of at least 64, a CAR outside [0, 0.9].
    """
    _check_size(size)
    if not 0 <= target_car <= MAX_CAR:
        raise UserError(
            f'target_car={target_car!r}: the share of changed pixels of a synthetic scene lies '
            f'between 0 and {MAX_CAR}'
        )
    rng = np.random.default_rng(rng_or_seed)
    terrain, before, after = make_pair(rng, size, target_car)
    look_a, look_b = random_looks(rng, size)
    label = (before.cover != after.cover).astype(np.uint8) * 255
    return render(terrain, before, look_a), render(terrain, after, look_b), label


def target_cars(count: int, rng: np.random.Generator) -> np.ndarray:
    """CARs for ``count`` scenes: a twelfth of them (at least one of four) exactly 0, the others one
    per stratum of log CAR in [0.002, 0.9].

    The order is that of a golden-ratio sequence, so that any run of neighbours spreads over the
    range as well.
    """
    unchanged = max(round(count / 12), int(count >= 4))
    changed = count - unchanged
    # The middle half of each stratum: no gap is wider than one and a half strata.
    share = (np.arange(changed) + rng.uniform(0.25, 0.75, changed)) / max(changed, 1)
    cars = np.concatenate(
        [np.zeros(unchanged), _MIN_CHANGED_CAR * (MAX_CAR / _MIN_CHANGED_CAR) ** share]
    )
    return cars[np.argsort(np.argsort(np.arange(count) * _GOLDEN_RATIO % 1))]


def make_dataset(
    root: str | os.PathLike,
    num_train: int = 24,
    num_val: int = 0,
    num_test: int = 8,
    size: int = 256,
    seed: int = 0,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Write a data set of synthetic scenes in JL1-CD's layout:
    ``<root>/<split>/{A,B,label}/00000.png``, labels of 0 and 255.

    The folder appears when all of it is written. The same arguments give the same bytes. The CARs
    are those of ``target_cars``.

    Args:
        root: The folder to make. It may exist if it is empty.
        num_train, num_val, num_test: Pairs per split; a split of none gets no folder.
        size: Height and width in pixels.
        seed: Of everything.
        overwrite: Replace a data set that is there.
        progress: Show a progress bar.

    Raises:
        UserError: ``root`` holds files; a number of pairs or seed below 0, no pair at all; a size
            as ``make_scene`` refuses it.
    """
    _check_size(size)
    counts = dict(zip(SPLITS, (num_train, num_val, num_test)))
    for name, number in {
        **{f'num_{split}': count for split, count in counts.items()},
        'seed': seed,
    }.items():
        if number < 0:
            raise UserError(f'{name}={number}: give a whole number from 0 up')
    if not any(counts.values()):
        raise UserError('num_train, num_val and num_test are all 0: ask for at least one pair')
    root = Path(root).resolve()
    _check_target(root, overwrite)
    with (
        atomic_folder(root) as building,
        tqdm(
            total=sum(counts.values()), unit='pair', desc='synthetic scenes', disable=not progress
        ) as bar,
    ):
        for index, (split, count) in enumerate(counts.items()):
            if count:
                OutputFolder(building, _KIND).note(split)
            for number, car in enumerate(target_cars(count, np.random.default_rng([seed, index]))):
                scene = make_scene([seed, index, number], size, float(car))
                for folder, picture in zip(('A', 'B', 'label'), scene):
                    _write_png(building / split / folder / f'{number:05d}.png', picture)
                bar.update()


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < MIN_SIZE:
        raise UserError(
            f'size={size!r}: synthetic scenes are square; give their edge as one whole number, at '
            f'least {MIN_SIZE} pixels'
        )


def _check_target(root: Path, overwrite: bool) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise UserError(f'{root} is a file: name a folder that does not exist yet')
    entries = {entry.name for entry in root.iterdir()}
    if entries and not overwrite:
        raise UserError(
            f'{root} is not empty: name another folder, or ask to overwrite it (--overwrite)'
        )
    # Overwriting deletes: nothing but what this module has written may be in there.
    if foreign := sorted(entries - OutputFolder(root, _KIND).noted - {MANIFEST}):
        raise UserError(
            f'{root} holds {foreign[0]!r}, which was not made by this tool: it is not overwritten; '
            'name another folder, or move it away'
        )


def _write_png(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        cv2.imencode('.png', picture[..., ::-1] if picture.ndim == 3 else picture)[1].tobytes()
    )
