"""ChangeStar: what its golden numbers do not show."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.decode_heads import FarSegHead
from mtkd_cd.models.losses import DiceLoss
from mtkd_cd.registry import MODELS


@pytest.fixture
def farseg(build_model, seed_weights):
    """ChangeStar-FarSeg with a scene relation that is not saturated."""
    model = build_model('changestar_farseg_r18').eval()
    seed_weights(model)
    with torch.no_grad():
        for encoder in model.decode_head.seg_head._fsr.scene_encoder:
            for parameter in encoder[2].parameters():
                parameter *= 1e-4
    return model


def test_scene_relation_of_farseg_gives_open_cds_numbers(farseg, make_pairs):
    decoded = []
    farseg.decode_head.seg_head._decoder.register_forward_hook(
        lambda module, inputs, output: decoded.append(output)
    )
    pairs, samples = make_pairs(2, 128)
    with torch.no_grad():
        change_maps = farseg(pairs, mode='tensor')
        losses = farseg(pairs, samples, mode='loss')
    date1, date2 = decoded[0].chunk(2)
    expected = [
        (date1, 6.47310, 5.84381),
        (date2, 6.47301, 5.92127),
        (change_maps[0], -23.18974, 7.05809),
        (change_maps[1], -22.94322, 7.07072),
    ]
    for maps, mean, std in expected:
        assert (float(maps.mean()), float(maps.std())) == pytest.approx((mean, std), rel=1e-5)
    assert {key: float(value) for key, value in losses.items() if 'loss' in key} == pytest.approx(
        {
            'decode.t1t2.loss_ce': 4.997150,
            'decode.t1t2.loss_dice': 0.999979,
            'decode.t2t1.loss_ce': 5.096621,
            'decode.t2t1.loss_dice': 0.999984,
        },
        rel=1e-5,
    )


def test_relation_weighs_the_pixels_as_in_open_cd(farseg, make_pairs):
    relation = farseg.decode_head.seg_head._fsr
    weights = []

    def record(module, inputs, outputs):
        reencoded = [
            reencode(level) for reencode, level in zip(relation.feature_reencoders, inputs[1])
        ]
        # The reencoder ends in a ReLU: where it is positive, the quotient is the weight of the
        # pixel.
        for output, plain in zip(outputs, reencoded):
            strongest = plain.max(dim=1, keepdim=True)
            weights.append(output.gather(1, strongest.indices) / strongest.values)

    relation.register_forward_hook(record)
    with torch.no_grad():
        farseg(make_pairs(2, 128)[0], mode='tensor')
    means = [[float(half.mean()) for half in level.chunk(2)] for level in weights]
    assert [date1 for date1, _ in means] == pytest.approx(
        [0.11274, 0.39471, 0.58040, 0.44824], abs=1e-5
    )
    assert [date2 for _, date2 in means] == pytest.approx(
        [0.11262, 0.36014, 0.59879, 0.44035], abs=1e-5
    )


def test_swapped_dates_swap_the_two_change_maps(farseg, make_pairs):
    pairs, _ = make_pairs(1, 64)
    with torch.no_grad():
        forward, backward = (
            farseg(pairs, mode='tensor'),
            farseg(torch.cat((pairs[:, 3:], pairs[:, :3]), dim=1), mode='tensor'),
        )
    torch.testing.assert_close(forward[0], backward[1], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(forward[1], backward[0], atol=1e-3, rtol=1e-4)
    assert not torch.allclose(forward[0], forward[1], atol=0.1)


def test_inference_modes_choose_the_direction(farseg):
    maps = torch.randn(2, 1, 1, 8, 8)
    for mode, expected in (('t1t2', maps[0]), ('t2t1', maps[1]), ('mean', maps.mean(0))):
        farseg.decode_head.inference_mode = mode
        logits = farseg.decode_head.predict_by_feat(
            tuple(maps), [dict(img_shape=(8, 8), pad_shape=(8, 8))]
        )
        torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize('name', ['changestar_upernet_r18', 'changestar_farseg_r18'])
def test_head_builds_and_initialises_from_a_config_that_it_leaves_alone(name, build_model):
    head = Config.fromfile(
        Path(__file__).parents[2] / f'configs/_base_/models/{name}.py'
    ).model.decode_head
    before = str(head)
    MODELS.build(head).init_weights()
    assert str(head) == before


@pytest.mark.parametrize(
    ('changes', 'message'),
    [(dict(channels=64), '96, found 64'), (dict(inference_mode='max'), "'mean', found 'max'")],
)
def test_wrong_arguments_are_named(changes, message, build_model):
    with pytest.raises(UserError, match=message):
        build_model('changestar_upernet_r18', decode_head=changes)


def test_size_that_farseg_cannot_take_is_refused_with_what_works(farseg, make_pairs):
    with pytest.raises(UserError, match=r'found 20 x 20.*multiples of 32'):
        farseg(make_pairs(1, 80)[0], mode='tensor')


def test_farseg_head_stands_alone():
    head = FarSegHead(
        fsr_channels=4, in_channels=[6, 6, 5], in_index=[0, 1, 2], channels=8, num_classes=3
    ).eval()
    levels = [torch.randn(1, 6, 8, 12), torch.randn(1, 6, 4, 6), torch.randn(1, 5, 1, 1)]
    assert head(levels).shape == (1, 3, 6, 10)


def test_dice_rewards_the_unchanged_pixels_unless_told_to_find_the_changed():
    label = torch.zeros(2, 8, 8, dtype=torch.int64)
    label[:, :3] = 1
    label[:, -2:] = 255
    right = torch.where(label == 1, 8.0, -8.0).unsqueeze(1)
    right[:, :, -2:] = 8.0  # ignored pixels
    assert DiceLoss()(-right, label) < 1e-3 < 0.99 < DiceLoss()(right, label)
    corrected = DiceLoss(change_target=True)
    assert corrected(right, label) < 1e-3 < 0.99 < corrected(-right, label)
    p, t = right[:, :, :-2].sigmoid().flatten(1), (label[:, :-2] == 1).flatten(1).float()
    expected = 1 - 2 * (p * t).sum(1) / ((p**2).sum(1) + t.sum(1) + 2e-3)
    assert float(corrected(right, label)) == pytest.approx(float(expected.mean()), abs=1e-6)
