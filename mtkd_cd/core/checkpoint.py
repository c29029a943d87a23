"""Checkpoints in and out: nothing but tensors and plain values is unpickled, a wrong or damaged
file says what is wrong with it, weights are finite numbers, a save is atomic."""

import errno
import hashlib
import os
import pickle
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.utils import digit_version
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.strategy import training_command
from mtkd_cd.core.text import some

DIGEST = 'digest'  # entry of a checkpoint's meta
_OTHER_AUTHORS = (
    ". Published files in their authors' names are rewritten by `mtkd-cd convert-weights FILE NEW`"
)
_SHOWN_KEYS = 6
_FORCE_TENSORS = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
# Where files keep their weights, from the most to the least telling name.
_WEIGHT_ENTRIES = (
    'state_dict',
    'model_state_dict',
    'model_G_state_dict',
    'model',
    'net',
    'weights',
)
# What wrappers (DataParallel, torch.compile, Lightning) put before every name.
_WRAPPERS = ('module.', '_orig_mod.', 'model.')
# What a failed download or a checkout without its large files leaves in a checkpoint's place.
_NOT_CHECKPOINTS: tuple[tuple[bytes, str], ...] = (
    (
        rb'version https://git-lfs\.github\.com',
        'a Git LFS pointer, not the file that it stands for. Get the file with: git lfs pull',
    ),
    (
        rb'(?:\.\./)*(?:\.git/annex|/annex)/objects/',
        'a git-annex pointer, not the file that it stands for. Get the file with: git annex get',
    ),
    (rb'outs:\s', 'a DVC pointer, not the file that it stands for. Get the file with: dvc pull'),
    (
        rb'<(?:!doctype|html|head|body|script|\?xml|error)',
        'a web page: the download got a page (a login, a warning, an error) and not the file. '
        'Download it again, in a browser if need be',
    ),
    (rb'[{\[]\s*"', 'a JSON text and not a torch file. Check where it comes from'),
    (rb'\x1f\x8b', 'a gzip archive. Unpack it, and name the file in it'),
    (rb'7z\xbc\xaf', 'a 7z archive. Unpack it, and name the file in it'),
    (rb'Rar!', 'a RAR archive. Unpack it, and name the file in it'),
    (rb'\x89HDF', 'an HDF5 file (Keras), not a torch file'),
)
_trusted = False

# Where the file of Open-CD's MTKD training keeps its teachers, and what they were trained on.
OPENCD_TEACHERS = {'teacher_s.': 'small', 'teacher_m.': 'medium', 'teacher_l.': 'large'}


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
    dtypes = [type(np.dtype(code)) for code in '?bhilqBHILQefd']
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


class UntrustedError(UserError):
    """A checkpoint that is in order and holds more than tensors and plain values."""


def load_only_tensors(enabled: bool = True) -> None:
    """Make every ``torch.load`` of this process refuse pickled code, those inside mmengine and
    mmseg included; with ``False``, let every checkpoint of this process hold it.

    mmengine retries a refused file with ``weights_only=False``; this closes that door. The tools
    call it first, and undo it for ``--trust-checkpoint``. Then ``load_from``, a resumed run, a
    distiller, a cascade and a test trust every checkpoint, unless they are told otherwise. Before
    torch 2.6 mmengine's own log history would be refused too, so there only :func:`read_checkpoint`
    is strict.
    """
    global _trusted
    _trusted = not enabled
    torch.serialization.add_safe_globals(_benign_globals())
    if enabled and digit_version(torch.__version__) >= digit_version('2.6'):
        os.environ[_FORCE_TENSORS] = '1'
    else:
        os.environ.pop(_FORCE_TENSORS, None)


def trusts_checkpoints() -> bool:
    """Whether this process reads pickled objects in checkpoints (:func:`load_only_tensors`)."""
    return _trusted


def read_checkpoint(path: str | os.PathLike, *, trusted: bool | None = None) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU.

    Args:
        path: A ``.pth`` file.
        trusted: Unpickle arbitrary objects, which lets the file run code. Only for files of your
            own. Default: what :func:`load_only_tensors` has set, and no without it.

    Returns:
        What the file holds: a checkpoint dictionary or a bare state dict.

    Raises:
        UserError: Missing, truncated, damaged (its checksums or the digest in it tell), not a
            checkpoint, or holding objects other than tensors and plain values.
        OSError: The file system refuses to read it.
    """
    path = Path(path)
    if not path.is_file():
        command = training_command(path)
        raise UserError(
            f'checkpoint {path} is a folder, not a file'
            if path.is_dir()
            else f'checkpoint {path} does not exist. '
            + (f'Make it with: {command}' if command else 'Check the path')
        )
    _refuse_other_files(path)
    _check_archive(path)
    try:
        with _benign_globals_allowed():
            content = _torch_load(path, _trusted if trusted is None else trusted)
    except pickle.UnpicklingError as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        if refused:
            raise UntrustedError(
                f'checkpoint {path} holds pickled objects beside tensors ({refused[1]}); loading '
                'them could run code from '
                'the file. If you made the file yourself, pass --trust-checkpoint (in Python: '
                'trusted=True)'
            ) from None
        raise _corrupt(path, error) from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE):
            raise
        raise _corrupt(path, error) from None
    except (AttributeError, EOFError, ImportError, IndexError, KeyError) as error:
        raise _corrupt(path, error) from None
    except (RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise _corrupt(path, error) from None
    if not isinstance(content, Mapping):
        raise UserError(
            f'checkpoint {path} holds a {type(content).__name__}, not a dictionary of weights'
        )
    _check_digest(path, content)
    return dict(content)


@contextmanager
def _benign_globals_allowed() -> Iterator[None]:
    """Allow them for a while; those that had been allowed before stay allowed afterwards."""
    before = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([one for one in _benign_globals() if one not in before]):
        yield


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


def _refuse_other_files(path: Path) -> None:
    with open(path, 'rb') as file:
        start = file.read(512).lstrip(b'\xef\xbb\xbf \t\r\n')
    if not start:
        raise UserError(f'checkpoint {path} is empty. Get or train it again')
    for pattern, what in _NOT_CHECKPOINTS:
        if re.match(pattern, start, re.IGNORECASE):
            raise UserError(f'checkpoint {path} is {what}')
    if b'"__metadata__"' in start or re.match(rb'.{7}\x00\{"', start, re.DOTALL):
        raise UserError(
            f'checkpoint {path} is in the safetensors format: rewrite it with: python -c "import '
            f"torch, safetensors.torch as s; torch.save(s.load_file('{path}'), "
            f"'{path.with_suffix('.pth')}')\""
        )


def _check_archive(path: Path) -> None:
    """Refuse a zip file that is no checkpoint, or whose parts have not the checksums that were
    written with them."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith('/constants.pkl') for name in names):
                raise _torchscript(path)
            if not any(name.endswith('data.pkl') for name in names):
                raise UserError(
                    f'checkpoint {path} is a zip archive of other files '
                    f'({some(names, _SHOWN_KEYS) or "none"}). Unpack it, and name the file in it'
                )
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise _corrupt(path, error) from None
    if damaged is not None:
        raise UserError(f'{_damaged(path)} (the checksum of {damaged} does not fit)')


def _damaged(path: Path) -> str:
    return (
        f'checkpoint {path} is damaged: its content is not what was written. Copy it again from '
        'where it came from, or train it again'
    )


def _torchscript(path: Path) -> UserError:
    weights = path.with_suffix('.weights.pth')
    return UserError(
        f'checkpoint {path} is a TorchScript archive: a program beside its weights. If you '
        'trust where it comes from, take the weights '
        f"out: python -c \"import torch; torch.save(torch.jit.load('{path}', 'cpu')"
        f".state_dict(), '{weights}')\" and use {weights}"
    )


def content_digests(content: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each entry of a checkpoint but its meta: over its tensors and plain values, on
    whatever device and in whatever order they are. Objects of other classes are left out."""
    return {str(key): _digest(value) for key, value in content.items() if key != 'meta'}


def _digest(node: Any) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(_leaves(node), key=lambda leaf: leaf[0]):
        digest.update(f'{name}\0'.encode(errors='surrogatepass'))
        if isinstance(value, Tensor):
            digest.update(f'{value.dtype} {tuple(value.shape)}\0'.encode())
            plain = value.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy().data)
        else:
            digest.update(f'{value!r}\0'.encode(errors='surrogatepass'))
    return digest.hexdigest()


def _leaves(node: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """(path, value) of all dense tensors and plain values; NumPy's numbers as Python's, which NumPy
    1 and 2 write alike."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    elif isinstance(node, Tensor):
        if node.layout == torch.strided and not node.is_quantized:
            yield name, node
    elif node is None or isinstance(node, (bool, str)):
        yield name, node
    elif isinstance(node, int):
        yield name, int(node)
    elif isinstance(node, float):
        yield name, float(node)
    for key, value in items:
        yield from _leaves(value, f'{name}/{key}')


def _check_digest(path: Path, content: Mapping[str, Any]) -> None:
    meta = content.get('meta')
    written = meta.get(DIGEST) if isinstance(meta, Mapping) else None
    if not isinstance(written, Mapping):
        _say_unchecked_once()
        return
    for name, found in content_digests(content).items():  # entries may have been dropped since
        if written.get(name, found) != found:
            raise UserError(
                f'{_damaged(path)} (its {name} does not fit the digest in it; if you changed it on '
                f"purpose, delete meta['{DIGEST}'])"
            )


@cache
def _say_unchecked_once() -> None:
    print_log(
        'Checkpoints without a digest (those that were not written here) are checked by the '
        'checksums of their archive alone, where they have some',
        logger='current',
    )


def read_weights(path: str | os.PathLike, *, trusted: bool | None = None) -> dict[str, Tensor]:
    """Read the weights in a checkpoint file. They are the file itself, or one of its entries
    ``state_dict``, ``model_state_dict``, ``model_G_state_dict``, ``model``, ``net``, ``weights``.
    What wrappers put before the names (``module.``, ``_orig_mod.``, ``model.``) is taken off.

    Raises:
        UserError: As :func:`read_checkpoint`; or there are no weights; or they are not all finite
            numbers.
    """
    content = read_checkpoint(path, trusted=trusted)
    weights = _unwrapped(_weights_in(content))
    if not weights:
        raise UserError(
            f'checkpoint {path} holds no weights: its entries are '
            f'{", ".join(map(str, content)) or "none"}'
        )
    broken = non_finite(weights)
    if broken:
        raise UserError(
            f'checkpoint {path} holds weights that are no finite numbers '
            f'({some(broken, _SHOWN_KEYS)}): the training that made it diverged. Train again, with '
            'a lower learning rate'
        )
    return weights


def _weights_in(content: Mapping[str, Any]) -> dict[str, Tensor]:
    for entry in _WEIGHT_ENTRIES:
        inner = content.get(entry)
        if isinstance(inner, Mapping):
            content = inner
            break
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes of wrappers, in whatever order these were put round the model."""
    names = {name: name.replace('_orig_mod.', '') for name in weights}  # compiled parts too
    names = {name: plain.removeprefix('module.') for name, plain in names.items()}
    while prefix := next(
        (one for one in _WRAPPERS if all(name.startswith(one) for name in names.values())), None
    ):
        if not names:
            break
        names = {name: plain.removeprefix(prefix) for name, plain in names.items()}
    if len(set(names.values())) < len(names):  # two models in one file: nobody's prefix
        return weights
    return {names[name]: value for name, value in weights.items()}


def non_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a NaN or an infinity in them; attention masks may have one.

    One synchronisation with the device where there is none, however many tensors there are.
    """
    values = {
        # torch neither sums numbers of 8 bits nor tells all of them from infinity.
        name: value if value.element_size() > 1 else value.float()
        for name, value in weights.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not name.endswith('mask')
    }
    if not values:
        return []
    # A sum that is finite takes a tenth of the time of a look at each number. One that is not may
    # have overflowed.
    sums = torch.stack([value.sum() for value in values.values()])
    suspects = [name for name, good in zip(values, sums.isfinite().tolist()) if not good]
    return [name for name in suspects if not values[name].isfinite().all()]


def _student_in(
    weights: dict[str, Tensor], own: Mapping[str, Any], path: str | os.PathLike
) -> dict[str, Tensor]:
    teachers = tuple(OPENCD_TEACHERS)
    if any(key.startswith(teachers) for key in own):
        return weights
    student = {key: value for key, value in weights.items() if not key.startswith(teachers)}
    if len(student) < len(weights):
        print_log(
            f"{path} is of Open-CD's MTKD training: its student is loaded, "
            f'{len(weights) - len(student)} tensors of its teachers are left out. mtkd-cd '
            'convert-weights writes each of them to a file',
            logger='current',
        )
    return student


def load_weights(
    module: nn.Module,
    path: str | os.PathLike,
    *,
    trusted: bool | None = None,
    adapt: Callable[[str, Tensor], Tensor] | None = None,
) -> None:
    """Load a checkpoint file into ``module``; every key and shape must fit.

    Of a file of Open-CD's MTKD training, which holds teachers too, the student is loaded and a line
    says so.

    Args:
        module: The model.
        path: The file.
        trusted: See :func:`read_checkpoint`.
        adapt: Gets the name and the tensor of each weight in the file; gives one of the model's
            shape, or the same where it knows no way. A line says which it changed.

    Raises:
        UserError: As :func:`read_weights`, or the file is of another model: names the keys
            missing, left over, of another shape, or with integers in place of real numbers.
    """
    own = module.state_dict()
    weights = _student_in(read_weights(path, trusted=trusted), own, path)
    if adapt is not None:
        weights = _adapted(weights, path, adapt)
    # torch adds these counters to batch norm; files from before 0.4.1, and converted ones, lack
    # them.
    missing = [key for key in own if key not in weights and not key.endswith('num_batches_tracked')]
    unexpected = [key for key in weights if key not in own]
    reshaped = [
        f'{key} {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the model'
        for key in own
        if key in weights and isinstance(own[key], Tensor) and own[key].shape != weights[key].shape
    ]
    integers = [
        f'{key} {str(weights[key].dtype).removeprefix("torch.")}'
        for key in own
        if key in weights
        and isinstance(own[key], Tensor)
        and own[key].is_floating_point()
        and not weights[key].is_floating_point()
    ]
    problems = [
        f'{len(keys)} {what}: {some(keys, _SHOWN_KEYS)}'
        for what, keys in (
            ('keys missing in the file', missing),
            ('keys the model does not have', unexpected),
            ('keys of another shape', reshaped),
            ('keys with integers (quantised?) in place of real numbers', integers),
        )
        if keys
    ]
    if problems:
        raise UserError(
            f'checkpoint {path} is of another model than this {type(module).__name__}. '
            + '; '.join(problems)
            + ('' if len(missing) < len(own) else _OTHER_AUTHORS)
        )
    module.load_state_dict(weights, strict=False)


def _adapted(
    weights: Mapping[str, Tensor],
    path: str | os.PathLike,
    adapt: Callable[[str, Tensor], Tensor],
) -> dict[str, Tensor]:
    fitted = {key: adapt(key, weight) for key, weight in weights.items()}
    changed = [key for key, weight in fitted.items() if weight is not weights[key]]
    if changed:
        shown = some(changed, _SHOWN_KEYS)
        print_log(f'{path}: made to fit the bands of this model: {shown}', logger='current')
    return fitted


def add_digest(content: dict[str, Any]) -> None:
    """Put the digests of a checkpoint's entries into its meta; :func:`read_checkpoint` compares."""
    content['meta'] = dict(content.get('meta') or {})
    content['meta'][DIGEST] = content_digests(content)


def save_checkpoint(
    content: Mapping[str, Any],
    path: str | os.PathLike,
    write: Callable[..., AbstractContextManager[IO]] = atomic_write,
) -> None:
    """Write ``content`` and its digest with ``torch.save``; the file is complete or, after an
    error, what it was before.

    A state dict without a ``meta`` around it gets no digest: others read it as it is.

    Args:
        content: What :func:`read_checkpoint` will return.
        path: The file.
        write: :func:`~mtkd_cd.core.files.atomic_write`, or ``own_file`` for a file that the user
            has named.

    Raises:
        UserError: Weights that are no finite numbers: they are of no use to anyone.
        OSError: As when writing any file, for instance on a full disk.
    """
    content = dict(content)
    broken = non_finite(_weights_in(content))
    if broken:
        raise UserError(
            f'{path} is not written: {some(broken, _SHOWN_KEYS)} are no finite numbers, the '
            'training diverged. Lower the learning rate'
        )
    if isinstance(content.get('state_dict'), Mapping):
        add_digest(content)
    try:
        with write(path, 'wb') as file:
            torch.save(content, file)
    except RuntimeError as error:
        # torch closes its archive on a full disk too, and that error hides the disk's.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


# A resumed run, which mmengine reads, needs them whoever started it.
torch.serialization.add_safe_globals(_benign_globals())
