"""Both dates through shared weights: in one pass wherever that gives the numbers of two."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def on_both_dates(
    function: Callable[[Any], Any], date1: Any, date2: Any, weights: nn.Module
) -> tuple[Any, Any]:
    """Return ``function(date1), function(date2)``. Where no sample's result depends on other
    samples, make one call with both dates in the batch.

    Results depend on other samples where batch norm is in training mode. Then each date is
    normalised by its own statistics, and the running statistics are updated twice, with date 1
    first. Open-CD's checkpoints were trained so.

    Args:
        function: Takes and returns (N, ...) tensors or sequences of them.
        date1: Its argument for date A.
        date2: Its argument for date B, of the same shapes.
        weights: The module whose weights ``function`` uses; it says whether batch statistics are
            taken.
    """
    if any(isinstance(module, _BatchNorm) and module.training for module in weights.modules()):
        return function(date1), function(date2)
    return split_dates(function(stack_dates(date1, date2)))


def stack_dates(date1: Any, date2: Any) -> Any:
    """Two (N, ...) tensors, or sequences of them, as (2N, ...): date A's samples, then date B's."""
    if isinstance(date1, Tensor):
        return torch.cat((date1, date2))
    return [torch.cat(pair) for pair in zip(date1, date2)]


def split_dates(stacked: Any) -> tuple[Any, Any]:
    """The inverse of :func:`stack_dates`."""
    if isinstance(stacked, Tensor):
        # Slices, not chunk(2): an exporter makes a constant of the number of samples in a chunk.
        pairs = stacked.shape[0] // 2
        return stacked[:pairs], stacked[pairs:]
    halves = [split_dates(level) for level in stacked]
    return [half[0] for half in halves], [half[1] for half in halves]
