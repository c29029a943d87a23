"""Pretrained weights, found and checked before ``init_weights`` loads them: a missing file is one
clear error, not a traceback."""

import re
import socket
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit
from mmengine.runner.checkpoint import get_external_models
from torch import Tensor, nn

from mtkd_cd.core.checkpoint import read_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.text import did_you_mean

_TIMEOUT_S = 30
# Where the maintained distributions of mmengine and mmsegmentation find the files that their
# originals have at the first.
_MIRRORS = {'https://download.openmmlab.com/': 'https://mmassets.onedl.ai/'}


class PretrainedBackbone(BaseModule):
    """A backbone that starts from published weights which name their tensors in another way.

    Args:
        pretrained: A path or URL; True: ``weights_url``; False or None: random weights.
            ``init_weights`` loads them.
    """

    weights_url: str

    def __init__(self, pretrained: bool | str | None):
        checkpoint = self.weights_url if pretrained is True else pretrained
        super().__init__(dict(type='Pretrained', checkpoint=checkpoint) if checkpoint else None)

    @abstractmethod
    def published_keys(self) -> dict[str, str]:
        """The published name of each tensor of the state dict that is loaded."""

    def init_weights(self) -> None:
        """Load the published weights, if any.

        Raises:
            UserError: A file that cannot be read, or that lacks a tensor.
        """
        if not self.init_cfg:
            return super().init_weights()
        checkpoint = self.init_cfg['checkpoint']
        weights, own = dict(read_weights(checkpoint)), self.state_dict()
        # Files from before torch 0.4.1 lack batch norm's counters.
        keys = {
            key: name
            for key, name in self.published_keys().items()
            if name in weights or not key.endswith('num_batches_tracked')
        }
        for key, name in keys.items():
            if name in weights:
                weights[name] = widened(weights[name], own[key].shape)
        unfit = [
            name
            for key, name in keys.items()
            if name not in weights or weights[name].shape != own[key].shape
        ]
        if unfit:
            raise UserError(
                f'pretrained weights {checkpoint} are not those of {type(self).__name__}: '
                f'{len(unfit)} of {len(keys)} tensors are missing '
                f'or of another shape, the first is {unfit[0]}. The usual file is '
                f'{self.weights_url}'
            )
        for key, name in keys.items():
            own[key].copy_(weights[name])


def widen_on_load(backbone: nn.Module) -> None:
    """Let a backbone for more than three bands start from weights for three. From now on, a
    convolution that loads weights of three input channels, or of six for pairs, widens them first
    (:func:`widened`)."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            module.register_load_state_dict_pre_hook(_widen)


def widened(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Widen a first convolution's weights from (out, 3, h, w) to (out, C, h, w), or from (out, 6,
    h, w) to (out, 2C, h, w).

    The first three bands keep the weights of red, green and blue; further bands get their mean. All
    are scaled by 3 / C, so that equal bands give the same sum as before. Any other weight is
    returned unchanged.
    """
    fits = len(shape) == weight.ndim == 4 and shape[0] == weight.shape[0]
    if not fits or tuple(shape[2:]) != tuple(weight.shape[2:]):
        return weight
    dates = {3: 1, 6: 2}.get(weight.shape[1])
    if dates is None or shape[1] == weight.shape[1] or shape[1] % dates:
        return weight
    bands = shape[1] // dates
    if bands < 3:
        return weight
    parts = []
    for date in weight.chunk(dates, dim=1):
        mean = date.mean(1, keepdim=True).expand(-1, bands - 3, -1, -1)
        parts.append(torch.cat([date, mean], dim=1) * (3 / bands))
    return torch.cat(parts, dim=1)


def widening(model: nn.Module) -> Callable[[str, Tensor], Tensor]:
    """Make the function that fits weights of a detector for three bands to one for more.

    Args:
        model: The detector, with its number of bands as ``backbone_inchannels``.

    Returns:
        A function of a weight's name and tensor, for :func:`~mtkd_cd.core.checkpoint.load_weights`.
        It widens first convolutions (:func:`widened`). A convolution with one filter per band, such
        as TinyCD's first, gets the mean filter for each further band. Any other tensor is returned
        unchanged.
    """
    bands = getattr(model, 'backbone_inchannels', 3)
    convolutions = {
        f'{name}.{key}': (module, parameter.shape)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
        for key, parameter in module.named_parameters(recurse=False)
    }

    def fit(name: str, weight: Tensor) -> Tensor:
        if bands <= 3 or name not in convolutions:
            return weight
        module, shape = convolutions[name]
        if module.groups == 1:
            return widened(weight, shape)
        per_band = module.groups == module.out_channels == bands
        if not per_band or weight.shape != (3, *shape[1:]):
            return weight
        further = weight.mean(0, keepdim=True).expand(bands - 3, *shape[1:])
        return torch.cat([weight, further])

    return fit


def _widen(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    key = f'{prefix}weight'
    if key in state_dict:
        state_dict[key] = widened(state_dict[key], module.weight.shape)  # type: ignore[arg-type]


def load_published(
    module: nn.Module, weights: Mapping[str, Tensor], checkpoint: str, optional: Sequence[str] = ()
) -> None:
    """Load the tensors of a published file into a module. The file may hold more than the module
    needs.

    Args:
        module: The network.
        weights: The file's tensors, renamed to those of the module.
        checkpoint: The file, for the error.
        optional: Parts of the names of tensors that the file may lack.

    Raises:
        UserError: A tensor is missing or of another shape.
    """
    try:
        missing = module.load_state_dict(dict(weights), strict=False).missing_keys
    except RuntimeError as error:  # shapes that differ
        problem: str | None = str(error).splitlines()[1].strip()
    else:
        problem = next(
            (f'{key} is missing' for key in missing if not any(part in key for part in optional)),
            None,
        )
    if problem:
        raise UserError(
            f'pretrained weights {checkpoint} are not those of this {type(module).__name__}: '
            f'{problem}'
        )


def check_pretrained(model: nn.Module) -> None:
    """Find or download every file that ``model.init_weights()`` will load, and check that it holds
    weights only.

    Args:
        model: Its modules name their files in mmengine's way, ``init_cfg=dict(type='Pretrained',
            checkpoint=...)``. A module whose place in the config is not its name in the model has
            ``pretrained_switch``, the option that starts without the file.

    Raises:
        UserError: A file that can neither be found nor downloaded (says where to put it, and how to
            start without it), or is no checkpoint.
    """
    for name, switch, entry in _pretrained_entries(model):
        checkpoint = _resolve(entry['checkpoint'], f'model.{name}')
        way_out = f'Or start from random weights: --cfg-options {switch}'
        if checkpoint.startswith(('http://', 'https://')):
            entry['checkpoint'] = str(_fetch(checkpoint, way_out))
        elif '://' in checkpoint:
            continue  # one of mmengine's other schemes, which it resolves itself
        elif not Path(checkpoint).is_file():
            raise UserError(
                f'pretrained weights {checkpoint} of model.{name} do not exist. Put the file '
                f'there. {way_out}'
            )
        read_weights(entry['checkpoint'])


def _pretrained_entries(model: nn.Module) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, module in model.named_modules():
        option = 'pretrained=False' if isinstance(module, PretrainedBackbone) else 'init_cfg=None'
        switch = getattr(module, 'pretrained_switch', f'model.{name}.{option}')
        init_cfg = getattr(module, 'init_cfg', None) or []
        for entry in [init_cfg] if isinstance(init_cfg, dict) else init_cfg:
            if entry.get('type') in ('Pretrained', 'Pretrained_Part', PretrainedInit):
                yield name, switch, entry


def _resolve(checkpoint: str, owner: str) -> str:
    """The URL of a file that is named as ``open-mmlab://NAME``, which is how many of Open-CD's
    configs do it."""
    scheme, separator, name = checkpoint.partition('://')
    if not separator or scheme not in ('open-mmlab', 'openmmlab'):
        return checkpoint
    urls = get_external_models()
    if name not in urls:
        advice = did_you_mean(name, urls) or 'give a file or a URL'
        raise UserError(
            f'pretrained weights {checkpoint} of {owner}: mmengine knows no such name: {advice}'
        )
    return str(urls[name])


def _fetch(url: str, way_out: str) -> Path:
    """The file in torch hub's cache, downloaded by one process of each machine."""
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / 'checkpoints' / name
    error = _download_from_either(url, path) if get_rank() == 0 else None
    barrier()
    if not path.is_file():
        error = error or _download_from_either(url, path)  # a machine that rank 0 is not on
    if error:
        raise UserError(
            f'pretrained weights {url} cannot be downloaded ({error}). Get the file elsewhere and '
            f'put it at {path}. {way_out}'
        )
    return path


def _download_from_either(url: str, path: Path) -> Exception | None:
    """Why ``url`` could not be downloaded, nor its copy on the mirror, if it has one."""
    error = _download(url, path)
    mirror = next(
        (url.replace(host, copy, 1) for host, copy in _MIRRORS.items() if url.startswith(host)),
        None,
    )
    return error if error is None or mirror is None or _download(mirror, path) else None


def _download(url: str, path: Path) -> Exception | None:
    if path.is_file():
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = re.search(r'-([0-9a-f]{8,})\.[^.]+$', path.name)
    checked = (
        f'checked against the {digest[1]} in its name'
        if digest
        else 'not checked: its name holds no digest'
    )
    print_log(f'Downloading {url} to {path} ({checked})', 'current')
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest[1] if digest else None)
    except (OSError, RuntimeError) as error:  # no network, no such file; a digest that differs
        return error
    finally:
        socket.setdefaulttimeout(patience)
    return None
