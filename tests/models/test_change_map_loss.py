import pytest
import torch
import torch.nn.functional as F

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.losses import ChangeMapLoss, ChangeMapMSELoss

STUDENT, TEACHER = torch.randn(2, 3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(1))


def weighted(error):
    return (error * WEIGHT[:, 0]).sum() / WEIGHT.sum()


def test_default_is_the_papers_mean_squared_error():
    expected = 0.3 * F.mse_loss(STUDENT, TEACHER)
    for loss in (ChangeMapLoss(loss_weight=0.3), ChangeMapMSELoss(0.3)):
        torch.testing.assert_close(loss(STUDENT, TEACHER), expected)


def test_divergence_equals_torchs_under_a_temperature():
    loss = ChangeMapLoss('kl', temperature=2.0)
    expected = F.kl_div(
        (STUDENT / 2).log_softmax(1), (TEACHER / 2).softmax(1), reduction='none'
    ).sum(1)
    torch.testing.assert_close(loss(STUDENT, TEACHER), 4 * expected.mean())
    torch.testing.assert_close(loss(STUDENT, TEACHER, WEIGHT), 4 * weighted(expected))


@pytest.mark.parametrize('match', ['kl', 'margin'])
def test_one_channel_of_log_odds_equals_two_of_logits(match):
    loss = ChangeMapLoss(match)
    margins = [maps[:, 1:] - maps[:, :1] for maps in (STUDENT, TEACHER)]
    torch.testing.assert_close(loss(STUDENT, TEACHER), loss(*margins))


def test_margin_ignores_what_both_channels_share():
    loss = ChangeMapLoss('margin')
    error = ((STUDENT - TEACHER)[:, 1] - (STUDENT - TEACHER)[:, 0]).square()
    torch.testing.assert_close(loss(STUDENT + 7, TEACHER, WEIGHT), weighted(error))


@pytest.mark.parametrize('match', ['mse', 'kl', 'margin'])
def test_equal_maps_cost_nothing_and_gradients_reach_the_student_alone(match):
    loss = ChangeMapLoss(match, temperature=3.0)
    assert loss(TEACHER, TEACHER).item() == pytest.approx(0, abs=1e-6)
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    loss(student, teacher, WEIGHT).backward()
    assert student.grad.any()
    assert teacher.grad is None
    assert loss(student, teacher, torch.zeros_like(WEIGHT)) == 0
    assert 'loss' not in loss.log_name  # mmengine would train on it a second time


@pytest.mark.parametrize(
    'wrong', [dict(match='l1'), dict(temperature=0), dict(loss_name='distill')]
)
def test_bad_arguments_are_refused(wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong)))):
        ChangeMapLoss(**wrong)
