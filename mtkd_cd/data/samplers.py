"""The order in which training data are drawn."""

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class RatioSampler(Sampler):
    """Draws from the parts of a ``ConcatDataset`` at a fixed ratio, endlessly: labelled to
    unlabelled pairs, say.

    The parts take turns, spread as evenly as the ratio lets them. A batch whose size is a multiple
    of the ratio's sum holds the same number of each, in every process. Each part is drawn through,
    shuffled, before it begins anew. For iteration-based loops, as mmengine's ``InfiniteSampler``.

    Args:
        dataset: A ``ConcatDataset``, or a wrapper that answers for one; given by the runner.
        ratio: Shares of the parts, integers.
        shuffle: Whether to draw in random order.
        seed: Given by the runner; one for all processes.

    Raises:
        UserError: No ``ConcatDataset``, another number of shares than it has parts, or a share of
            a part that is empty.
    """

    def __init__(
        self,
        dataset: Sized,
        ratio: Sequence[int] = (1, 1),
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        ends: Any = getattr(dataset, 'cumulative_sizes', None)
        if ends is None or len(ends) != len(ratio):
            parts = 'no ConcatDataset' if ends is None else f'a ConcatDataset of {len(ends)} parts'
            raise UserError(
                f'RatioSampler(ratio={tuple(ratio)}) draws from a ConcatDataset with a part for '
                f'each share, found {parts}'
            )
        if not all(isinstance(share, int) and share >= 0 for share in ratio) or not sum(ratio):
            raise UserError(f'ratio={tuple(ratio)}: shares are integers of 0 or more')
        self._parts = [range(start, end) for start, end in zip([0, *ends], ends)]
        self.ratio = tuple(ratio)
        empty = [number for number, part in enumerate(self._parts) if ratio[number] and not part]
        if empty:
            raise UserError(
                f'ratio={self.ratio}: part {empty[0]} of the ConcatDataset holds no pair; give it '
                'the share 0, or take fewer folds'
            )
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self._rank, self._world_size = get_dist_info()
        self._size = len(dataset)

    def __iter__(self) -> Iterator[int]:
        streams = [self._stream(number) for number in range(len(self._parts))]
        drawn = [0] * len(streams)
        while True:
            # Whose turn it is: the part that is the furthest behind its share.
            behind = [
                (drawn[part] + 0.5) / share if share else torch.inf
                for part, share in enumerate(self.ratio)
            ]
            part = behind.index(min(behind))
            drawn[part] += 1
            if tuple(drawn) == self.ratio:
                drawn = [0] * len(streams)
            yield next(streams[part])

    def _stream(self, number: int) -> Iterator[int]:
        """This process's indices of one part."""
        part = self._parts[number]
        generator = torch.Generator().manual_seed(self.seed * 1009 + number)
        position = 0
        while True:
            order = (
                torch.randperm(len(part), generator=generator).tolist()
                if self.shuffle
                else range(len(part))
            )
            for index in order:
                if position % self._world_size == self._rank:
                    yield part[index]
                position += 1

    def __len__(self) -> int:
        return self._size

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the stream has no end."""
