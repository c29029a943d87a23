"""Training that an interruption does not change: every random draw is a function of the seed and of
the position in the run."""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import Dataset, Sampler

from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.hooks.termination import PatientWorker
from mtkd_cd.registry import DATA_SAMPLERS, DATASETS, LOOPS

_DATA, _STEP = 0, 1  # two streams of seeds


def _seed_all(seed: int, rank: int, stream: int, position: int) -> None:
    state = int(np.random.SeedSequence([seed, rank, stream, position]).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


@LOOPS.register_module()
class ReplayableIterLoop(IterBasedTrainLoop):
    """mmengine's iteration-based loop, in which a resumed run continues exactly as an uninterrupted
    one would have.

    The random numbers of a sample (its augmentation) depend on the seed, the rank and the sample's
    position in the stream of samples. Those of a step (dropout, drop path) depend on the seed, the
    rank and the iteration. So it does not matter where a run was cut, nor how many loader workers
    it has. mmengine alone restores the order of the samples, not the state of its generators.

    A checkpoint is written before the validation of the same iteration. Resumed from such a
    checkpoint, the loop validates first.

    Args:
        runner: The runner.
        dataloader: A dataloader, which is then used as it is, or the config of one.
        max_iters: Iterations.
        max_epochs: Epochs, instead of ``max_iters``. An epoch draws as many images as the data set
            has.
        val_interval: Iterations between validations. With ``max_epochs`` it counts epochs.
        val_by_epoch: ``False`` makes ``val_interval`` count iterations with ``max_epochs`` too.
        kwargs: As in mmengine: ``val_begin``, ``dynamic_intervals``, both in iterations.

    Raises:
        UserError: Both or neither of ``max_iters`` and ``max_epochs``.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        max_iters: int | None = None,
        max_epochs: int | None = None,
        val_interval: int = 1000,
        val_by_epoch: bool = True,
        **kwargs: Any,
    ) -> None:
        if (max_iters is None) == (max_epochs is None):
            raise UserError(
                f'train_cfg has max_iters={max_iters} and max_epochs={max_epochs}: set one of them'
            )
        if isinstance(dataloader, Mapping):
            dataloader = dict(
                dataloader,
                dataset=dict(
                    type='mtkd_cd.SeededDataset', dataset=dataloader['dataset'], seed=runner.seed
                ),
                sampler=dict(type='mtkd_cd.NumberedSampler', sampler=dataloader['sampler']),
            )
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed)
            dataloader.worker_init_fn = PatientWorker(dataloader.worker_init_fn)
        if max_epochs is not None:
            max_iters = max_epochs * len(dataloader)
            val_interval *= len(dataloader) if val_by_epoch else 1
        super().__init__(runner, dataloader, max_iters, val_interval=val_interval, **kwargs)

    def run(self) -> nn.Module:
        """Launch training."""
        validates = self.runner.val_loop is not None and self._iter >= self.val_begin
        if (
            self._iter > 0
            and validates
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        ):
            self.runner.val_loop.run()
        return super().run()

    def run_iter(self, data_batch: Any) -> None:
        """One step, its random numbers fixed by its number."""
        _seed_all(self.runner.seed, get_rank(), _STEP, self._iter)
        super().run_iter(data_batch)


@DATA_SAMPLERS.register_module()
class NumberedSampler(Sampler):
    """Yields (position in the stream, index) for every index of another sampler; iterated again,
    the positions go on.

    Args:
        dataset: Given by the runner.
        sampler: Config of the sampler: ``InfiniteSampler``, for a resumed run to find its place.
        seed: Given by the runner.
    """

    def __init__(self, dataset: Sized, sampler: Mapping[str, Any], seed: int | None = None) -> None:
        self.sampler = DATA_SAMPLERS.build(
            dict(sampler), default_args=dict(dataset=dataset, seed=seed)
        )
        self._length = math.ceil(len(dataset) / get_world_size())
        self._position = 0
        self._skipped = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        skipped, self._skipped = self._skipped, 0
        for index in itertools.islice(self.sampler, skipped, None):
            yield self._position, index
            self._position += 1

    def __len__(self) -> int:
        """Samples of an epoch in this process; mmengine's infinite sampler gives those of all
        processes."""
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """As the other sampler does."""
        self.sampler.set_epoch(epoch)

    def skip(self, num_samples: int) -> None:
        """Start at this position of the stream; mmengine's loop calls it on resume."""
        self._position = self._skipped = num_samples


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A data set whose item (position, index) is item ``index`` of another, augmented with the
    random numbers of ``position``.

    Args:
        dataset: Config of the data set.
        seed: Seed of the run.
    """

    def __init__(self, dataset: Mapping[str, Any], seed: int) -> None:
        self.dataset = DATASETS.build(dataset)
        self.seed = seed
        self.rank = get_rank()  # a loader's worker process would not know it

    def __getitem__(self, numbered: tuple[int, int]) -> Any:
        position, index = numbered
        _seed_all(self.seed, self.rank, _DATA, position)
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        """Everything else (``metainfo``, ``full_init``, ``get_data_info``, ...) is the wrapped data
        set's."""
        # Special methods belong to this class; `dataset` is not there yet while being copied or
        # unpickled.
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)
