"""Peak memory of a training step with and without ``--checkpoint-activations``, worked out on
torch's ``meta`` device, where tensors have a size and no numbers.

    python benchmarks/activations.py [--models ttp_vitsam_l ban_vitl14_mitb2] [--size 512]
        [--batch 2]

What counts is every tensor that is alive at once, beside weights and buffers: activations,
gradients, what layers keep for the backward pass. The optimiser's state and what kernels take for
themselves are not in it.
"""

import argparse
import weakref
from types import SimpleNamespace
from typing import Any

import torch
from gpu_check import make_batch, model_config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.engine.hooks import ActivationCheckpointingHook
from mtkd_cd.registry import MODELS

_MIB = 1 << 20


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that are made inside and alive; the peak of that."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak_mib(model: Any, size: int, pairs: int) -> float:
    """Of forward and backward pass of a training step, above weights and buffers."""
    batch = make_batch(size, pairs, 'meta')
    model.data_preprocessor._device = torch.device('meta')
    data = model.data_preprocessor(batch, True)
    with LiveBytes() as live:
        own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        live._known |= own
        losses = model.loss(**data)
        total = sum(value for name, value in losses.items() if 'loss' in name)
        total.backward()
    return live.peak / _MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', default=('ttp_vitsam_l', 'ban_vitl14_mitb2'))
    parser.add_argument('--size', type=int, default=512)
    parser.add_argument('--batch', type=int, default=2)
    args = parser.parse_args()
    DefaultScope.get_instance('benchmark', scope_name='mtkd_cd')
    print('| model | weights, MiB | peak, MiB | peak with checkpointing, MiB | ratio |')
    print('|---|---:|---:|---:|---:|', flush=True)
    for name in args.models:
        model = MODELS.build(model_config(name)).train().to('meta')
        plain = peak_mib(model, args.size, args.batch)
        model.zero_grad()
        hook = ActivationCheckpointingHook()
        hook.before_train(SimpleNamespace(model=model, logger=MMLogger.get_instance('memory')))
        kept = peak_mib(model, args.size, args.batch)
        weights = sum(p.numel() * p.element_size() for p in model.parameters()) / _MIB
        print(f'| {name} | {weights:.0f} | {plain:.0f} | {kept:.0f} | {plain / kept:.2f} |')


if __name__ == '__main__':
    main()
