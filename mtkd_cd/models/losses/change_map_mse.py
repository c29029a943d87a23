"""The distillation loss of MTKD: the mean squared error between two change maps."""

import torch
from torch import Tensor, nn

from mtkd_cd.registry import MODELS


@MODELS.register_module()
class ChangeMapMSELoss(nn.Module):
    """lambda * MSE between the student's and the teacher's change map (arXiv:2502.13407, eq. 4 and
    5).

    Args:
        loss_weight: The paper's lambda.
        loss_name: Key of the entry in the loss dictionary. It must contain ``loss``: mmengine sums
            only such entries, and under Open-CD's name ``distill`` the term is logged and never
            reaches a gradient.
    """

    log_name = 'mse_distill'  # of the unweighted value; mmengine must not sum it, so no `loss` here

    def __init__(self, loss_weight: float = 1.0, loss_name: str = 'loss_distill') -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(self, student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
        """lambda times :meth:`distance`, whose arguments it takes."""
        return self.loss_weight * self.distance(student, teacher, weight)

    def distance(self, student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compare two change maps, in float32 whatever precision they come in.

        Args:
            student: (N, C, h, w) raw output of the student's decode head.
            teacher: (N, C, h, w) of the teacher's; receives no gradient.
            weight: (N, 1, h, w) in [0, 1], how much of each cell counts. ``None`` counts every
                cell.

        Returns:
            Scalar. 0, with a gradient of 0, when no cell counts.
        """
        error = (student.float() - teacher.detach().float()).square()
        if weight is None:
            return error.mean()
        weight = weight.to(error.dtype)
        counted = (weight.sum() * error.shape[1]).clamp(min=torch.finfo(error.dtype).tiny)
        return (error * weight).sum() / counted
