"""Checkpoints in and out: nothing but tensors and plain values is unpickled, a wrong file says what
is wrong with it, a save is atomic."""

import os
import pickle
import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write

_SHOWN_KEYS = 6
_FORCE_TENSORS = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'


def _history_method(owner: type, name: str) -> Any:
    """What ``getattr`` is used for in a pickled ``HistoryBuffer``, and no more."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(
            f'Unsupported global: GLOBAL getattr({owner}, {name!r}) was not an allowed global'
        )
    return getattr(owner, name)


def _benign_globals() -> list[Any]:
    """What mmengine's own checkpoints hold beside tensors: the log history. Building these runs no
    code from the file."""
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray  # type: ignore[attr-defined]
    dtypes = [
        type(np.dtype(name))
        for name in ('float16', 'float32', 'float64', 'int32', 'int64', 'uint8', 'bool')
    ]
    named = []
    if digit_version(torch.__version__) >= digit_version(
        '2.6'
    ):  # earlier releases allow a global under its own name only
        named = [(_history_method, 'builtins.getattr')]
        for module in (
            'numpy.core.multiarray',
            'numpy._core.multiarray',
        ):  # the names before and since NumPy 2
            named += [
                (multiarray._reconstruct, f'{module}._reconstruct'),
                (multiarray.scalar, f'{module}.scalar'),
            ]
    return [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        multiarray.scalar,
        multiarray._reconstruct,
        *dtypes,
        defaultdict,
        *named,
    ]


def load_only_tensors(enabled: bool = True) -> None:
    """Make every ``torch.load`` of this process refuse pickled code, those inside mmengine and
    mmseg included.

    mmengine retries a refused file with ``weights_only=False``; this closes that door. The tools
    call it first, and open it again for ``--trust-checkpoint``. Before torch 2.6 mmengine's own log
    history would be refused too, so there only :func:`read_checkpoint` is strict.
    """
    torch.serialization.add_safe_globals(_benign_globals())
    if enabled and digit_version(torch.__version__) >= digit_version('2.6'):
        os.environ[_FORCE_TENSORS] = '1'
    else:
        os.environ.pop(_FORCE_TENSORS, None)


def training_command(path: str | os.PathLike) -> str | None:
    """The command that makes a file where the recipe's stages leave it:
    ``.../<stage>[@<variant>]/<model>[/<range>]/best.pth``, or
    ``.../routing[@<variant>]/<model>/routing.json``."""
    match Path(path).parts[-4:]:
        case [*_, 'origin' | 'continued' | 'mtkd' as stage, model, 'best.pth']:
            return f'python tools/train.py configs/{stage}/{model}.py'
        case ['partition', model, range_name, 'best.pth']:
            return f'python tools/train.py configs/partition/{model}.py --partition {range_name}'
        case [*_, place, model, 'best.pth'] if place.startswith('mtkd@'):
            return _variant_command(place, model)
        case [place, model, _, 'best.pth'] if place.startswith('partition@'):
            return _variant_command(place, model)
        case [*_, place, model, 'routing.json'] if place.partition('@')[0] == 'routing':
            return (
                f'{_variant_command(place.replace("routing", "op", 1), model)} --routing validated'
            )
    return None


def _variant_command(place: str, model: str) -> str:
    """The command that makes what a variant's stage leaves; ``place`` is called as
    ``mtkd_cd.recipe.variant`` calls it."""
    stage, _, variant = place.partition('@')
    parts = variant.split('+') if variant else []
    options = [
        f'--routing {part}' if part.isalpha() else f'--thresholds {part.replace("_", " ")}'
        for part in parts
    ]
    return ' '.join(['python tools/run_mtkd.py', model, '--stages', stage, *options])


def read_checkpoint(path: str | os.PathLike, *, trusted: bool = False) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU.

    Args:
        path: A ``.pth`` file.
        trusted: Unpickle arbitrary objects, which lets the file run code. Only for files of your
            own.

    Returns:
        What the file holds: a checkpoint dictionary or a bare state dict.

    Raises:
        UserError: Missing, truncated, not a checkpoint, or holding objects other than tensors and
            plain values.
    """
    path = Path(path)
    if not path.is_file():
        command = training_command(path)
        raise UserError(
            f'checkpoint {path} does not exist. '
            + (f'Make it with: {command}' if command else 'Check the path')
        )
    if _is_torchscript(path):
        weights = path.with_suffix('.weights.pth')
        raise UserError(
            f'checkpoint {path} is a TorchScript archive: a program beside its weights. If you '
            'trust where it comes from, take the weights '
            f"out: python -c \"import torch; torch.save(torch.jit.load('{path}', 'cpu').state_dict(), '{weights}')\" and use {weights}"
        )
    try:
        with torch.serialization.safe_globals(_benign_globals()):
            content = _torch_load(path, trusted)
    except pickle.UnpicklingError as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        if refused:
            raise UserError(
                f'checkpoint {path} holds pickled objects beside tensors ({refused[1]}); loading '
                'them could run code from '
                'the file. If you made the file yourself, pass --trust-checkpoint (in Python: '
                'trusted=True)'
            ) from None
        raise _corrupt(path, error) from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
        raise _corrupt(path, error) from None
    if not isinstance(content, Mapping):
        raise UserError(
            f'checkpoint {path} holds a {type(content).__name__}, not a dictionary of weights'
        )
    return dict(content)


def _torch_load(path: Path, trusted: bool) -> Any:
    if not trusted:
        return torch.load(path, map_location='cpu', weights_only=True)
    forced = os.environ.pop(_FORCE_TENSORS, None)
    try:
        return torch.load(path, map_location='cpu', weights_only=False)
    finally:
        if forced is not None:
            os.environ[_FORCE_TENSORS] = forced


def _corrupt(path: Path, error: Exception) -> UserError:
    detail = str(error).strip().splitlines()
    reason = (
        detail[0] if detail and len(detail[0]) < 120 else type(error).__name__
    )  # torch's longer texts advise to trust the file
    return UserError(
        f'checkpoint {path} cannot be read ({path.stat().st_size} bytes; {reason}): it is '
        'truncated or not a torch file. '
        'Get or train it again'
    )


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())


def read_weights(path: str | os.PathLike, *, trusted: bool = False) -> dict[str, Tensor]:
    """The state dict in a checkpoint file: the file itself, or its ``state_dict`` or ``model``
    entry. See :func:`read_checkpoint`."""
    content = read_checkpoint(path, trusted=trusted)
    for entry in ('state_dict', 'model'):
        if isinstance(content.get(entry), Mapping):
            content = dict(content[entry])
            break
    weights = {
        key.removeprefix('module.'): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }
    if not weights:
        raise UserError(
            f'checkpoint {path} holds no weights: its entries are '
            f'{", ".join(map(str, content)) or "none"}'
        )
    return weights


def load_weights(module: nn.Module, path: str | os.PathLike, *, trusted: bool = False) -> None:
    """Load a checkpoint file into ``module``; every key and shape must fit.

    Raises:
        UserError: As :func:`read_checkpoint`, or the file is of another model: names the keys
            missing, left over or of another shape.
    """
    weights = read_weights(path, trusted=trusted)
    own = module.state_dict()
    # torch adds these counters to batch norm; files from before 0.4.1, and converted ones, lack
    # them.
    missing = [key for key in own if key not in weights and not key.endswith('num_batches_tracked')]
    unexpected = [key for key in weights if key not in own]
    reshaped = [
        f'{key} {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the model'
        for key in own
        if key in weights and isinstance(own[key], Tensor) and own[key].shape != weights[key].shape
    ]
    problems = [
        f'{len(keys)} {what}: '
        f'{", ".join(keys[:_SHOWN_KEYS])}{", ..." if len(keys) > _SHOWN_KEYS else ""}'
        for what, keys in (
            ('keys missing in the file', missing),
            ('keys the model does not have', unexpected),
            ('keys of another shape', reshaped),
        )
        if keys
    ]
    if problems:
        raise UserError(
            f'checkpoint {path} is of another model than this {type(module).__name__}. '
            + '; '.join(problems)
        )
    module.load_state_dict(weights, strict=False)


def save_checkpoint(content: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write ``content`` with ``torch.save``; the file is complete or, after an error, what it was
    before."""
    with atomic_write(path, 'wb') as file:
        torch.save(dict(content), file)


# A resumed run, which mmengine reads, needs them whoever started it.
torch.serialization.add_safe_globals(_benign_globals())
