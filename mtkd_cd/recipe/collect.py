"""Scores, times and validation curves of all steps, collected from their records."""

import csv
import json
from collections.abc import Callable, Mapping
from typing import Any

from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.strategy import CURVES, Layout, Strategy
from mtkd_cd.core.text import csv_row
from mtkd_cd.engine import read_curve
from mtkd_cd.engine.record import file_digest, flat, read_record, read_test_record
from mtkd_cd.recipe.results import RecipeResults, StepTime
from mtkd_cd.recipe.steps import Step, steps_of
from mtkd_cd.recipe.testing import TEST_RECORD


def collect_results(layout: Layout) -> RecipeResults:
    """Read the metrics of every test and the time of every step from the records of all variants
    that have files. Tests that followed from another origin than is there now are left out."""
    results = RecipeResults(layout.model)
    is_outdated = _outdated_beside(layout)
    for step in steps_of(layout):
        place = step.place(layout)
        training = step.action == 'train'
        record = read_record(place) if training else read_test_record(place / TEST_RECORD)
        if record.get('seconds') is not None:
            results.times.append(
                StepTime(step.action, step.strategy, step.specialist, record['seconds'])
            )
        if record.get('metrics') and is_outdated(step, record):
            results.outdated.append(step.strategy)
        elif record.get('metrics'):
            results.metrics[step.strategy] = record['metrics']
    return results


def _outdated_beside(layout: Layout) -> Callable[[Step, Mapping[str, Any]], bool]:
    """What tells whether a test, by its record, followed from another origin than there is now, or
    was on other data or done otherwise than the origin's test."""
    weights = layout.weights(Strategy('origin'))
    digest = file_digest(weights) if weights.is_file() else None
    origin = read_test_record(weights.with_name(TEST_RECORD))
    data, stamps, way = origin.get('data'), _tested_weights(origin), _way_of_test(origin)

    def is_outdated(step: Step, record: Mapping[str, Any]) -> bool:
        started = read_record(step.place(layout)).get('settings', {})
        of_origin = {'continued': 'weights.start', 'mtkd': 'weights.student'}
        start = started.get(of_origin.get(step.strategy.kind, ''))
        of_record = _way_of_test(record)
        return (
            (start is not None and digest is not None and start != digest)
            or (data is not None and record.get('data', data) != data)
            or bool(way and of_record and way != of_record)
            or any(stamps.get(path, row) != row for path, row in _tested_weights(record).items())
        )

    return is_outdated


def _tested_weights(record: Mapping[str, Any]) -> dict[str, list]:
    """[path, size, time] of the files of a test, by path."""
    stamp = record.get('stamp')
    rows = stamp.get('weights') if isinstance(stamp, dict) else None
    rows = rows if isinstance(rows, list) else []
    return {str(row[0]): row for row in rows if isinstance(row, list) and row}


def _way_of_test(record: Mapping[str, Any]) -> dict[str, Any]:
    """What decides on the scores of a test beside its weights and the content of its data: how
    images are read and resized, views, metrics. Empty where a record does not tell."""
    stamp = record.get('stamp')
    text = stamp.get('test') if isinstance(stamp, dict) else None
    try:
        test = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return {}
    if not isinstance(test, dict):
        return {}
    data = test.get('test_dataloader') or {}
    keys = ('test_evaluator', 'test_cfg', 'tta', 'tta_pipeline', 'precision')
    return flat({'dataset': data.get('dataset'), **{key: test.get(key) for key in keys}})


def write_curves(layout: Layout) -> None:
    """The validation curves of all trainings, in one table."""
    steps = [step for step in steps_of(layout) if step.action == 'train']
    rows = [
        dict(
            strategy=step.strategy.text,
            range=step.specialist or '',
            iter=point['iter'],
            mIoU=point['mIoU'],
        )
        for step in steps
        for point in read_curve(step.place(layout) / 'curve.csv')
        if point.get('mIoU')  # which not every config validates
    ]
    with atomic_write(layout.report / CURVES) as file:
        writer = csv.DictWriter(file, ('strategy', 'range', 'iter', 'mIoU'), lineterminator='\n')
        writer.writeheader()
        writer.writerows(map(csv_row, rows))
