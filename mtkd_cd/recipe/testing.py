"""The test of a step, done once, and again only where weights, settings or data have changed."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process

from mtkd_cd.core.precision import FULL
from mtkd_cd.core.strategy import BEST, Strategy
from mtkd_cd.data.stamp import stamp_changes
from mtkd_cd.engine.config import check_exists, is_cascade, precision_of, starting_weights
from mtkd_cd.engine.inputs import set_test_data_to_validation
from mtkd_cd.engine.open_data import stamp_of_test_data
from mtkd_cd.engine.record import name_of, read_test_record, write_json
from mtkd_cd.engine.testing import run_test, set_provenance
from mtkd_cd.evaluation import ImageTable, load_table
from mtkd_cd.evaluation.metric import PREFIX
from mtkd_cd.recipe.steps import announce

TEST_RECORD = 'test.json'


def validation_table(cfg: Config, place: Path, strategy: Strategy, weights: Path) -> ImageTable:
    """Test on the validation split, unless it has been done before.

    Args:
        cfg: Config of a step.
        place: Folder for logs and the record; the per-image table goes beside it, ``<place>.json``.
        strategy: What is tested, for the table to say so.
        weights: What to test; a cascade brings its own.

    Returns:
        The per-image table.

    Raises:
        UserError: No validation split, or no weights.
    """
    set_test_data_to_validation(cfg)
    cfg.work_dir = str(place)
    table = place.with_name(f'{place.name}.json')
    run_test_once(cfg, table, strategy, weights=weights)
    return load_table(table)


def run_test_once(
    cfg: Config,
    table: Path,
    strategy: Strategy,
    show_dir: Path | None = None,
    weights: Path | None = None,
) -> None:
    """Test, unless these weights have been tested, and drawn to ``show_dir``, like this before.

    Args:
        cfg: Config of a step.
        table: Per-image table to write.
        strategy: What is tested, for the table to say so.
        show_dir: Folder for a picture of each image.
        weights: What to test; default: those of the work dir. A cascade brings its own.

    Raises:
        UserError: There are no weights to test, or the data are bad.
    """
    record_path = Path(cfg.work_dir) / TEST_RECORD
    record = read_test_record(record_path)
    pictures = None if show_dir is None else str(show_dir.resolve())
    drawn = show_dir is None or (show_dir.is_dir() and record.get('pictures') == pictures)
    if drawn and is_tested(cfg, table, weights):
        return
    stamp, data = _test_stamp(cfg, weights), stamp_of_test_data(cfg)
    _say_what_changed(cfg, record, stamp, data)
    start = time.monotonic()
    tested = None if is_cascade(cfg) else weights or Path(cfg.work_dir) / BEST
    cfg.work_dir = str(Path(cfg.work_dir) / 'test')
    set_provenance(cfg, strategy)
    metrics = run_test(cfg, tested, out=table, show_dir=show_dir, terse=True)
    # Reports give the scores of the tables, whatever other metrics a config has beside ours.
    own = f'{PREFIX}/'
    metrics |= {
        key.removeprefix(own): value for key, value in metrics.items() if key.startswith(own)
    }
    if is_main_process():
        for other in {'.json', '.csv'} - {table.suffix}:  # of the same test, in the other format
            table.with_suffix(other).unlink(missing_ok=True)
        write_json(
            record_path,
            dict(
                stamp=stamp,
                data=data,
                metrics=metrics,
                seconds=time.monotonic() - start,
                pictures=pictures,
            ),
        )
    barrier()


def is_tested(cfg: Config, table: Path, weights: Path | None = None) -> bool:
    """Whether the per-image table is that of a step's present weights, tested as its config says.

    Args:
        cfg: The step's config.
        table: Where the table is.
        weights: Other weights than those of the step's own training.

    Raises:
        UserError: There are no weights to test; names the command that makes them.
    """
    record = read_test_record(Path(cfg.work_dir) / TEST_RECORD)
    if not record or _test_stamp(cfg, weights) != record.get('stamp'):
        return False
    return table.is_file() and stamp_of_test_data(cfg) == record.get('data')


def _say_what_changed(
    cfg: Config, record: Mapping[str, Any], stamp: Any, data: dict[str, str]
) -> None:
    """Before a test is done again."""
    if not isinstance(record.get('data'), dict):
        return
    reasons = []
    if record.get('stamp') != stamp:
        reasons.append('its weights or its settings have changed')
    if text := stamp_changes(record['data'], data):
        reasons.append(f'its data have changed: {text}')
    if reasons:
        announce(f'tested again, in {cfg.work_dir}: {"; ".join(reasons)}')


def _test_stamp(cfg: Config, weights: Path | None) -> dict[str, Any]:
    own = [weights or Path(cfg.work_dir) / BEST]
    files = [Path(path) for path in starting_weights(cfg).values()] if is_cascade(cfg) else own
    for path in files:
        check_exists(path, str(path), cfg.filename)
    views = ('tta_model', 'tta_pipeline') if cfg.get('tta') else ()
    # A loop with more than its type, as fp16; means and deviations at the top of a config.
    more = [key for key in ('test_cfg', 'data_preprocessor') if len(cfg.get(key) or ()) > 1]
    keys = ('model', 'test_dataloader', 'test_evaluator', 'tta', *views, *more)
    test = {key: cfg.get(key) for key in keys}
    if (precision := precision_of(cfg)) != FULL:
        test['precision'] = precision
    return dict(
        test=json.dumps(test, default=name_of, sort_keys=True),
        weights=[[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
    )
