import pytest
import torch
from mmengine.registry import DefaultScope

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.mtkd.specialists import build_detector
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
    from mmengine.structures import PixelData

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


@pytest.mark.parametrize('mode', ['loss', 'tensor'])
def test_only_predicts(cascade, toy, mode):
    with pytest.raises(UserError, match=mode):
        cascade(INPUTS, toy.samples((0.1,) * 4), mode=mode)


def test_missing_origin_names_the_command_that_makes_it(toy):
    files = toy.checkpoints(*NAMES)
    files['origin'] = 'work_dirs/origin/fc_ef/best.pth'
    with pytest.raises(UserError, match=r'train.py configs/origin/fc_ef.py'):
        MODELS.build(dict(type='OriginPartitionCascade', origin=toy.config(), checkpoints=files))


def test_missing_range_is_named(toy):
    files = toy.checkpoints(*NAMES)
    del files['medium']
    with pytest.raises(UserError, match='missing: medium'):
        MODELS.build(dict(type='OriginPartitionCascade', origin=toy.config(), checkpoints=files))
