"""What data-parallel training costs beside the training: measured with processes of this machine,
worked out for many GPUs.

    python benchmarks/ddp.py [--models fc_ef changer_mitb0] [--processes 1 2 4] [--size 64]
        [--batch 2] [--steps 6]
    python benchmarks/ddp.py --paper

The first prints the CPU time of a step of each process, so that processes without a core of their
own, and whatever else the machine does, count little; the efficiency is that of one process divided
by that of many. ``--paper`` prints the time that a ring takes to add up the gradients of 64 GPUs,
4 bytes * parameters * 2 * 63 / 64 over the bandwidth of one GPU's link.
"""

import argparse
import os
import socket
import statistics
import time
import warnings
from typing import Any

import torch
from gpu_check import make_batch, model_config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from torch import multiprocessing

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.registry import MODELS

_PAPER_MODELS = ('tinycd', 'changer_mitb0', 'bit_r18', 'ban_vitl14_mitb2', 'ttp_vitsam_l')
_GPUS = 64
_LINKS = {'NDR InfiniBand, 400 Gbit/s': 50e9, '100 Gbit/s': 12.5e9, '10 Gbit/s': 1.25e9}  # bytes/s


def _train(rank: int, args: argparse.Namespace, name: str, processes: int, queue: Any) -> None:
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    DefaultScope.get_instance('benchmark', scope_name='mtkd_cd')
    torch.manual_seed(0)
    model: Any = MODELS.build(model_config(name)).train()
    if processes > 1:
        torch.distributed.init_process_group('gloo', rank=rank, world_size=processes)
        model = MMDistributedDataParallel(model, broadcast_buffers=False)
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True))
    batch = make_batch(args.size, args.batch, 'cpu')
    took = []
    for _ in range(args.steps + 2):
        start = time.process_time()
        model.train_step(batch, wrapper)
        took.append(time.process_time() - start)
    queue.put(statistics.median(took[2:]))
    if processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def measure(args: argparse.Namespace, name: str, processes: int) -> float:
    """Mean over the processes of the median CPU seconds of a step."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    os.environ |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    multiprocessing.spawn(_train, (args, name, processes, queue), nprocs=processes)
    return statistics.mean(queue.get() for _ in range(processes))


def print_paper() -> None:
    """The table for many GPUs."""
    print('| model | trained parameters | MB sent by a GPU | ' + ' | '.join(_LINKS) + ' |')
    print('|---|---:|---:|' + '---:|' * len(_LINKS))
    for name in _PAPER_MODELS:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            model = MODELS.build(model_config(name))
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        sent = 4 * trained * 2 * (_GPUS - 1) / _GPUS
        times = ' | '.join(f'{1000 * sent / bandwidth:.2f} ms' for bandwidth in _LINKS.values())
        print(f'| {name} | {trained:,} | {sent / 1e6:.1f} | {times} |', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', default=('fc_ef', 'changer_mitb0'))
    parser.add_argument('--processes', nargs='+', type=int, default=(1, 2, 4))
    parser.add_argument('--size', type=int, default=64)
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--steps', type=int, default=6)
    parser.add_argument('--paper', action='store_true')
    args = parser.parse_args()
    DefaultScope.get_instance('benchmark', scope_name='mtkd_cd')
    if args.paper:
        print_paper()
        return
    print('| model | processes | CPU ms of a step of each | efficiency |\n|---|---:|---:|---:|')
    for name in args.models:
        alone = None
        for processes in args.processes:
            took = measure(args, name, processes)
            alone = took if alone is None else alone
            print(f'| {name} | {processes} | {1000 * took:.1f} | {alone / took:.2f} |', flush=True)


if __name__ == '__main__':
    main()
