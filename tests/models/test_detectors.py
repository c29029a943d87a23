"""The detectors' feature extraction, inference, post-processing and training, on small models."""

import warnings

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.models.decode_heads import SegformerHead
from mmseg.models.losses import accuracy
from mmseg.structures import SegDataSample
from torch import nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.decode_heads.base import pixel_accuracy
from mtkd_cd.models.layers import on_both_dates
from mtkd_cd.registry import MODELS

_MODELS = ('fc_ef', 'changer_mitb0', 'changeformer_mitb0')


def _sigmoid_head() -> dict:
    return dict(out_channels=1, threshold=0.5, loss_decode=dict(use_sigmoid=True))


def _sample(ori_shape: tuple[int, int], **meta) -> SegDataSample:
    return SegDataSample(metainfo=dict(ori_shape=ori_shape, img_shape=ori_shape, **meta))


@pytest.mark.parametrize('name', _MODELS)
def test_maps_have_the_input_size_whatever_it_is(name, build_model):
    model = build_model(name).eval()
    inputs = torch.randn(3, 6, 77, 53)
    with torch.no_grad():
        predictions = model(inputs, mode='predict')
    assert [tuple(p.seg_logits.data.shape) for p in predictions] == [(2, 77, 53)] * 3
    assert [tuple(p.pred_sem_seg.data.shape) for p in predictions] == [(1, 77, 53)] * 3
    assert predictions[0].pred_sem_seg.data.dtype == torch.int64


@pytest.mark.parametrize('name', _MODELS)
def test_pairs_of_a_batch_do_not_influence_each_other_in_eval_mode(name, build_model):
    model = build_model(name).eval()
    inputs = torch.randn(3, 6, 64, 64)
    with torch.no_grad():
        together = model(inputs, mode='tensor')
        alone = torch.cat([model(pair[None], mode='tensor') for pair in inputs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_one_window_that_covers_the_image_equals_whole_inference(build_model):
    model = build_model('changer_mitb0').eval()
    inputs = torch.randn(2, 6, 64, 96)
    with torch.no_grad():
        whole = model.inference(inputs, [{}, {}])
        model.test_cfg.update(mode='slide', crop_size=(128, 128), stride=(64, 64))
        torch.testing.assert_close(model.inference(inputs, [{}, {}]), whole)


def test_sliding_windows_are_averaged_and_shifted_back_inside(build_model):
    model = build_model(
        'changer_mitb0', test_cfg=dict(mode='slide', crop_size=(64, 32), stride=(40, 24))
    ).eval()
    inputs = torch.randn(2, 6, 100, 80)
    total, hits = torch.zeros(2, 2, 100, 80), torch.zeros(1, 1, 100, 80)
    with torch.no_grad():
        for top in (0, 36):
            for left in (0, 24, 48):
                window = inputs[:, :, top : top + 64, left : left + 32]
                total[:, :, top : top + 64, left : left + 32] += model.encode_decode(
                    window, [{}, {}]
                )
                hits[:, :, top : top + 64, left : left + 32] += 1
        torch.testing.assert_close(
            model.inference(inputs, [{}, {}]), total / hits, atol=1e-5, rtol=1e-4
        )


def test_size_of_the_logits_does_not_hang_on_the_type_of_img_shape(build_model):
    model = build_model('changer_mitb0').eval()
    sample = _sample((40, 50), pad_shape=(64, 64), padding_size=(0, 14, 0, 24))
    sample.set_metainfo(dict(img_shape=torch.Size((40, 50))))
    inputs = torch.randn(1, 6, 64, 64)
    with torch.no_grad():
        (prediction,) = model(inputs, [sample], mode='predict')
        full = model.inference(inputs, [{}])
    torch.testing.assert_close(prediction.seg_logits.data, full[0, :, :40, :50])


@pytest.mark.parametrize('key', ['padding_size', 'img_padding_size'])
def test_padding_is_cut_off_and_the_rest_resized_to_the_original(key, build_model):
    model = build_model('fc_ef')
    logits = torch.zeros(1, 2, 8, 12)
    logits[0, 1, 2:7, 3:10] = 1
    (result,) = model.postprocess_result(logits, [_sample((10, 14), **{key: (3, 2, 2, 1)})])
    assert result.seg_logits.data.shape == (2, 10, 14)
    assert result.pred_sem_seg.data.all()


@pytest.mark.parametrize(
    ('direction', 'dim'), [('horizontal', (-1,)), ('vertical', (-2,)), ('diagonal', (-2, -1))]
)
def test_flips_are_undone(direction, dim, build_model):
    logits = torch.randn(1, 2, 6, 9)
    (result,) = build_model('fc_ef').postprocess_result(
        logits.clone(), [_sample((6, 9), flip=True, flip_direction=direction)]
    )
    torch.testing.assert_close(result.seg_logits.data, logits[0].flip(dim))


def test_images_of_a_batch_may_have_different_original_sizes(build_model):
    model = build_model('fc_ef').eval()
    samples = [_sample((30, 20)), _sample((64, 48))]
    with torch.no_grad():
        predictions = model(torch.randn(2, 6, 32, 32), samples, mode='predict')
    assert [tuple(p.pred_sem_seg.data.shape) for p in predictions] == [(1, 30, 20), (1, 64, 48)]


@pytest.mark.parametrize('channels', [1, 2, 3])
def test_results_are_mmsegs_with_padding_flips_and_sizes(channels, build_model):
    model = build_model('fc_ef')
    model.align_corners, model.decode_head.threshold = False, 0.5
    metas = [
        dict(ori_shape=(32, 40)),
        dict(ori_shape=(32, 40), flip=True, flip_direction='vertical'),
        dict(ori_shape=(29, 33), padding_size=(3, 4, 1, 2)),
        dict(ori_shape=(50, 45), img_padding_size=(0, 7, 0, 3), padding_size=(9, 9, 9, 9)),
    ]
    logits = torch.randn(len(metas), channels, 32, 40)
    logits[:, :, :, :4] = 0  # equals
    found, expected = (
        function(logits, [SegDataSample(metainfo=meta) for meta in metas])
        for function in (
            model.postprocess_result,
            lambda *args: EncoderDecoder.postprocess_result(model, *args),
        )
    )
    found += model.postprocess_result(logits)
    expected += EncoderDecoder.postprocess_result(model, logits)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.seg_logits.data, other.seg_logits.data)
        assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data)
        assert one.pred_sem_seg.data.dtype == other.pred_sem_seg.data.dtype


@pytest.mark.parametrize('channels', [2, 3])
def test_accuracy_is_mmsegs(channels):
    logits, label = torch.randn(2, channels, 8, 8), torch.randint(0, channels, (2, 8, 8))
    logits[0, :, 0], label[1, 2] = 0, 255
    expected = accuracy(logits, label, ignore_index=255)
    torch.testing.assert_close(pixel_accuracy(logits, label, 255), expected)


def test_one_channel_head_predicts_by_threshold_and_stores_probabilities(build_model):
    model = build_model('fc_ef', decode_head=_sigmoid_head()).eval()
    inputs = torch.randn(1, 6, 32, 32)
    with torch.no_grad():
        logits = model.inference(inputs, [{}])
        threshold = model.decode_head.threshold = float(logits.sigmoid().median())
        (prediction,) = model(inputs, mode='predict')
    torch.testing.assert_close(prediction.seg_logits.data, logits[0].sigmoid())
    assert prediction.pred_sem_seg.data.dtype == torch.float32
    assert torch.equal(prediction.pred_sem_seg.data.bool(), logits[0].sigmoid() > threshold)
    assert 0 < prediction.pred_sem_seg.data.mean() < 1


def test_total_loss_is_the_sum_of_the_loss_entries_of_all_heads(build_model, make_pairs):
    auxiliary = dict(
        type='FCNHead',
        in_channels=16,
        channels=4,
        num_convs=1,
        num_classes=2,
        in_index=0,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
    )
    model = build_model('fc_ef', auxiliary_head=[auxiliary, auxiliary])
    losses = model(*make_pairs(2, 32), mode='loss')
    assert set(losses) == {
        f'{head}.{entry}'
        for head in ('decode', 'aux_0', 'aux_1')
        for entry in ('loss_ce', 'acc_seg')
    }
    total, _ = model.parse_losses(losses)
    assert total.item() == pytest.approx(
        sum(losses[f'{head}.loss_ce'].item() for head in ('decode', 'aux_0', 'aux_1'))
    )


@pytest.mark.parametrize('name', _MODELS)
def test_training_on_one_batch_lowers_its_loss_and_moves_every_parameter(
    name, build_model, make_pairs
):
    model = build_model(name)
    model.init_weights()
    inputs, samples = make_pairs(2, 32)
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=2e-3))
    losses = [
        model.train_step(dict(inputs=inputs, data_samples=samples), optimizer)['loss'].item()
        for _ in range(12)
    ]
    assert losses[-1] < 0.8 * losses[0]
    # A bias that batch or instance norm follows has no gradient but noise.
    assert [
        key
        for key, value in model.named_parameters()
        if key.endswith('weight') and torch.equal(value, before[key])
    ] == []


def test_dates_keep_their_own_batch_statistics_in_training_and_share_a_batch_otherwise():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    date1, date2 = torch.randn(2, 3, 8, 8), 5 + torch.randn(2, 3, 8, 8)
    calls = []
    layers.register_forward_hook(lambda *_: calls.append(1))

    first, second = on_both_dates(layers, date1, date2, weights=layers)
    assert (len(calls), int(layers[1].num_batches_tracked)) == (2, 2)
    torch.testing.assert_close(first.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(second.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)

    layers.eval()
    calls.clear()
    first, second = on_both_dates(layers, date1, date2, weights=layers)
    assert len(calls) == 1
    torch.testing.assert_close(first, layers(date1))
    torch.testing.assert_close(second, layers(date2))


def test_building_and_predicting_warns_of_nothing(build_model):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for name in _MODELS:
            build_model(name).eval()(torch.randn(1, 6, 32, 32), mode='predict')


def test_configs_may_name_another_head_of_the_same_arguments(build_model):
    model = build_model('changeformer_mitb0', decode_head=dict(type='mmseg.SegformerHead'))
    ours = build_model('changeformer_mitb0')
    assert type(model.decode_head) is SegformerHead
    ours.load_state_dict(model.state_dict())
    images = torch.randn(1, 6, 64, 64)
    with torch.no_grad():
        found, wanted = (one.eval()(images, mode='tensor') for one in (ours, model))
    torch.testing.assert_close(found, wanted)


def test_config_in_open_cds_spelling_builds():
    model = MODELS.build(
        dict(
            type='SiamEncoderDecoder',
            pretrained=None,
            backbone_inchannels=4,
            backbone=dict(
                type='mmseg.MixVisionTransformer',
                in_channels=4,
                embed_dims=8,
                num_layers=[1] * 4,
                num_heads=[1] * 4,
                out_indices=(0, 1, 2, 3),
            ),
            neck=dict(type='FeatureFusionNeck', policy='abs_diff', out_indices=(0, 1, 2, 3)),
            decode_head=dict(
                type='mmseg.SegformerHead',
                in_channels=[8] * 4,
                in_index=[0, 1, 2, 3],
                channels=8,
                num_classes=2,
                loss_decode=dict(type='mmseg.CrossEntropyLoss'),
            ),
        )
    )
    assert model.eval()(torch.randn(1, 8, 64, 64), mode='tensor').shape == (1, 2, 16, 16)


@pytest.mark.parametrize(
    ('name', 'changes', 'words'),
    [
        (
            'changeformer_mitb0',
            dict(neck=None),
            ['SiamEncoderDecoder', 'neck', 'FeatureFusionNeck'],
        ),
        ('changeformer_mitb0', dict(neck=dict(policy='mean')), ['policy', 'mean', 'abs_diff']),
        ('fc_ef', dict(test_cfg=dict(mode='tiles')), ['test_cfg.mode', 'tiles', 'slide']),
        ('fc_ef', dict(test_cfg=dict(mode='slide', crop_size=(32, 32))), ['stride', 'None']),
        ('fc_ef', dict(test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(48, 32))), ['gaps']),
        ('fc_ef', dict(pretrained='weights.pth'), ['FC_EF', 'weights.pth']),
        (
            'changer_mitb0',
            dict(
                pretrained='a.pth',
                backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='b.pth')),
            ),
            ['a.pth', 'b.pth'],
        ),
        (
            'changer_mitb0',
            dict(backbone=dict(interaction_cfg=(None, None))),
            ['interaction_cfg', '4', '2'],
        ),
    ],
)
def test_mistakes_in_the_config_are_named(name, changes, words, build_model):
    with pytest.raises(UserError) as error:
        build_model(name, **changes)
    assert [word for word in words if word not in str(error.value)] == []


def test_wrong_number_of_input_channels_is_named(build_model):
    with pytest.raises(UserError, match=r'expects 6 input channels.*found 8'):
        build_model('fc_ef')(torch.randn(1, 8, 32, 32))


def test_labels_of_a_batch_reach_the_loss_at_full_size(build_model, make_pairs):
    """The loss is taken at the labels' size: a label that differs only between the head's pixels
    changes it."""
    model = build_model('changer_mitb0').eval()
    inputs, samples = make_pairs(1, 32)
    loss = model(inputs, samples, mode='loss')['decode.loss_ce'].item()
    label = samples[0].gt_sem_seg.data.clone()
    label[:, 1, 1] = 1 - label[:, 1, 1]
    samples[0].gt_sem_seg = PixelData(data=label)
    assert model(inputs, samples, mode='loss')['decode.loss_ce'].item() != loss
