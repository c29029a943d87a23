"""The checkpoints that a work dir holds, and the one that a run goes on from."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mtkd_cd.core.checkpoint import UntrustedError, non_finite, read_checkpoint
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import BEST

_CHECKPOINTS = ('iter_{}.pth', 'epoch_{}.pth')  # mmengine's names


def holds_weights(cfg: Config) -> bool:
    """Whether a work dir holds anything that training again would overwrite."""
    return any(
        path.is_file() for folder, _ in _checkpoint_places(cfg) for path in folder.glob('*.pth')
    )


def checkpoints_of(cfg: Config) -> list[list[Path]]:
    """Find the checkpoints that a run can be resumed from: for each way of naming them a list, the
    newest first."""
    found = []
    for folder, name in _checkpoint_places(cfg):
        before, _, after = name.partition('{')
        pattern = re.compile(re.escape(before) + r'(\d+)' + re.escape(after.partition('}')[2]))
        numbered = [
            (int(match[1]), path)
            for path in folder.glob('*')
            if (match := pattern.fullmatch(path.name))
        ]
        if numbered:
            found.append([path for _, path in sorted(numbered, reverse=True)])
    return found


def _checkpoint_places(cfg: Config) -> list[tuple[Path, str]]:
    """(folder, name with ``{}`` for the number) of the checkpoints that a run writes."""
    work_dir = Path(cfg.work_dir)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    names = [*_CHECKPOINTS, *([hook['filename_tmpl']] if hook.get('filename_tmpl') else [])]
    folders = [work_dir]
    if hook.get('out_dir') and '://' not in str(hook['out_dir']):
        folders.append(Path(hook['out_dir'], work_dir.name))
    places = [(folder, name) for folder in folders for name in names]
    return list(dict.fromkeys(places))


def checkpoint_to_resume(cfg: Config, recorded: bool, resume: bool) -> Path | None:
    """The newest readable checkpoint; ``None`` where training starts anew.

    Args:
        cfg: The config, with its work dir.
        recorded: Whether the work dir holds the record of a run with the config's settings.
        resume: Whether to go on with that run.

    Raises:
        UserError: Training anew would overwrite weights.
    """
    work_dir = Path(cfg.work_dir)
    if not resume and holds_weights(cfg):
        what = (
            'a run with these settings: continue it with --resume'
            if recorded
            else 'weights of another run: they would be overwritten'
        )
        raise UserError(f'{work_dir} holds {what}, choose another --work-dir, or delete this one')
    readable = []
    for paths in checkpoints_of(cfg):
        if found := _newest_readable(paths):
            path, content = found
            readable.append((content['meta'].get('iter', 0), path))
    if readable:
        return max(readable)[1]
    best = work_dir / BEST
    if best.is_file() and not recorded:
        raise UserError(
            f'{best} is there without a record of its training: choose another --work-dir, or '
            'delete it'
        )
    return None


def _newest_readable(paths: Sequence[Path]) -> tuple[Path, dict[str, Any]] | None:
    for path in paths:
        try:
            content = read_checkpoint(path)
        except UntrustedError:  # it is in order: an older one, or none, is no way out
            raise
        except UserError as error:
            print(f'passing over {error}')
            continue
        if not isinstance(content.get('meta'), Mapping) or 'state_dict' not in content:
            print(f'passing over {path}: it is no checkpoint of a training')
        elif non_finite(content['state_dict']):
            print(f'passing over {path}: it holds weights that are no finite numbers')
        else:
            return path, content
    return None
