"""SNUNet, HANet and the two-date ResNets, beyond their golden figures."""

import pytest
import torch
from mmseg.models.backbones import ResNeSt, ResNetV1c
from torch import nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.backbones import HAN, FC_Siam_diff, IA_ResNeSt, IA_ResNetV1c, SNUNet_ECAM
from mtkd_cd.models.backbones.hanet import _ChannelAttention, _ColumnAttention, _RowAttention


@pytest.mark.parametrize(('pair', 'plain'), [(IA_ResNetV1c, ResNetV1c), (IA_ResNeSt, ResNeSt)])
def test_two_date_resnet_without_interaction_is_mmsegs_on_either_date(pair, plain):
    settings = dict(depth=18 if plain is ResNetV1c else 50, stem_channels=8, base_channels=8)
    pair, plain = pair(**settings).eval(), plain(**settings)
    plain.eval()
    plain.load_state_dict(pair.state_dict())
    date1, date2 = torch.randn(2, 2, 3, 64, 96)
    for level, one, two in zip(pair(date1, date2), plain(date1), plain(date2)):
        torch.testing.assert_close(level, torch.cat((one, two), dim=1), atol=1e-5, rtol=1e-4)


def test_exchanged_channels_are_what_the_next_stage_sees():
    settings = dict(depth=18, stem_channels=8, base_channels=8)
    model = IA_ResNetV1c(
        interaction_cfg=(None, dict(type='ChannelExchange', p=1), None, None), **settings
    ).eval()
    plain = ResNetV1c(**settings)
    plain.eval()
    plain.load_state_dict(model.state_dict())
    date1, date2 = torch.randn(2, 1, 3, 64, 64)
    for i, (level, one, two) in enumerate(zip(model(date1, date2), plain(date1), plain(date2))):
        expected = (one, two) if i == 0 else (two, one)
        torch.testing.assert_close(level, torch.cat(expected, dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    'backbone',
    [FC_Siam_diff(3, 4), SNUNet_ECAM(3, 8), HAN(3, 8), IA_ResNetV1c(depth=18, base_channels=8)],
)
def test_shared_batch_norms_count_two_dates_per_training_step(backbone):
    backbone.train()(*torch.randn(2, 2, 3, 32, 32))
    first = next(module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))
    assert int(first.num_batches_tracked) == 2


@pytest.mark.parametrize(
    ('backbone', 'divisor', 'works'),
    [(SNUNet_ECAM(3, 8), 16, '48 x 64'), (HAN(3, 8), 8, '40 x 56')],
)
def test_sizes_that_do_not_divide_are_refused_with_one_that_does(backbone, divisor, works):
    assert backbone.eval()(*torch.randn(2, 1, 3, divisor, 2 * divisor))[0].shape[2:] == (
        divisor,
        2 * divisor,
    )
    with pytest.raises(
        UserError, match=rf'{type(backbone).__name__}.* {divisor}, found 40 x 50: pad to {works}'
    ):
        backbone(*torch.randn(2, 1, 3, 40, 50))


@pytest.mark.parametrize(('layer', 'dim'), [(_RowAttention, 3), (_ColumnAttention, 2)])
def test_axial_attention_is_the_unscaled_softmax_of_dot_products_along_one_axis(layer, dim):
    layer = layer(6)
    nn.init.constant_(layer.gamma, 0.7)
    x = torch.randn(2, 6, 4, 5)
    query, key, value = (
        conv(x).movedim(dim, -1).movedim(1, -1)
        for conv in (layer.query_conv, layer.key_conv, layer.value_conv)
    )
    attention = torch.einsum('nric,nrjc->nrij', query, key).softmax(-1)
    gathered = torch.einsum('nrij,nrjc->nrci', attention, value).movedim(2, 1).movedim(-1, dim)
    torch.testing.assert_close(layer(x), 0.7 * gathered + x)


def test_channel_attention_stays_finite_where_half_precision_would_overflow():
    layer = _ChannelAttention()
    nn.init.ones_(layer.gamma)
    x = torch.ones(1, 32, 512, 512)
    with torch.autocast('cpu', dtype=torch.float16):
        out = layer(x)
    torch.testing.assert_close(out, 2 * x)


def test_hanets_unused_layers_take_no_part_in_training():
    names = {
        name.split('.')[0]
        for name, parameter in HAN(3, 8).named_parameters()
        if not parameter.requires_grad
    }
    assert names == {'c4_conv', 'c3_conv', 'c2_conv', 'c1_conv'}
