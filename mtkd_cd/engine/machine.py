"""A config fitted to the machine that it runs on."""

from typing import Any

import mmengine.device.utils
import torch
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed
from mmengine.utils.dl_utils import set_multi_processing

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.processes import watch_others
from mtkd_cd.engine.config import is_type, nodes


def set_machine(cfg: Config, device: str = 'auto', launcher: str = 'none') -> None:
    """Fit a config to the machine: device, processes and what follows from them.

    Batch norms become synchronised ones among GPU processes, and only there, unless the config says
    otherwise (``sync_bn``). A recipe in mixed precision is float32 on the CPU, unless
    :func:`~mtkd_cd.engine.costs.set_amp` follows.

    Args:
        cfg: The config.
        device: ``auto``, ``cpu`` or ``cuda``.
        launcher: As in mmengine: ``none``, ``pytorch``, ``slurm``, ``mpi``.

    Raises:
        UserError: No GPU where one is asked for, or a launcher that has not launched this process.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch finds no GPU here; use --device cpu')
    if device == 'cpu':
        mmengine.device.utils.DEVICE = 'cpu'
    cfg.launcher = launcher
    wrapper: Any = cfg.get('optim_wrapper') or {}
    if is_type(wrapper, 'AmpOptimWrapper') and mmengine.device.utils.get_device() == 'cpu':
        wrapper.type = 'OptimWrapper'
        wrapper.pop('loss_scale', None)
        wrapper.pop('dtype', None)
    for node in nodes(cfg):
        if is_type(node, 'SyncBN', 'SyncBatchNorm'):
            node.type = 'BN'
    if launcher == 'none':
        return
    if launcher == 'pytorch' and not torch.distributed.is_torchelastic_launched():
        raise UserError(
            '--launcher pytorch: this process was not started by torchrun. Use: torchrun '
            '--nproc_per_node N -m mtkd_cd COMMAND ... --launcher pytorch'
        )
    on_gpu = mmengine.device.utils.get_device() != 'cpu'
    if on_gpu:
        cfg.setdefault('sync_bn', 'torch')
    else:  # mmengine's wrapper assumes a GPU per process
        wrapper = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        cfg.model_wrapper_cfg = {
            **wrapper,
            **(cfg.get('model_wrapper_cfg') or {}),
            'device_ids': None,
        }
    if (
        not is_distributed()
    ):  # before the runner does: settings and data are checked by all processes together
        env_cfg: Any = cfg.get('env_cfg') or {}
        set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
        if on_gpu:
            init_dist(launcher, **env_cfg.get('dist_cfg', {}))
        else:
            torch.distributed.init_process_group('gloo')
    watch_others()
