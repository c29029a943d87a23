"""Backbones, neck and heads on their own."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.backbones import MixVisionTransformer as MMSegMixVisionTransformer
from mmseg.structures.sampler import OHEMPixelSampler as MMSegOHEMPixelSampler

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.backbones import (
    FC_EF,
    FC_Siam_conc,
    FC_Siam_diff,
    IA_MixVisionTransformer,
    MixVisionTransformer,
)
from mtkd_cd.models.decode_heads import DSIdentityHead, IdentityHead, OHEMPixelSampler
from mtkd_cd.models.decode_heads.changer import FDAF, _warp
from mtkd_cd.models.necks import FeatureFusionNeck
from mtkd_cd.registry import MODELS

_TINY_MIT = dict(embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 2, 2, 4])


def test_fused_attention_gives_mmsegs_features():
    ours, theirs = (
        MixVisionTransformer(**_TINY_MIT).eval(),
        MMSegMixVisionTransformer(**_TINY_MIT).eval(),
    )
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 60, 92)
    weights = []
    ours.layers[0][1][0].attn.attn.register_forward_hook(
        lambda module, args, out: weights.append(out[1])
    )
    for level, reference in zip(ours(images), theirs(images)):
        torch.testing.assert_close(level, reference, atol=1e-5, rtol=1e-4)
    assert weights == [None]


def test_interacting_transformer_without_interaction_is_the_plain_one_on_either_date():
    pair, plain = (
        IA_MixVisionTransformer(**_TINY_MIT).eval(),
        MixVisionTransformer(**_TINY_MIT).eval(),
    )
    plain.load_state_dict(pair.state_dict())
    date1, date2 = torch.randn(2, 2, 3, 64, 96)
    for level, one, two in zip(pair(date1, date2), plain(date1), plain(date2)):
        torch.testing.assert_close(level, torch.cat((one, two), dim=1), atol=1e-5, rtol=1e-4)


def test_interaction_of_a_stage_feeds_the_next_one():
    exchange_all = dict(type='ChannelExchange', p=1)
    model = IA_MixVisionTransformer(
        interaction_cfg=(exchange_all, None, None, None), **_TINY_MIT
    ).eval()
    plain = MixVisionTransformer(**_TINY_MIT).eval()
    plain.load_state_dict(model.state_dict())
    date1, date2 = torch.randn(2, 1, 3, 64, 64)
    for level, one, two in zip(model(date1, date2), plain(date1), plain(date2)):
        torch.testing.assert_close(level, torch.cat((two, one), dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('backbone', [FC_EF(6, 4), FC_Siam_conc(3, 4), FC_Siam_diff(3, 4)])
def test_fc_networks_keep_odd_sizes(backbone):
    date1, date2 = torch.randn(2, 2, 3, 77, 53)
    (features,) = backbone(date1, date2)
    assert features.shape == (2, 4, 77, 53)


@pytest.mark.parametrize(('kind', 'channels'), [(FC_EF, 6), (FC_Siam_conc, 3), (FC_Siam_diff, 3)])
def test_dropout_of_fcn_can_be_switched_off(kind, channels):
    dates = torch.randn(2, 2, 3, 16, 16)
    drops, keeps = (kind(channels, 4, dropout=share) for share in (0.2, 0.0))
    assert not torch.equal(drops(*dates)[0], drops(*dates)[0])
    assert torch.equal(keeps(*dates)[0], keeps(*dates)[0])


def test_a_layer_of_fcn_drops_channels_as_behind_its_relu():
    """Bit for bit, gradient too; autograd keeps the map that the next layer reads and no other."""
    backbone = FC_EF(6, 4)
    x = torch.randn(2, 6, 16, 16)
    found, wanted = [], []
    for order in (found, wanted):
        torch.manual_seed(0)
        backbone.zero_grad()
        if order is found:
            out = backbone._run(x, ['11'])
        else:
            out = F.dropout2d(F.relu(backbone.bn11(backbone.conv11(x))), 0.2)
        out.square().sum().backward()
        order += [out, backbone.conv11.weight.grad.clone()]
    assert (found[0] == 0).all((2, 3)).any()  # whole channels
    for one, other in zip(found, wanted):
        assert torch.equal(one, other)


def test_fc_networks_repeat_the_edge_where_pooling_dropped_it():
    backbone = FC_EF(6, 4).eval()
    seen = {}
    backbone.upconv1.register_forward_hook(lambda module, args, out: seen.update(small=out))
    backbone.conv12d.register_forward_hook(lambda module, args, out: seen.update(joined=args[0]))
    backbone(*torch.randn(2, 1, 3, 33, 49))
    assert (seen['small'].shape[2:], seen['joined'].shape[2:]) == ((32, 48), (33, 49))
    assert torch.equal(seen['joined'][:, :4, -1, :-1], seen['small'][:, :, -1])
    assert torch.equal(seen['joined'][:, :4, :-1, -1], seen['small'][..., -1])


def test_fc_siam_diff_sees_no_skip_of_equal_dates():
    backbone = FC_Siam_diff(3, 4).eval()
    seen = []
    backbone.decode = lambda x, skips: seen.extend(skips)
    image = torch.randn(1, 3, 32, 32)
    backbone(image, image)
    assert [skip.abs().max().item() for skip in seen] == [0] * 4


@pytest.mark.parametrize(
    ('policy', 'expected'),
    [
        ('concat', [[1.0, -2, 4, 5]]),
        ('sum', [[5.0, 3]]),
        ('diff', [[3.0, 7]]),
        ('abs_diff', [[3.0, 7]]),
    ],
)
def test_fusion_policies(policy, expected):
    x1, x2 = torch.tensor([[1.0, -2]]), torch.tensor([[4.0, 5]])
    assert torch.equal(FeatureFusionNeck.fusion(x1, x2, policy), torch.tensor(expected))
    if policy == 'diff':
        assert torch.equal(FeatureFusionNeck.fusion(x2, x1, policy), -torch.tensor(expected))


def test_fusion_neck_returns_the_levels_asked_for():
    levels = [torch.full((1, 1), float(i)) for i in range(4)]
    fused = FeatureFusionNeck('sum', out_indices=(2, 0))(levels, levels)
    assert [float(level) for level in fused] == [4, 0]
    with pytest.raises(UserError, match='more levels than the 1'):
        FeatureFusionNeck('sum')(levels[:1], levels[:1])


@pytest.mark.parametrize(('axis', 'name'), [(0, 'columns'), (1, 'rows')])
def test_warp_shifts_by_whole_pixels_on_non_square_maps(axis, name):
    x = torch.randn(1, 2, 5, 9)
    flow = torch.zeros(1, 2, 5, 9)
    size = (9, 5)[axis]
    flow[:, axis] = (
        2 * size / (size - 1)
    )  # one pixel: a flow of 1 is 1/size of the coordinate range -1..1, which has size - 1 steps
    shifted = F.pad(x, (0, 1))[..., 1:] if axis == 0 else F.pad(x, (0, 0, 0, 1))[..., 1:, :]
    torch.testing.assert_close(_warp(x, flow), shifted, atol=1e-5, rtol=1e-5)


def test_fdaf_with_zero_flow_subtracts_the_dates():
    layer = FDAF(4)
    torch.nn.init.zeros_(layer.flow_make[3].weight)
    x1, x2 = torch.randn(2, 2, 4, 6, 10)
    torch.testing.assert_close(
        layer(x1, x2), torch.cat((x1 - x2, x2 - x1), dim=1), atol=1e-5, rtol=1e-5
    )


def test_fdaf_keeps_the_memory_order_of_its_maps():
    layer, dates = FDAF(4).eval(), torch.randn(2, 2, 4, 6, 5)
    usual = layer(*dates)
    assert usual.is_contiguous()
    last = layer(*(date.contiguous(memory_format=torch.channels_last) for date in dates))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, usual)


def test_fdaf_keeps_pixel_positions_exact_in_half_precision():
    x = torch.randn(1, 1, 4, 512, dtype=torch.float16)
    torch.testing.assert_close(
        _warp(x, torch.zeros(1, 2, 4, 512, dtype=torch.float16)), x, atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize(
    ('thresh', 'min_kept'),
    [(0.7, 2), (0.7, 100), (0.7, 300), (0.7, 100000), (0.3, 100), (None, 100)],
)
def test_hard_pixels_are_mmsegs(thresh, min_kept):
    logits = 3 * torch.randn(2, 2, 20, 24)
    labels = torch.randint(0, 2, (2, 1, 20, 24))
    labels[:, :, -3:] = 255

    def loss(logits, labels, **kwargs):
        return F.cross_entropy(logits, labels, reduction='none', ignore_index=255)

    head = SimpleNamespace(ignore_index=255, loss_decode=loss)
    weights = OHEMPixelSampler(context=head, thresh=thresh, min_kept=min_kept).sample(
        logits, labels
    )
    assert torch.equal(
        weights,
        MMSegOHEMPixelSampler(context=head, thresh=thresh, min_kept=min_kept).sample(
            logits, labels
        ),
    )
    assert 0 < weights.mean() < 1


def test_batch_without_valid_pixels_has_no_hard_ones():
    sampler = OHEMPixelSampler(context=SimpleNamespace(ignore_index=255), thresh=0.7)
    assert sampler.sample(torch.randn(1, 2, 4, 4), torch.full((1, 1, 4, 4), 255)).sum() == 0


def test_identity_head_returns_the_selected_features_and_has_no_weights():
    head = IdentityHead(
        in_channels=1,
        in_index=1,
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )
    head.init_weights()
    features = [torch.zeros(1, 1, 4, 4), torch.randn(1, 1, 4, 4)]
    assert head(features) is features[1]
    assert not head.state_dict()


def test_one_channel_takes_a_binary_loss(make_pairs):
    loss = dict(type='CrossEntropyLoss')
    head = IdentityHead(in_channels=1, num_classes=1, loss_decode=loss)
    _, samples = make_pairs(2, 32)
    with pytest.raises(UserError, match=r'num_classes=1, .*use_sigmoid=True'):
        head.loss([torch.randn(2, 1, 8, 8)], samples, {})


def test_deep_supervision_takes_the_loss_of_every_level_at_the_labels_size(make_pairs):
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    head = DSIdentityHead(
        in_channels=[1, 1],
        in_index=[1, 0],
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        input_transform='multiple_select',
        loss_decode=[loss, dict(loss, loss_weight=0.5)],
    )
    _, samples = make_pairs(2, 32)
    levels = [torch.randn(2, 1, 8, 8), torch.randn(2, 1, 16, 16)]
    losses = head.loss(levels, samples, {})
    assert set(losses) == {'aux_0_loss_ce', 'aux_1_loss_ce', 'acc_seg'}
    label = torch.stack([sample.gt_sem_seg.data for sample in samples])
    for name, level in (('aux_0_loss_ce', levels[1]), ('aux_1_loss_ce', levels[0])):
        logits = F.interpolate(level, (32, 32), mode='bilinear')
        valid = label != 255
        bce = (
            F.binary_cross_entropy_with_logits(logits, (label == 1).float(), reduction='none')
            * valid
        )
        assert float(losses[name]) == pytest.approx(1.5 * float(bce.mean()), rel=1e-5)


@pytest.mark.parametrize('channels', [1, 2])
def test_cross_entropy_divides_by_ignored_pixels_too_unless_told_not_to(channels):
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    label[:, 0] = 255
    logits = torch.zeros(1, channels, 8, 8)
    means = [
        float(
            MODELS.build(
                dict(type='CrossEntropyLoss', use_sigmoid=channels == 1, avg_non_ignore=valid)
            )(logits, label, ignore_index=255)
        )
        for valid in (False, True)
    ]
    assert means == pytest.approx([math.log(2) * 56 / 64, math.log(2)])
