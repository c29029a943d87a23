"""What the golden numbers of STANet do not show: its attention modules, its threshold, its loss
with other settings."""

import pytest
import torch
from torch.nn import functional as F

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.decode_heads import STAHead
from mtkd_cd.models.decode_heads.stanet import BAM, PAMStage
from mtkd_cd.models.losses import BCLLoss


# Of the distances in Open-CD, with the golden test's weights and inputs; fused attention differs
# from a dense one by up to 1.4e-3.
@pytest.mark.parametrize(
    ('mode', 'entries', 'parameters', 'mean', 'std', 'largest', 'first', 'inner'),
    [
        ('BAM', 175, 12846497, 65.497681, 55.322437, 230.887817, 15.876113, 115.477150),
        ('PAM', 233, 13355872, 36.232239, 35.592018, 167.437958, 102.625031, 32.554295),
    ],
)
def test_attention_modules_compute_what_open_cd_computes(
    mode,
    entries,
    parameters,
    mean,
    std,
    largest,
    first,
    inner,
    build_model,
    seed_weights,
    make_pairs,
):
    model = build_model('stanet_r18', decode_head=dict(sa_mode=mode)).eval()
    assert (len(model.state_dict()), sum(p.numel() for p in model.parameters())) == (
        entries,
        parameters,
    )
    seed_weights(model)
    with torch.no_grad():
        distances = model(make_pairs(2, 128)[0], mode='tensor')
    figures = (
        distances.mean(),
        distances.std(),
        distances.max(),
        distances[0, 0, 0, 0],
        distances[1, 0, 17, 23],
    )
    assert [float(figure) for figure in figures] == pytest.approx(
        [mean, std, largest, first, inner],
        rel=5e-5,
        abs=2e-3,  # another CPU rounds otherwise
    )


def _dense_attention(queries, keys, values):
    """Of (C, positions) each."""
    return values @ (keys.T @ queries / keys.shape[0] ** 0.5).softmax(0)


def test_every_position_of_either_date_attends_to_all_of_both():
    torch.manual_seed(0)
    layer, x = BAM(16, ds=2), torch.randn(1, 16, 4, 12)
    pooled = F.avg_pool2d(x, 2)
    queries, keys, values = (
        conv(pooled)[0].flatten(1) for conv in (layer.query_conv, layer.key_conv, layer.value_conv)
    )
    attended = (
        _dense_attention(queries, keys, values)
        .view(16, 2, 6)
        .repeat_interleave(2, 1)
        .repeat_interleave(2, 2)
    )
    torch.testing.assert_close(layer(x)[0], attended + x[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('ds', [1, 2])
def test_tile_attends_to_itself_and_its_place_at_the_other_date(ds):
    torch.manual_seed(0)
    stage, x = PAMStage(16, tiles=2, ds=ds).eval(), torch.randn(1, 16, 4 * ds, 16 * ds)
    pooled = F.avg_pool2d(x, ds)
    maps = [projection(pooled)[0] for projection in (stage.f_query, stage.f_key, stage.f_value)]
    expected = torch.empty(16, 4, 16)
    for rows in (slice(0, 2), slice(2, 4)):
        for columns in (slice(0, 4), slice(4, 8)):
            both = [columns, slice(columns.start + 8, columns.stop + 8)]
            tiles = [torch.cat([m[:, rows, c] for c in both], dim=2).flatten(1) for m in maps]
            attended = _dense_attention(*tiles).view(16, 2, 8).chunk(2, dim=2)
            for c, part in zip(both, attended):
                expected[:, rows, c] = part
    torch.testing.assert_close(
        stage(x)[0], F.interpolate(expected[None], scale_factor=ds)[0], atol=1e-5, rtol=1e-4
    )


def _head(**kwargs) -> STAHead:
    head = STAHead(
        in_channels=[4],
        in_index=[0],
        channels=8,
        sa_in_channels=16,
        threshold=0.5,
        loss_decode=dict(type='BCLLoss'),
        **kwargs,
    )
    head.init_weights()
    return head


def test_distances_are_judged_before_they_are_enlarged():
    head = _head(sa_mode='None', distance_threshold=1)
    distances = torch.tensor([[0.0, 1.0], [1.001, 500.0]]).view(1, 1, 2, 2).requires_grad_()
    logits = head.predict_by_feat(distances, [dict(img_shape=torch.Size((4, 4)))])
    expected = F.interpolate(
        torch.tensor([[[[-100.0, -100], [100, 100]]]]), size=(4, 4), mode='bilinear'
    )
    assert torch.equal(logits, expected)
    assert distances[0, 0, 1, 1] == 500
    assert int((logits.sigmoid() > head.threshold).sum()) == 8


def test_unbroken_ground_has_the_distance_of_the_added_constant():
    head = _head(sa_mode='None').eval()
    date = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(
        head([torch.cat((date, date), dim=1)]), torch.full((1, 1, 8, 8), 4e-6)
    )


def test_bam_leaves_its_gamma_untrained():
    assert [name for name, p in _head(sa_mode='BAM').named_parameters() if not p.requires_grad] == [
        'netA.Self_Att.gamma'
    ]


def test_settings_and_sizes_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="'BAM', 'PAM' or 'None', found None"):
        _head(sa_mode=None)
    with pytest.raises(UserError, match=r'multiples of 16, found 8 x 24: .* multiples of 64'):
        _head(sa_mode='PAM', sa_ds=2)([torch.zeros(1, 8, 8, 24)])


@pytest.mark.parametrize('ignore_index', [255, 9])
def test_loss_has_open_cds_denominators(ignore_index):
    distances = torch.tensor([0.5, 3.0, 1.5, 4.0]).view(1, 1, 2, 2)
    labels = torch.tensor([[[0, 0], [1, 255]]])
    loss = BCLLoss(margin=2.0, loss_weight=3.0, ignore_index=ignore_index)(
        distances, labels, weight=None, ignore_index=255
    )
    assert float(loss) == pytest.approx(
        3 * ((0.25 + 9) / (3 + ignore_index) + 0.25 / (1 + ignore_index))
    )


def test_loss_with_exact_means_counts_valid_pixels_alone():
    distances = torch.tensor([0.5, 3.0, 1.5, 4.0]).view(1, 1, 2, 2)
    labels = torch.tensor([[[0, 0], [1, 9]]])
    assert float(BCLLoss(ignore_index=9, exact_means=True)(distances, labels)) == pytest.approx(
        (0.25 + 9) / 2 + 0.25 / 1
    )
    assert BCLLoss(exact_means=True)(distances, torch.full_like(labels, 255)) == 0
