"""The distillation losses: how far a student's change map is from a teacher's."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import MODELS

Match = Literal['mse', 'kl', 'margin']


def with_channels(change_map: Tensor, channels: int) -> Tensor:
    """Give a change map of one or two channels, (N, C, h, w) or (C, h, w), the number of channels
    wanted. Its probabilities stay the same. Any other map is returned unchanged."""
    found = change_map.shape[-3]
    if (found, channels) == (1, 2):
        return torch.cat([torch.zeros_like(change_map), change_map], -3)
    if (found, channels) == (2, 1):
        unchanged, changed = change_map.split(1, -3)
        return changed - unchanged
    return change_map


@MODELS.register_module()
class ChangeMapLoss(nn.Module):
    """lambda times the distance between the student's and the teacher's change map.

    Args:
        match: What is compared. ``'mse'``: the raw maps, by the mean squared error, as in the paper
            (arXiv:2502.13407, eq. 4 and 5). ``'kl'``: the probabilities of change, by the
            Kullback-Leibler divergence of the student's from the teacher's (arXiv:1503.02531).
            ``'margin'``: the log-odds of change (changed minus unchanged), by the mean squared
            error; what both channels of a softmax have in common does not count.
        temperature: Divides the logits before ``'kl'``, whose value is multiplied by its square.
        loss_weight: The paper's lambda.
        loss_name: Key of the entry in the loss dictionary. It must contain ``loss``: mmengine sums
            only such entries, and under Open-CD's name ``distill`` the term is logged and never
            reaches a gradient.

    Raises:
        UserError: An unknown ``match``, a temperature that is not positive, or a ``loss_name``
            without ``loss`` in it.
    """

    def __init__(
        self,
        match: Match = 'mse',
        temperature: float = 1.0,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_distill',
    ) -> None:
        super().__init__()
        if match not in _ERRORS:
            raise UserError(f'match={match!r}: choose one of {", ".join(map(repr, _ERRORS))}')
        if not temperature > 0:
            raise UserError(f'temperature={temperature!r}: it must be above 0')
        if 'loss' not in loss_name:
            raise UserError(
                f"loss_name={loss_name!r}: without 'loss' in its name the term is logged and not "
                "trained on; take 'loss_distill'"
            )
        self.match = match
        self.temperature = temperature
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        # Of the unweighted distance in the log; mmengine must not sum it, so no `loss` in it.
        self.log_name = f'{match}_distill'

    def forward(self, student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
        """lambda times :meth:`distance`, whose arguments it takes."""
        return self.loss_weight * self.distance(student, teacher, weight)

    def distance(self, student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compare two change maps, in float32 whatever precision they come in.

        Args:
            student: (N, C, h, w) raw output of the student's decode head; one (sigmoid) or two
                (softmax) channels.
            teacher: (N, C, h, w) of the teacher's; receives no gradient.
            weight: (N, 1, h, w) in [0, 1], how much of each cell counts. ``None`` counts every
                cell.

        Returns:
            Scalar. 0, with a gradient of 0, when no cell counts.
        """
        error = _ERRORS[self.match](student.float(), teacher.detach().float(), self.temperature)
        if weight is None:
            return error.mean()
        weight = weight.to(error.dtype)
        counted = (weight.sum() * error.shape[1]).clamp(min=torch.finfo(error.dtype).tiny)
        return (error * weight).sum() / counted


@MODELS.register_module()
class ChangeMapMSELoss(ChangeMapLoss):
    """The paper's distillation loss: :class:`ChangeMapLoss` with ``match='mse'``.

    Args:
        loss_weight: The paper's lambda.
        loss_name: As there.
    """

    def __init__(self, loss_weight: float = 1.0, loss_name: str = 'loss_distill') -> None:
        super().__init__('mse', loss_weight=loss_weight, loss_name=loss_name)


def _squared_error(student: Tensor, teacher: Tensor, _: float) -> Tensor:
    return (student - teacher).square()


def _squared_margin_error(student: Tensor, teacher: Tensor, _: float) -> Tensor:
    return (with_channels(student, 1) - with_channels(teacher, 1)).square()


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    student, teacher = (
        F.log_softmax(with_channels(change_map, 2) / temperature, dim=1)
        for change_map in (student, teacher)
    )
    divergence = (teacher.exp() * (teacher - student)).sum(1, keepdim=True)  # (N, 1, h, w)
    return divergence * temperature**2


_ERRORS = {'mse': _squared_error, 'kl': _divergence, 'margin': _squared_margin_error}
