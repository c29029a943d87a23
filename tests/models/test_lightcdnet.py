"""What the golden numbers of LightCDNet do not show."""

import pytest
import torch
import torch.nn.functional as F

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.backbones import LightCDNet
from mtkd_cd.models.backbones.lightcdnet import ChannelNorm, CrissCrossAttention
from mtkd_cd.models.necks import TinyFPN


# Mean and standard deviation of the decode head's output in Open-CD, with the golden test's weights
# and inputs.
@pytest.mark.parametrize(
    ('net_type', 'widths', 'parameters', 'mean', 'std'),
    [
        ('base', [24, 116, 232, 464], 1318433, -125.558945, 39.324123),
        ('large', [24, 176, 352, 704], 2821019, -1453.770142, 1010.295166),
    ],
)
def test_larger_networks_compute_what_open_cd_computes(
    net_type, widths, parameters, mean, std, build_model, seed_weights, make_pairs
):
    model = build_model(
        'lightcdnet_s', backbone=dict(net_type=net_type), neck=dict(in_channels=widths)
    ).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    seed_weights(model)
    with torch.no_grad():
        change_map = model(make_pairs(2, 128)[0], mode='tensor')
    assert float(change_map.mean()) == pytest.approx(mean, rel=1e-5)
    assert float(change_map.std()) == pytest.approx(std, rel=1e-5)


def test_pixel_attends_to_its_row_and_column_and_once_to_itself():
    torch.manual_seed(0)
    layer = CrissCrossAttention(16)
    torch.nn.init.constant_(layer.gamma.scale, 0.7)
    x = torch.randn(1, 16, 3, 4)
    query, key, value = (
        conv(x)[0] for conv in (layer.query_conv, layer.key_conv, layer.value_conv)
    )
    expected = x[0].clone()
    for h in range(3):
        for w in range(4):
            seen = [(h, j) for j in range(4)] + [(i, w) for i in range(3) if i != h]
            weights = torch.stack([query[:, h, w] @ key[:, i, j] for i, j in seen]).softmax(0)
            expected[:, h, w] += 0.7 * sum(
                weight * value[:, i, j] for weight, (i, j) in zip(weights, seen)
            )
    torch.testing.assert_close(layer(x)[0], expected)


def test_channel_norm_is_layer_norm_of_every_pixel():
    torch.manual_seed(0)
    norm = ChannelNorm(24)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 24, 3, 5)
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (24,), norm.weight, norm.bias, eps=1e-6).permute(
        0, 3, 1, 2
    )
    torch.testing.assert_close(norm(x), expected)


def test_layers_behind_the_last_tap_change_nothing_and_do_not_train():
    model = LightCDNet([4, 8, 4])
    trained = {
        int(name.split('.')[1])
        for name, p in model.named_parameters()
        if p.requires_grad and name.startswith('stages.')
    }
    assert trained == set(range(16))
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == 86065


def test_taps_at_stage_ends_see_every_layer():
    torch.manual_seed(0)
    model = LightCDNet([2, 3, 1], taps_at_stage_ends=True)
    maps = model(*torch.randn(2, 2, 3, 50, 70))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (24, 25, 35),
        (48, 13, 18),
        (96, 7, 9),
        (192, 4, 5),
    ]
    sum(m.square().mean() for m in maps).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(UserError, match=r'small, base, large.*tiny'):
        LightCDNet([4, 8, 4], net_type='tiny')
    with pytest.raises(UserError, match=r'\(2, 2, 2\).*stages \[1, 2, 2\]'):
        LightCDNet([2, 2, 2])


def test_pyramid_passes_the_early_map_by():
    early, *levels = [
        torch.randn(1, width, side, side) for width, side in ((5, 32), (4, 16), (6, 8))
    ]
    neck = TinyFPN([4, 6], 8, 2, exist_early_x=True).eval()
    neck.init_weights()
    outs = neck([early, *levels])
    assert outs[0] is early
    assert [tuple(out.shape) for out in outs[1:]] == [(1, 8, 16, 16), (1, 8, 8, 8)]
    for out, expected in zip(outs[1:], TinyFPN.forward(_without_early(neck), levels)):
        assert torch.equal(out, expected)
    with pytest.raises(UserError, match='2 maps, found 1'):
        neck(levels)


def _without_early(neck: TinyFPN) -> TinyFPN:
    plain = TinyFPN([4, 6], 8, 2).eval()
    plain.load_state_dict(neck.state_dict())
    return plain


def test_tiny_blocks_are_residual_and_have_the_keys_of_published_checkpoints():
    torch.manual_seed(0)
    neck = TinyFPN([4], 8, 2, add_extra_convs='on_output').eval()
    assert {key for key in neck.state_dict() if key.endswith('weight')} == {
        'lateral_convs.0.conv.weight',
        *(
            f'fpn_convs.{i}.conv.{j}.{part}.weight'
            for i in (0, 1)
            for j in (0, 2)
            for part in ('conv', 'bn')
        ),
    }
    x = torch.randn(1, 4, 9, 9)
    first, extra = neck([x])
    lateral = neck.lateral_convs[0](x)
    torch.testing.assert_close(first, lateral + neck.fpn_convs[0].conv(lateral))
    torch.testing.assert_close(extra, neck.fpn_convs[1].conv(first))
    assert extra.shape == (1, 8, 5, 5)


def test_unknown_block_is_refused():
    with pytest.raises(UserError, match="'tinyblock' or 'conv', found 'big'"):
        TinyFPN([4], 8, 1, custom_block='big')
