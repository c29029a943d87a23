"""Several frozen detectors of one architecture as one: their weights stacked, their batches
side by side."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.prepare import PREPARED_METHODS

Batching = Literal['grouped', 'stacked', 'auto']
BATCHINGS = ('grouped', 'stacked', 'auto')
# Of the largest value; what the two ways may differ by.
TOLERANCE = 1e-5
_ROUNDS = 3

# One detector's inputs, and its change maps.
Question = tuple[str, Tensor]
Maps = tuple[Tensor, ...]


class Stack:
    """Detectors of one architecture that are evaluated together by ``torch.func.vmap``.

    Each of them sees as many images as the one that is asked about most, so that batches of unequal
    sizes cost more than they need.

    Args:
        detectors: Prepared detectors by name (:func:`~mtkd_cd.models.prepare.prepare`).
        as_maps: Makes a tuple of change maps of what a detector returns.

    Raises:
        ValueError: They are not of one architecture.
    """

    def __init__(self, detectors: Mapping[str, nn.Module], as_maps: Callable[[Any], Maps]) -> None:
        self._rows = {name: row for row, name in enumerate(detectors)}
        self._as_maps = as_maps
        plain = [_without_entrances(detector) for detector in detectors.values()]
        shapes = [
            [(name, tensor.shape, tensor.dtype) for name, tensor in one.state_dict().items()]
            for one in plain
        ]
        if any(found != shapes[0] for found in shapes) or len({type(one) for one in plain}) > 1:
            raise ValueError('the teachers are not of one architecture')
        weights, buffers = stack_module_state(plain)
        self._weights = {name: tensor.detach() for name, tensor in weights.items()}
        self._buffers = {name: tensor.detach() for name, tensor in buffers.items()}
        self._network = plain[0]

    def change_maps(self, questions: Sequence[Question]) -> list[Maps]:
        """What each detector that is named says about its (n, 6, H, W); n may differ."""
        sizes = [len(inputs) for _, inputs in questions]
        batches = torch.stack([_filled_up(inputs, max(sizes)) for _, inputs in questions])
        rows = [self._rows[name] for name, _ in questions]
        weights, buffers = (
            {name: _rows_of(tensor, rows) for name, tensor in tensors.items()}
            for tensors in (self._weights, self._buffers)
        )

        def call(weights: dict, buffers: dict, inputs: Tensor) -> Maps:
            arguments = dict(inputs=inputs, mode='tensor')
            output = functional_call(self._network, (weights, buffers), (), arguments)
            return self._as_maps(output)

        # As one after the other: layers may take another way in this mode, and round otherwise.
        with torch.inference_mode():
            stacked = vmap(call)(weights, buffers, batches)  # (K, n, C, h, w) each
        # A loss keeps them, for which those of that mode are no good.
        return [tuple(maps[i, :size].clone() for maps in stacked) for i, size in enumerate(sizes)]


def faster(one: Callable[[], Any], other: Callable[[], Any]) -> tuple[bool, float, float]:
    """Whether the second of two calls is the faster one, and the seconds that each takes at best
    of a few rounds in turn."""
    best = [float('inf')] * 2
    for _ in range(_ROUNDS):
        for i, call in enumerate((one, other)):
            _finish()
            start = time.perf_counter()
            call()
            _finish()
            best[i] = min(best[i], time.perf_counter() - start)
    one_s, other_s = best
    return other_s < one_s, one_s, other_s


def check_same(grouped: Sequence[Maps], stacked: Sequence[Maps]) -> None:
    """Refuse stacked results that are not those of one detector after the other.

    Raises:
        ValueError: They differ by more than rounding does.
    """
    for ours, theirs in zip(grouped, stacked, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            largest = float(one.abs().max())
            difference = float((one - other).abs().max())
            if not difference <= TOLERANCE * max(largest, 1e-6):
                raise ValueError(f'results differ by {difference:.1e} of {largest:.1e}')


def check_batching(batching: str) -> None:
    """Raise a UserError unless this is a way to ask teachers."""
    if batching not in BATCHINGS:
        raise UserError(
            f'teacher_batching={batching!r}: choose one of {", ".join(map(repr, BATCHINGS))}'
        )


class Asking:
    """How teachers are asked about a batch: one after the other, or stacked.

    The first time that several are asked, both ways are compared in full precision, whatever is
    chosen; ``'auto'`` takes the faster one and says so in the log. Under autocast stacked teachers
    compute in full precision.

    Args:
        batching: ``'grouped'``: one after the other. ``'stacked'``, ``'auto'``: see above.
    """

    def __init__(self, batching: Batching) -> None:
        check_batching(batching)
        self._batching = batching
        self._decided = batching == 'grouped'
        self._stack: Stack | None = None
        self._of: list[nn.Module] = []

    @property
    def may_stack(self) -> bool:
        """Whether all teachers are needed, not only those that are asked."""
        return self._batching != 'grouped'

    def __call__(
        self,
        questions: Sequence[Question],
        detectors: Mapping[str, nn.Module],
        one_by_one: Callable[[Sequence[Question]], list[Maps]],
        as_maps: Callable[[Any], Maps],
    ) -> list[Maps]:
        """The change maps of each detector for its inputs.

        Args:
            questions: (name, inputs as that detector takes them).
            detectors: All prepared teachers.
            one_by_one: Asks them in turn.
            as_maps: See :class:`Stack`.

        Raises:
            UserError: ``'stacked'``, and they cannot be.
        """
        if not self.may_stack or len(questions) < 2:
            return one_by_one(questions)
        if not self._decided:
            return self._decide(questions, detectors, one_by_one, as_maps)
        return self._stacked(detectors, as_maps).change_maps(questions)

    def _stacked(self, detectors: Mapping[str, nn.Module], as_maps: Callable[[Any], Maps]) -> Stack:
        current = list(detectors.values())
        if self._stack is None or any(a is not b for a, b in zip(current, self._of, strict=True)):
            self._stack, self._of = Stack(detectors, as_maps), current
        return self._stack

    def _decide(
        self,
        questions: Sequence[Question],
        detectors: Mapping[str, nn.Module],
        one_by_one: Callable[[Sequence[Question]], list[Maps]],
        as_maps: Callable[[Any], Maps],
    ) -> list[Maps]:
        self._decided = True
        maps = one_by_one(questions)
        try:
            stack = self._stacked(detectors, as_maps)
            device = questions[0][1].device.type
            if torch.is_autocast_enabled(device):
                # One after the other they round there. Stacked not: vmap passes autocast by.
                with torch.autocast(device, enabled=False):
                    check_same(one_by_one(questions), stack.change_maps(questions))
            else:
                check_same(maps, stack.change_maps(questions))
        except Exception as error:  # of any layer: not everything can be stacked
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if self._batching == 'stacked':
                raise UserError(
                    f"teacher_batching='stacked': these teachers cannot be asked together "
                    f"({reason}). Take 'grouped'"
                ) from error
            self._take('grouped', f'they cannot be asked together ({reason})')
            return maps
        if self._batching == 'auto':
            is_faster, *seconds = faster(
                lambda: one_by_one(questions), lambda: stack.change_maps(questions)
            )
            times = '{:.1f} ms one after the other, {:.1f} ms stacked'.format(
                *(1000 * one for one in seconds)
            )
            self._take('stacked' if is_faster else 'grouped', times)
        return maps

    def _take(self, batching: Batching, reason: str) -> None:
        self._batching = batching
        if batching == 'grouped':
            self._stack, self._of = None, []
        print_log(f'teacher_batching={batching!r}: {reason}', logger='current')

    def __reduce__(self) -> tuple:
        """Copy and pickle without the stack; the way that was chosen stays chosen."""
        return _asking, (self._batching, self._decided)


def _asking(batching: Batching, decided: bool) -> Asking:
    asking = Asking(batching)
    asking._decided = decided
    return asking


def _without_entrances(detector: nn.Module) -> nn.Module:
    """A shallow copy, the methods of the class in place of those that enter inference mode."""
    shared = {id(tensor): tensor for tensor in (*detector.parameters(), *detector.buffers())}
    plain = copy.deepcopy(detector, shared)
    for name in PREPARED_METHODS:
        plain.__dict__.pop(name, None)
    return plain


def _filled_up(inputs: Tensor, size: int) -> Tensor:
    if len(inputs) == size:
        return inputs
    return torch.cat((inputs, inputs[:1].expand(size - len(inputs), -1, -1, -1)))


def _rows_of(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    if list(rows) == list(range(len(tensor))):
        return tensor
    return torch.stack([tensor[row] for row in rows])


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
