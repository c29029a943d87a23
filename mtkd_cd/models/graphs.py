"""Forward passes as CUDA graphs: the host starts all kernels of one with a single call."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

# How often a kind of input comes before it gets a graph: one that is rare does not pay for it.
_TIMES = 3
# The most graphs of one function; each keeps its inputs, its outputs and its list of kernels.
_MOST = 64


class Graphs:
    """A function of one tensor, replayed as CUDA graphs: one for each kind of input.

    A kind is a shape with its order in memory, a type, and a mode of autocast. Inputs of a kind go
    through the function itself until they have come a few times. Graphs of all functions share one
    pool of memory, since each leaves its results outside of it. A function that no graph can hold,
    because it asks the host for a number for instance, stays as it is, and the log says so.

    Args:
        call: Takes a tensor, gives tensors in any nesting, and leaves nothing else changed. It
            draws no random numbers. Its weights stay where they are in memory.
    """

    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        self._call = call
        self._came: Counter = Counter()
        self._graphs: dict[tuple, Callable[[Tensor], Any]] = {}
        self._most = _MOST

    def __call__(self, inputs: Tensor) -> Any:
        """What the function gives for these inputs, in memory of its own."""
        kind = _kind(inputs)
        if kind not in self._graphs:
            self._came[kind] += 1
            if self._came[kind] <= _TIMES or len(self._graphs) >= self._most:
                return self._call(inputs)
            try:
                self._graphs[kind] = capture(self._call, inputs)
            except RuntimeError as error:
                self._most = len(self._graphs)
                print_log(
                    f'No more CUDA graphs: {str(error).splitlines()[0]}. The kernels are started '
                    'one by one, which gives the same numbers',
                    logger='current',
                )
                return self._call(inputs)
        return self._graphs[kind](inputs)

    def __reduce__(self) -> tuple:
        """Copy and pickle without the graphs, which hold the function's own weights."""
        return Graphs, (self._call,)


def capture(call: Callable[[Tensor], Any], inputs: Tensor) -> Callable[[Tensor], Any]:
    """One forward pass as a CUDA graph.

    Args:
        call: See :class:`Graphs`.
        inputs: On a GPU, as those that the graph will be given.

    Returns:
        A function that gives what ``call`` does, for inputs of the same shape and type.

    Raises:
        RuntimeError: The pass cannot be captured.
    """
    with torch.cuda.device(inputs.device):
        held = inputs.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Once outside of the capture, in which libraries cannot choose their algorithms.
            outputs = tree_map_only(Tensor, torch.empty_like, call(held))
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that pins memory, may go on using the GPU.
        with torch.cuda.graph(
            graph, pool=_pool(inputs.device), stream=stream, capture_error_mode='thread_local'
        ):
            _copy_into(outputs, call(held))

    def replay(inputs: Tensor) -> Any:
        held.copy_(inputs)
        graph.replay()
        return tree_map_only(Tensor, Tensor.clone, outputs)

    return replay


def _copy_into(outputs: Any, results: Any) -> None:
    for output, result in zip(tree_leaves(outputs), tree_leaves(results), strict=True):
        if isinstance(output, Tensor):
            output.copy_(result)


def _kind(inputs: Tensor) -> tuple:
    device = inputs.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return inputs.shape, inputs.stride(), inputs.dtype, inputs.device, low


@cache
def _pool(device: torch.device) -> Any:
    return torch.cuda.graph_pool_handle()
