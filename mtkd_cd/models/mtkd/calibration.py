"""Choosing a routing from a validation split: who teaches which range, and who predicts where, by
what they score there."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation.image_table import ImageTable
from mtkd_cd.evaluation.scores import image_scores, predicted_cars, true_cars
from mtkd_cd.models.mtkd.routing import ORIGIN, Routing, ranges_between

MIN_IMAGES = 5
NUM_FOLDS = 5
_DECIMALS = 9  # sums of mIoU that differ by less are equal

# Cuts on the predicted CAR and, for each range that they make, the row of its detector in the
# scores.
_Plan = tuple[tuple[float, ...], tuple[int, ...]]
_ORIGIN_ALONE: _Plan = ((), (0,))


def calibrate_routing(
    tables: Mapping[str, ImageTable], partition: CARPartition, min_images: int = MIN_IMAGES
) -> Routing:
    """Assign detectors to ranges by their mean mIoU on a validation split.

    *Teachers.* A range of the true CAR is taught by the detector of the best mean mIoU on its
    images. *Cascade.* The images, sorted by the CAR that the origin predicts, are cut into at most
    as many ranges as the partition has. Dynamic programming finds the cuts and detectors with the
    largest mean mIoU, exactly. More ranges always fit a split better, so their number (0: the
    origin alone) is the smallest of those with the best mIoU in a cross-validation over
    :data:`NUM_FOLDS` folds.

    In both, the origin stays where no specialist is strictly better, and no specialist serves a
    range of fewer than ``min_images`` images. The result depends on nothing but the tables.

    Args:
        tables: Per-image tables of the *whole* validation split: the origin's under ``'origin'``
            and each specialist's under its range.
        partition: Ranges that the specialists were trained on.
        min_images: The least number of images that a choice may rest on.

    Returns:
        The routing. Its evidence holds, in percent: the mean mIoU of every candidate in each range,
        with the number of images (``teachers``, ``cascade``); the cross-validated mIoU by number of
        ranges; and the mIoU on the split of the origin, of the paper's routing (``car``) and of
        this one (``validated``).

    Raises:
        UserError: A table is missing, one too many, empty, or of other images than the origin's;
            ``min_images`` below 1.
    """
    if min_images < 1:
        raise UserError(f'min_images={min_images}: a choice rests on one image at least')
    scores = _scores_by_detector(tables, partition)
    names = (ORIGIN, *partition.names)
    counts = tables[ORIGIN].counts
    true_ranges, cars = partition.range_of(true_cars(counts)), predicted_cars(counts)
    members = [np.flatnonzero(true_ranges == index) for index in range(len(partition))]
    teachers = [
        _best_teacher(scores[:, rows], index + 1, min_images) for index, rows in enumerate(members)
    ]
    cross_validated = _cross_validate(cars, scores, partition, min_images)
    plan = _plans(cars, scores, partition, min_images)[int(np.argmax(cross_validated))]
    cuts, detectors = plan
    paper = (partition.thresholds, tuple(range(1, len(names))))
    served = ranges_between(cuts, cars)
    routed = {'origin': _ORIGIN_ALONE, 'car': paper, 'validated': plan}
    evidence = {
        'images': len(cars),
        'min_images': min_images,
        'teachers': {
            name: _evidence(names, scores[:, rows]) for name, rows in zip(partition.names, members)
        },
        'cascade': [
            _evidence(names, scores[:, served == index]) for index in range(len(detectors))
        ],
        'cross_validated_mIoU': [_rounded(value) for value in cross_validated],
        'mIoU': {name: _rounded(_served(one, scores, cars).mean()) for name, one in routed.items()},
    }
    return Routing(
        partition,
        tuple(names[row] for row in teachers),
        cuts,
        tuple(names[row] for row in detectors),
        evidence,
    )


def _scores_by_detector(tables: Mapping[str, ImageTable], partition: CARPartition) -> np.ndarray:
    """(1 + ranges, N) mIoU of the origin, then of each specialist, on the origin's images in their
    order."""
    names = (ORIGIN, *partition.names)
    if set(tables) != set(names):
        raise UserError(
            f'per-image tables are given for {", ".join(tables) or "nothing"}: one is needed for '
            f'each of {", ".join(names)}'
        )
    files = tables[ORIGIN].files
    if not files:
        raise UserError('the validation tables hold no image: a routing needs a validation split')
    scores = []
    for name in names:
        position = {file: row for row, file in enumerate(tables[name].files)}
        rows = [position[file] for file in files if file in position]
        if not len(rows) == len(position) == len(files) or not _same_labels(
            tables[name].counts[rows], tables[ORIGIN].counts
        ):
            raise UserError(
                f"the table of {name} ({len(position)} images) is not of the origin's {len(files)} "
                'images: test every detector on the '
                'whole validation split'
            )
        scores.append(image_scores(tables[name].counts[rows], tables[name].zero_division)['mIoU'])
    return np.stack(scores)


def _same_labels(counts: np.ndarray, others: np.ndarray) -> bool:
    """Whether the valid and the changed pixels of each image are as many."""
    return all(
        np.array_equal(a.sum(1), b.sum(1))
        for a, b in ((counts, others), (counts[:, [0, 2]], others[:, [0, 2]]))
    )


def _best_teacher(scores: np.ndarray, own: int, min_images: int) -> int:
    """The row of the best detector on the images of a range; among equals the origin, then the
    range's own specialist."""
    if scores.shape[1] < min_images:
        return 0
    gains = (scores - scores[0]).mean(1).round(_DECIMALS)
    best = gains.max()
    return next(row for row in (0, own, *range(len(gains))) if gains[row] == best)


def _plans(
    cars: np.ndarray, scores: np.ndarray, partition: CARPartition, min_images: int
) -> list[_Plan]:
    """The best plan with at most 0, 1, ..., ``len(partition)`` ranges of predicted CAR.

    Dynamic programming: ``best[r, j]`` is the largest gain over the origin on the j images of the
    smallest CARs, cut into r ranges.
    """
    order = np.argsort(cars, kind='stable')
    cars, gains = cars[order], (scores - scores[0])[:, order]
    sums = np.concatenate([np.zeros((len(gains), 1)), gains.cumsum(1)], 1)  # (D, N + 1)
    best = np.full((len(partition) + 1, len(cars) + 1), -np.inf)
    start = np.zeros(best.shape, int)
    best[0, 0] = 0
    for end in range(min_images, len(cars) + 1):
        if end < len(cars) and cars[end - 1] == cars[end]:
            continue  # no threshold separates these two
        gain = (sums[:, end, None] - sums[:, : end - min_images + 1]).max(0).round(_DECIMALS)
        for number in range(1, len(best)):
            total = best[number - 1, : len(gain)] + gain
            start[number, end] = total.argmax()
            best[number, end] = total.max()
    plans = [_ORIGIN_ALONE]
    total = 0.0
    for number in range(1, len(best)):
        if best[number, -1] > total + 10**-_DECIMALS:
            total = best[number, -1]
            plans.append(_plan(cars, sums, start, number, partition))
        else:
            plans.append(plans[-1])
    return plans


def _plan(
    cars: np.ndarray, sums: np.ndarray, start: np.ndarray, number: int, partition: CARPartition
) -> _Plan:
    """Walk back through ``start``; neighbours with the same detector become one range."""
    edges = [len(cars)]
    for left in range(number, 0, -1):
        edges.insert(0, int(start[left, edges[0]]))
    detectors = [
        int((sums[:, high] - sums[:, low]).round(_DECIMALS).argmax())
        for low, high in itertools.pairwise(edges)
    ]
    changes = [index for index in range(1, number) if detectors[index] != detectors[index - 1]]
    cuts = tuple(_cut(cars[edges[index] - 1], cars[edges[index]], partition) for index in changes)
    return cuts, tuple(detectors[index] for index in (0, *changes))


def _cut(low: float, high: float, partition: CARPartition) -> float:
    """A threshold between two images: one of the partition's own where there is one, else the
    middle."""
    below = partition.range_of(float(low))
    return (
        partition.thresholds[below]
        if below < partition.range_of(float(high))
        else float((low + high) / 2)
    )


def _cross_validate(
    cars: np.ndarray, scores: np.ndarray, partition: CARPartition, min_images: int
) -> np.ndarray:
    """(1 + ranges,) mean mIoU by number of ranges, each image served by the plan of the other
    folds. Every fold spans the CARs."""
    fold = np.empty(len(cars), int)
    fold[np.argsort(cars, kind='stable')] = np.arange(len(cars)) % NUM_FOLDS
    held_out = np.empty((len(partition) + 1, len(cars)))
    for index in range(NUM_FOLDS):
        inside, outside = fold == index, fold != index
        for number, plan in enumerate(
            _plans(cars[outside], scores[:, outside], partition, min_images)
        ):
            held_out[number, inside] = _served(plan, scores[:, inside], cars[inside])
    return held_out.mean(1).round(_DECIMALS)


def _served(plan: _Plan, scores: np.ndarray, cars: np.ndarray) -> np.ndarray:
    """(N,) mIoU of the detectors that a plan chooses."""
    cuts, detectors = plan
    return scores[np.array(detectors)[ranges_between(cuts, cars)], np.arange(len(cars))]


def _evidence(names: tuple[str, ...], scores: np.ndarray) -> dict[str, Any]:
    number = scores.shape[1]
    means = {name: _rounded(values.mean()) for name, values in zip(names, scores)} if number else {}
    return {'images': number, 'mIoU': means}


def _rounded(value: float) -> float:
    return round(float(value), 4)
