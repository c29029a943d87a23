import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import load_state_dict
from mmengine.structures import PixelData

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.mtkd.building import build_detector
from mtkd_cd.models.tta import ChangeTTAModel
from mtkd_cd.registry import MODELS

NAMES = ('origin', 'small', 'medium', 'large')
INPUTS = torch.randn(4, 6, 20, 20, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cascade(toy):
    """A cascade whose origin finds change wherever the first channel of date A is positive, so that
    inputs choose the CAR."""
    model = MODELS.build(
        dict(
            type='OriginPartitionCascade', origin=toy.config(), checkpoints=toy.checkpoints(*NAMES)
        )
    ).eval()
    model.origin.predict = lambda inputs, samples=None: _threshold_prediction(inputs, samples)
    return model


def _threshold_prediction(inputs, samples):
    for image, sample in zip(inputs, samples):
        sample.set_data(dict(pred_sem_seg=PixelData(data=(image[:1] > 0).long())))
    return samples


def inputs_with_cars(toy, cars):
    """Images whose origin prediction has the given CARs; the rest of the channels random."""
    inputs = torch.randn(len(cars), 6, 20, 20, generator=torch.Generator().manual_seed(2))
    for image, car in zip(inputs, cars):
        image[0] = toy.label(car)[0] * 2.0 - 1
    return inputs


def test_equals_the_file_based_procedure(cascade, toy):
    """Spec 9.6: predict with the origin, sort the images by predicted CAR, predict each group with
    its specialist."""
    cars = (0.3, 0.05, 0.06, 0.01, 0.2, 0.0)
    expected_ranges = ('large', 'small', 'medium', 'small', 'medium', 'small')
    inputs = inputs_with_cars(toy, cars)
    results = cascade(inputs, toy.samples(cars), mode='predict')
    for i, (sample, name) in enumerate(zip(results, expected_ranges)):
        specialist = build_detector(toy.config()).eval()
        specialist.load_state_dict(cascade.specialists[name].state_dict())
        expected = specialist.predict(inputs[i : i + 1], toy.samples(cars[i : i + 1]))[0]
        assert sample.metainfo['range'] == name
        assert sample.metainfo['coarse_car'] == pytest.approx(cars[i])
        torch.testing.assert_close(sample.seg_logits.data, expected.seg_logits.data)
        assert torch.equal(sample.pred_sem_seg.data, expected.pred_sem_seg.data)


def test_sample_keeps_label_and_both_predictions(cascade, toy):
    inputs = inputs_with_cars(toy, (0.3,))
    given = toy.samples((0.3,))
    (sample,) = cascade(inputs, given, mode='predict')
    assert torch.equal(sample.coarse_pred_sem_seg.data, (inputs[0, :1] > 0).long())
    assert not torch.equal(sample.coarse_pred_sem_seg.data, sample.pred_sem_seg.data)
    assert torch.equal(sample.gt_sem_seg.data, given[0].gt_sem_seg.data)
    assert 'pred_sem_seg' not in given[0]


def test_each_detector_sees_its_images_once_and_together(cascade, toy):
    seen = []
    for name, detector in cascade.specialists.items():
        predict = detector.predict
        detector.predict = lambda inputs, samples, name=name, predict=predict: (
            seen.append((name, len(inputs))),
            predict(inputs, samples),
        )[1]
    cars = (0.3, 0.05, 0.06, 0.01)
    cascade(inputs_with_cars(toy, cars), toy.samples(cars), mode='predict')
    assert sorted(seen) == [('large', 1), ('medium', 1), ('small', 2)]


def test_predicts_without_samples(toy):
    model = MODELS.build(
        dict(
            type='OriginPartitionCascade', origin=toy.config(), checkpoints=toy.checkpoints(*NAMES)
        )
    ).eval()
    results = model(INPUTS)
    assert [tuple(sample.pred_sem_seg.data.shape) for sample in results] == [(1, 20, 20)] * 4


def test_origin_and_specialists_hold_the_weights_of_their_files(toy):
    files = toy.checkpoints(*NAMES)
    model = MODELS.build(
        dict(type='OriginPartitionCascade', origin=toy.config(), checkpoints=files)
    )
    for name, detector in (('origin', model.origin), *model.specialists.items()):
        for key, value in torch.load(files[name])['state_dict'].items():
            assert torch.equal(detector.state_dict()[key], value), (name, key)


def test_two_ranges_one_channel_heads_and_a_specialist_of_its_own_architecture(toy):
    config = toy.config(out_channels=1)
    other = toy.config(stride=4, channels=12)
    files = toy.checkpoints('origin', 'small', 'large', config=config, configs={'large': other})
    model = MODELS.build(
        dict(
            type='OriginPartitionCascade',
            origin=config,
            thresholds=(0.1,),
            specialists=dict(large=other),
            checkpoints=files,
        )
    ).eval()
    for sample in model(INPUTS, toy.samples((0.1,) * 4), mode='predict'):
        expected_range = 'small' if sample.metainfo['coarse_car'] <= 0.1 else 'large'
        assert sample.metainfo['range'] == expected_range
        assert sample.coarse_pred_sem_seg.data.float().mean().item() == pytest.approx(
            sample.metainfo['coarse_car']
        )


def test_specialist_with_another_normalisation_gets_its_own(toy):
    """A specialist that expects BGR in [0, 1] sees, through the cascade, what its own preprocessor
    would have made."""

    def preprocessor(mean, std, bgr_to_rgb):
        return dict(
            type='mtkd_cd.DualInputSegDataPreProcessor',
            mean=mean,
            std=std,
            bgr_to_rgb=bgr_to_rgb,
            size_divisor=1,
        )

    rgb = toy.config(data_preprocessor=preprocessor([120.0] * 6, [60.0] * 6, True))
    bgr = toy.config(data_preprocessor=preprocessor([0.0] * 6, [255.0] * 6, False))
    model = MODELS.build(
        dict(
            type='OriginPartitionCascade',
            origin=rgb,
            specialists=dict.fromkeys(('small', 'medium', 'large'), bgr),
        )
    ).eval()
    seen = {}
    for name, detector in model.specialists.items():
        detector.backbone.register_forward_pre_hook(
            lambda _module, args, name=name: seen.update({name: args[0]})
        )
    pixels = torch.randint(0, 256, (1, 6, 20, 20)).float()
    normalised = (pixels[:, [2, 1, 0, 5, 4, 3]] - 120) / 60
    model(normalised, toy.samples((0.1,)), mode='predict')
    (batch,) = seen.values()
    torch.testing.assert_close(batch, pixels / 255, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'model', [dict(type='OriginPartitionCascade'), dict(type='MultiTeacherDistiller')]
)
def test_preprocessor_at_the_top_of_a_config_goes_to_the_detectors_without_one(toy, model):
    """mmengine's runner puts it into the model's config."""
    key = 'origin' if 'Cascade' in model['type'] else 'student'
    preprocessor = dict(type='mtkd_cd.DualInputSegDataPreProcessor', mean=[1.0] * 6, std=[2.0] * 6)
    built = MODELS.build(dict(model, **{key: toy.config()}, data_preprocessor=preprocessor))
    detectors = built.specialists if key == 'origin' else built.teachers
    for detector in (built, *detectors.values()):
        assert detector.data_preprocessor.mean.flatten().tolist() == [1.0] * 6
    own = toy.config(data_preprocessor=dict(preprocessor, mean=[3.0] * 6))
    built = MODELS.build(dict(model, **{key: own}, data_preprocessor=preprocessor))
    assert built.data_preprocessor.mean.flatten().tolist() == [3.0] * 6


def test_works_under_a_foreign_default_scope(toy):
    with DefaultScope.overwrite_default_scope('toycd'):
        model = MODELS.build(
            dict(
                type='mtkd_cd.OriginPartitionCascade',
                origin=toy.config(scope=''),
                checkpoints=toy.checkpoints(*NAMES),
            )
        )
    assert type(model.origin).__module__ == 'toycd.models'


def test_modules_are_copied_so_that_specialists_differ_from_the_origin(toy):
    module = build_detector(toy.config())
    files = toy.checkpoints(*NAMES)
    model = MODELS.build(dict(type='OriginPartitionCascade', origin=module, checkpoints=files))
    for name, detector in (('origin', model.origin), *model.specialists.items()):
        expected = torch.load(files[name])['state_dict']['backbone.conv.weight']
        assert torch.equal(detector.backbone.conv.weight, expected), name
        assert not torch.equal(module.backbone.conv.weight, expected)


def test_to_a_test_tool_the_cascade_looks_like_its_origin(cascade):
    for name in ('out_channels', 'num_classes', 'align_corners', 'decode_head', 'test_cfg'):
        assert getattr(cascade, name) == getattr(cascade.origin, name)


@pytest.mark.parametrize('out_channels', [1, 2])
def test_predicts_inside_mmsegs_test_time_augmentation(toy, out_channels):
    """An image and its mirror image, merged by mmseg; one specialist has the other kind of head."""
    config, other = toy.config(out_channels=out_channels), toy.config(out_channels=3 - out_channels)
    preprocessor = dict(type='mtkd_cd.DualInputSegDataPreProcessor')
    model = MODELS.build(
        dict(
            type='OriginPartitionCascade',
            origin=config,
            thresholds=(0.1,),
            specialists=dict(large=other),
            data_preprocessor=preprocessor,
        )
    ).eval()
    model.origin.decode_head.threshold = 0.5
    wrapped = MODELS.build(dict(type='mmseg.SegTTAModel', module=model)).eval()
    image = torch.randint(0, 256, (6, 20, 20), dtype=torch.uint8)
    (plain,), (mirrored,) = toy.samples([0.1]), toy.samples([0.1])
    plain.set_metainfo(dict(flip=False, flip_direction=None))
    mirrored.set_metainfo(dict(flip=True, flip_direction='horizontal'))
    batch = dict(inputs=[[image], [image.flip(2)]], data_samples=[[plain], [mirrored]])
    with torch.no_grad():
        (merged,) = wrapped.test_step(batch)
        single = [
            model.test_step(dict(inputs=[view], data_samples=[sample]))[0]
            for view, sample in ((image, plain), (image.flip(2), mirrored))
        ]
    mean = sum(_change_probability(sample.seg_logits.data) for sample in single) / 2
    wrong = (merged.pred_sem_seg.data.squeeze() > 0) != (mean > 0.5)
    assert not wrong.any()
    assert {'range', 'coarse_car', 'detector'} <= set(merged.metainfo)


@pytest.mark.parametrize('channels', [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize('threshold', [0.3, 0.7])
@pytest.mark.parametrize('server', ['small', 'large'])
def test_equal_views_are_decided_as_one_is_whoever_serves(toy, channels, threshold, server):
    """The thresholds of origin and specialists differ: a view's map and CAR are its own."""
    configs = [toy.config(out_channels=count) for count in channels]
    model = MODELS.build(
        dict(
            type='OriginPartitionCascade',
            origin=configs[0],
            thresholds=(0.5,),
            specialists=dict(small=configs[1], large=configs[1]),
        )
    ).eval()
    inputs, (sample,) = torch.randn(1, 6, 20, 20), toy.samples([0.1])
    sample.set_metainfo(dict(flip=False, flip_direction=None))
    for detector in (model.origin, *model.specialists.values()):
        scale = 5.0 if detector.out_channels == 1 else 1.0
        detector.decode_head.conv_seg.weight.data.mul_(scale)
    model.specialists[server].decode_head.threshold = threshold
    # The origin's coarse map is to have a CAR on the server's side.
    with torch.no_grad():
        if channels[0] == 1:
            model.origin.decode_head.threshold = 0.5
            (coarse,) = model.origin.predict(inputs, [copy.deepcopy(sample)])
            cut = coarse.seg_logits.data.quantile(0.9 if server == 'small' else 0.1)
            model.origin.decode_head.threshold = float(cut)
        else:
            model.origin.decode_head.conv_seg.bias.data = torch.tensor(
                [9.0, 0.0] if server == 'small' else [0.0, 9.0]
            )
        views = [model.predict(inputs, [copy.deepcopy(sample)])[0] for _ in range(3)]
    alone = copy.deepcopy(views[0])
    assert alone.detector == server
    merged = ChangeTTAModel(model).merge_preds([views])[0]
    assert torch.equal(merged.pred_sem_seg.data, alone.pred_sem_seg.data.long())
    assert (merged.coarse_car, merged.range) == (alone.coarse_car, alone.range)
    assert torch.equal(merged.coarse_pred_sem_seg.data, alone.coarse_pred_sem_seg.data)


def _change_probability(scores):  # mmseg takes the sigmoid of one channel a second time
    return scores.sigmoid()[0] if len(scores) == 1 else scores.softmax(0)[1]


def test_results_of_another_kind_of_head_come_in_the_origins(toy):
    """mmseg keeps logits of two channels, but the probability of one."""
    for out_channels in (1, 2):
        config, other = (
            toy.config(out_channels=out_channels),
            toy.config(out_channels=3 - out_channels),
        )
        model = MODELS.build(
            dict(
                type='OriginPartitionCascade',
                origin=config,
                specialists=dict.fromkeys(('small', 'medium', 'large'), other),
            )
        ).eval()
        for i, sample in enumerate(model(INPUTS)):
            (alone,) = F.interpolate(
                model.specialists[sample.metainfo['range']](INPUTS[i : i + 1]),
                size=(20, 20),
                mode='bilinear',
            )
            two = alone if out_channels == 1 else sample.seg_logits.data
            one = sample.seg_logits.data if out_channels == 1 else alone.sigmoid()
            torch.testing.assert_close(one[0], two.softmax(0)[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('prediction', ['pred_sem_seg', 'binary_map'])
def test_semantic_detectors_edit_copies_of_the_labels(toy, prediction):
    config = toy.config(detector='SemanticDetector', head='SemanticHead')
    model = MODELS.build(
        dict(type='OriginPartitionCascade', origin=config, prediction=prediction)
    ).eval()
    samples = toy.samples((0.1,) * 4)
    for sample in samples:
        sample.gt_sem_seg_from = PixelData(data=torch.full((1, 20, 20), 3))
    for result in model(INPUTS, samples, mode='predict'):
        assert (result.gt_sem_seg_from.data == 4).all()  # once, though two detectors predicted
        car = result.coarse_pred_sem_seg.data.float().mean().item()
        assert result.metainfo['coarse_car'] == pytest.approx(car)
    assert all((sample.gt_sem_seg_from.data == 3).all() for sample in samples)


def test_unknown_prediction_entry_lists_those_there_are(toy):
    model = MODELS.build(
        dict(type='OriginPartitionCascade', origin=toy.config(), prediction='change')
    ).eval()
    with pytest.raises(UserError, match=r"predicts no 'change'.*pred_sem_seg"):
        model(INPUTS)


def test_checkpoint_of_a_single_detector_is_not_taken_quietly(toy):
    """What a test tool does with its checkpoint argument."""
    model = MODELS.build(dict(type='OriginPartitionCascade', origin=toy.config()))
    origin = toy.checkpoints('origin')['origin']
    with pytest.raises(UserError, match=r'single detector.*model\.checkpoints'):
        load_checkpoint(model, origin, map_location='cpu')
    own = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    load_state_dict(model, own)
    assert not model.specialists['small'].backbone.conv.weight.any()


@pytest.mark.parametrize('mode', ['loss', 'tensor'])
def test_only_predicts(cascade, toy, mode):
    with pytest.raises(UserError, match=mode):
        cascade(INPUTS, toy.samples((0.1,) * 4), mode=mode)


def test_missing_origin_names_the_command_that_makes_it(toy):
    files = toy.checkpoints(*NAMES)
    files['origin'] = 'work_dirs/origin/fc_ef/best.pth'
    with pytest.raises(UserError, match=r'mtkd-cd train configs/origin/fc_ef.py'):
        MODELS.build(dict(type='OriginPartitionCascade', origin=toy.config(), checkpoints=files))


def test_missing_range_is_named(toy):
    files = toy.checkpoints(*NAMES)
    del files['medium']
    with pytest.raises(UserError, match='missing: medium'):
        MODELS.build(dict(type='OriginPartitionCascade', origin=toy.config(), checkpoints=files))


def test_precision_is_that_of_every_detector(toy, convolved):
    config = dict(
        type='OriginPartitionCascade', origin=toy.config(), checkpoints=toy.checkpoints(*NAMES)
    )
    exact, rounded = (
        MODELS.build(dict(config, **more)).eval() for more in ({}, dict(precision='bfloat16'))
    )
    rounded.predict(INPUTS)  # prepares
    convolved.clear()
    found = rounded.predict(INPUTS)
    assert convolved == {torch.bfloat16}
    assert {sample.detector for sample in found} - {'origin'}
    for sample, wanted in zip(found, exact.predict(INPUTS), strict=True):
        assert sample.detector == wanted.detector
        assert sample.seg_logits.data.dtype == torch.float32
        difference = (sample.seg_logits.data - wanted.seg_logits.data).abs().max()
        assert 0 < difference < 0.02 * wanted.seg_logits.data.abs().max()
    with pytest.raises(UserError, match="'half'"):
        MODELS.build(dict(config, precision='half'))
