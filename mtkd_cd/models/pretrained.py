"""Pretrained weights, found and checked before ``init_weights`` loads them: a missing file is one clear error, not a traceback."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.model.weight_init import PretrainedInit
from torch import nn

from mtkd_cd.checkpoint import read_weights
from mtkd_cd.errors import UserError

_TIMEOUT_S = 30


def check_pretrained(model: nn.Module, switch: str | None = None) -> None:
    """Make sure that every file ``model.init_weights()`` will load is here, downloading what is not, and holds weights only.

    Args:
        model: Its modules name their files in mmengine's way, ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        switch: The config option that starts without the file, for the error; default: the ``init_cfg`` of the module that names it.

    Raises:
        UserError: A file that can neither be found nor downloaded (says where to put it, and how to start without it), or is no checkpoint.
    """
    for name, entry in _pretrained_entries(model):
        checkpoint = entry['checkpoint']
        way_out = f'Or start from random weights: --cfg-options {switch or f"model.{name}.init_cfg=None"}'
        if checkpoint.startswith(('http://', 'https://')):
            entry['checkpoint'] = str(_fetch(checkpoint, way_out))
        elif '://' in checkpoint:
            continue  # one of mmengine's other schemes, which it resolves itself
        elif not Path(checkpoint).is_file():
            raise UserError(f'pretrained weights {checkpoint} of model.{name} do not exist. Put the file there. {way_out}')
        read_weights(entry['checkpoint'])


def _pretrained_entries(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None) or []
        for entry in [init_cfg] if isinstance(init_cfg, dict) else init_cfg:
            if entry.get('type') in ('Pretrained', PretrainedInit):
                yield name, entry


def _fetch(url: str, way_out: str) -> Path:
    """The file in torch hub's cache, downloaded by one process of each machine."""
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / 'checkpoints' / name
    error = _download(url, path) if get_rank() == 0 else None
    barrier()
    if not path.is_file():
        error = error or _download(url, path)  # a machine that rank 0 is not on
    if error:
        raise UserError(f'pretrained weights {url} cannot be downloaded ({error}). Get the file elsewhere and put it at {path}. {way_out}')
    return path


def _download(url: str, path: Path) -> Exception | None:
    if path.is_file():
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = re.search(r'-([0-9a-f]{8,})\.[^.]+$', path.name)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest[1] if digest else None)
    except (OSError, RuntimeError) as error:  # no network, no such file; a digest that differs
        return error
    finally:
        socket.setdefaulttimeout(patience)
    return None
