"""``run.json``: what a work dir holds, so that a run resumes only with the settings it started
with."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.text import some
from mtkd_cd.data.stamp import stamp_changes
from mtkd_cd.engine.config import is_type
from mtkd_cd.evaluation.scores import MEAN_NAMES

FILENAME = 'run.json'
DATA = 'data.json'  # beside it: digests of the files that the run learned from
_SHOWN_DIFFERENCES = 8
# What makes a training run what it is, and what of that may differ between two sittings of one run:
# machine and places.
_SETTINGS = (
    'train_cfg',
    'randomness',
    'train_dataloader',
    'model',
    'optim_wrapper',
    'param_scheduler',
    'val_dataloader',
)
_FREE = (
    *('num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor', 'timeout'),
    *('data_root', 'checkpoints', 'routing_file', 'out_file', 'backend_args'),
    *('cache', 'cache_gib', 'teacher_batching', 'collect_device', 'collect_dir'),
)
# Fields of a record that others rely on.
_FIELDS: dict[str, tuple[type, ...]] = {
    'finished': (bool,),
    'seconds': (int, float, type(None)),
    'score': (int, float, type(None)),
    'iter': (int,),
    'metric': (str,),
    'seed': (int,),
}
_KEPT = 'best_weights.'
_PREPROCESSOR = 'data_preprocessor'  # at the top of a config, for models without one
_AUTO_SCALE = 'auto_scale_lr'  # mmengine's, of the learning rate with the batch
# Compared where both sides have them: what is added once the data, and the weights that a run
# starts from, are there; and what records of earlier versions lack.
_KNOWN_LATER = ('data.', 'weights.', _KEPT, _PREPROCESSOR)


def settings_of(cfg: Config) -> dict[str, Any]:
    """The settings that determine a training run's result, flat: ``{'train_cfg.max_iters': 200000,
    ...}``."""
    chosen = {key: cfg.get(key) for key in _SETTINGS} | {'processes': get_world_size()}
    if _PREPROCESSOR in cfg:
        chosen[_PREPROCESSOR] = cfg[_PREPROCESSOR]
    if (cfg.get(_AUTO_SCALE) or {}).get('enable'):  # otherwise it says nothing of the run
        chosen[_AUTO_SCALE] = cfg[_AUTO_SCALE]
    return json.loads(json.dumps(flat(chosen) | _kept(cfg), default=name_of))


def _kept(cfg: Config) -> dict[str, Any]:
    """Which weights a run keeps: those of the best score of a metric, averaged ones or not. The
    score is as its evaluator counts."""
    hooks = cfg.get('custom_hooks') or []
    best = next((hook for hook in hooks if is_type(hook, 'BestWeightsHook')), None)
    if best is None:  # one is added before a training
        return {}
    averaged = [hook for hook in hooks if is_type(hook, 'EMAHook')]
    return {
        f'{_KEPT}metric': best.get('metric', 'mIoU'),
        f'{_KEPT}rule': best.get('rule', 'greater'),
        f'{_KEPT}ema': json.dumps(averaged, default=name_of) if averaged else None,
        f'{_KEPT}evaluator': json.dumps(flat(cfg.get('val_evaluator')), default=name_of),
    }


def name_of(value: Any) -> str:
    """What stands in a record for a value that JSON does not know. A class or a function, as the
    types of pure-Python configs are, goes by its name."""
    if hasattr(value, '__qualname__'):
        return f'{value.__module__}.{value.__qualname__}'
    return str(value)


def file_digest(path: str | Path) -> str:
    """What tells one file from another."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def flat(settings: Any) -> dict[str, Any]:
    """Nested settings as ``{'train_cfg.max_iters': 200000, ...}``, without those that may differ
    between two sittings of one run."""
    return dict(_flat(settings))


def _flat(node: Any, prefix: str = '') -> list[tuple[str, Any]]:
    if isinstance(node, Mapping):
        items = [(str(key), value) for key, value in node.items() if key not in _FREE]
    elif isinstance(node, (list, tuple)) and any(
        isinstance(value, (Mapping, list, tuple)) for value in node
    ):
        items = [(str(index), value) for index, value in enumerate(node)]
    else:
        return [(prefix, node)]
    return [
        pair for key, value in items for pair in _flat(value, f'{prefix}.{key}' if prefix else key)
    ]


def read_json(path: str | Path) -> Any:
    """What a JSON file of ours holds; ``None`` where there is none.

    Raises:
        UserError: The file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f'{path} is damaged ({what[:200]}): delete it, or take another --work-dir')


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(content, file, indent=1)
        file.write('\n')


def write_record(work_dir: str | Path, record: Mapping[str, Any]) -> None:
    """Write ``run.json``; one process of a distributed run does."""
    if is_main_process():
        write_json(Path(work_dir) / FILENAME, record)


def read_record(work_dir: str | Path) -> dict[str, Any]:
    """What ``run.json`` says: ``settings``, ``finished`` and, once finished, the result. Empty
    where there is none.

    Raises:
        UserError: The file is damaged.
    """
    path = Path(work_dir) / FILENAME
    record = read_json(path)
    if record is None and not path.is_file():
        return {}
    if not isinstance(record, dict) or not isinstance(record.get('settings', {}), dict):
        raise _damaged(path, f'it holds no record of a run: {json.dumps(record)[:60]}')
    wrong = [
        f'{name}={record[name]!r}'
        for name, kinds in _FIELDS.items()
        if name in record and not _is_of(record[name], kinds)
    ]
    if wrong:
        raise _damaged(path, ', '.join(wrong))
    return record


def _is_of(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def read_test_record(path: str | Path) -> dict[str, Any]:
    """What a test noted: ``stamp`` and ``data`` of what was tested, ``metrics`` (none where there
    are no labels), ``seconds``. Empty where there is no file.

    Raises:
        UserError: The file is damaged.
    """
    record = read_json(path)
    if record is None and not Path(path).is_file():
        return {}
    numbers = (int, float)
    if (
        not isinstance(record, dict)
        or not isinstance(metrics := record.get('metrics'), dict)
        or (metrics and not all(_is_of(metrics.get(name), numbers) for name in MEAN_NAMES))
        or not _is_of(record.get('seconds'), numbers)
    ):
        text = json.dumps(record)[:60]
        raise UserError(
            f'{path} is damaged (it holds no record of a test: {text}): delete it, and it is '
            'tested again'
        )
    return record


def write_data(work_dir: str | Path, stamps: Mapping[str, Mapping[str, str]]) -> None:
    """Note what a run learns from and is validated on; one process of a distributed run does.

    Args:
        work_dir: Where the run is.
        stamps: By split, as :func:`mtkd_cd.data.stamp.data_stamp` makes them.
    """
    if is_main_process():
        write_json(Path(work_dir) / DATA, stamps)


def read_data(work_dir: str | Path) -> dict[str, dict[str, str]]:
    """What :func:`write_data` noted; empty where there is none.

    Raises:
        UserError: The file is damaged.
    """
    path = Path(work_dir) / DATA
    stamps = read_json(path)
    if stamps is None:
        return {}
    if not isinstance(stamps, dict) or not all(
        isinstance(stamp, dict) and all(isinstance(digest, str) for digest in stamp.values())
        for stamp in stamps.values()
    ):
        raise _damaged(path, 'it holds no digests')
    return stamps


def check_data(work_dir: str | Path, stamps: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse a work dir that holds a run on other data.

    Args:
        work_dir: Where the run is going to be.
        stamps: What it is going to learn from, by split.

    Raises:
        UserError: Says what has changed.
    """
    before = read_data(work_dir)
    texts = [
        f'{name} data: {text}'
        for name in stamps
        if name in before and (text := stamp_changes(before[name], stamps[name]))
    ]
    if texts:
        raise UserError(
            f'{work_dir} holds a run on data that have changed since. {"; ".join(texts)}. Its '
            'weights are of the data as they were: choose another --work-dir, or delete this one '
            'to train again'
        )


def check_settings(work_dir: str | Path, settings: Mapping[str, Any]) -> None:
    """Refuse a work dir that holds a run with other settings.

    Args:
        work_dir: Where the run is going to be.
        settings: Its settings. Those of the data and of the weights it starts from are compared
            once they are known.

    Raises:
        UserError: Names each setting with its value there and its value now.
    """
    there = read_record(work_dir).get('settings')
    if there is None:
        return
    keys = [
        key
        for key in {**there, **settings}
        if not key.startswith(_KNOWN_LATER) or (key in there and key in settings)
    ]
    shown = setting_differences(there, settings, keys)
    if shown:
        raise UserError(
            f'{work_dir} holds another run: {shown}. Choose another --work-dir, or delete this one'
        )


def setting_differences(
    there: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]
) -> str:
    """What differs between two runs' settings, in words; empty where nothing does.

    Args:
        there: Settings of the run that there is.
        now: Settings of the run that is wanted.
        keys: Of the settings to compare.
    """
    found = [
        f'{key} is {_text(there, key)} there, {_text(now, key)} now'
        for key in keys
        if there.get(key) != now.get(key)
    ]
    return some(found, _SHOWN_DIFFERENCES, '; ')


def _text(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else 'not set'
