"""Handing a batch that one detector's preprocessor normalised to a detector with another one."""

import torch
from torch import Tensor, nn

from mtkd_cd.models.data_preprocessor import PAIR_CHANNELS

_NUMBERS = ('_source_mean', '_source_std', '_target_mean', '_target_std')


class InputConverter:
    """From the normalisation of one detector's data preprocessor to that of another's.

    Args:
        source: Data preprocessor that made the batch.
        target: That of the detector which will see it.
    """

    def __init__(self, source: nn.Module, target: nn.Module) -> None:
        self._source_mean, self._source_std, source_swaps = _normalisation(source)
        self._target_mean, self._target_std, target_swaps = _normalisation(target)
        self._swap = source_swaps != target_swaps
        self._is_identity = (
            not self._swap
            and torch.equal(self._source_mean, self._target_mean)
            and torch.equal(self._source_std, self._target_std)
        )

    def __call__(self, inputs: Tensor) -> Tensor:
        """(N, 6, H, W) -> (N, 6, H, W); the same tensor where the two preprocessors agree."""
        if self._is_identity:
            return inputs
        source_mean, source_std, target_mean, target_std = self._numbers_for(inputs)
        pixels = inputs * source_std + source_mean
        # RGB <-> BGR, each date on its own; preprocessors swap nothing of other bands.
        if self._swap and pixels.shape[1] == PAIR_CHANNELS:
            pixels = pixels.unflatten(1, (-1, 3)).flip(2).flatten(1, 2)
        return (pixels - target_mean) / target_std

    def _numbers_for(self, inputs: Tensor) -> list[Tensor]:
        """Means and deviations where ``inputs`` are: copied once, as the host waits for that."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name).to(inputs.device))
        return [getattr(self, name).to(inputs.dtype) for name in _NUMBERS]


def _normalisation(preprocessor: nn.Module) -> tuple[Tensor, Tensor, bool]:
    swaps = bool(
        getattr(
            preprocessor, 'channel_conversion', getattr(preprocessor, '_channel_conversion', False)
        )
    )
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    if mean is None or std is None:
        return torch.zeros(1), torch.ones(1), swaps
    return mean.detach().cpu().float(), std.detach().cpu().float(), swaps
