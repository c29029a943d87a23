"""The data preprocessor of image pairs."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.structures import SegDataSample

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.data_preprocessor import DualInputSegDataPreProcessor
from mtkd_cd.models.mtkd.normalisation import InputConverter

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
BENCHMARK = {
    'mean': MEAN * 2,
    'std': STD * 2,
    'bgr_to_rgb': True,
    'size_divisor': 32,
    'test_cfg': {'size_divisor': 32},
}


def make_batch(*shapes, channels=6, dtype=torch.uint8, extra=()):
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (channels, *shape), generator=generator).to(dtype) for shape in shapes
    ]
    samples = []
    for shape in shapes:
        sample = SegDataSample(metainfo={'img_shape': shape, 'car': 0.25})
        for name in ('gt_sem_seg', *extra):
            sample.set_data(
                {name: PixelData(data=torch.randint(0, 2, (1, *shape), generator=generator))}
            )
        samples.append(sample)
    return {'inputs': images, 'data_samples': samples}


def expected_image(image, target):
    """Swap, normalise and pad one pair in NumPy, straight from the specification."""
    values = image.numpy().astype(np.float32)[[2, 1, 0, 5, 4, 3]]
    values = (values - np.float32(MEAN * 2)[:, None, None]) / np.float32(STD * 2)[:, None, None]
    return np.pad(
        values, ((0, 0), (0, target[0] - values.shape[1]), (0, target[1] - values.shape[2]))
    )


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shapes', [[(64, 32), (64, 32)], [(40, 50), (40, 50)], [(40, 50)]])
def test_batch_is_swapped_normalised_and_padded(shapes, training):
    batch = make_batch(*shapes)
    output = DualInputSegDataPreProcessor(**BENCHMARK)(batch, training)
    assert output['inputs'].dtype == torch.float32
    for found, image in zip(output['inputs'], batch['inputs']):
        np.testing.assert_array_equal(
            found, expected_image(image, (64, 64) if shapes[0] == (40, 50) else (64, 32))
        )


@pytest.mark.parametrize('training', [True, False])
def test_metainfo_tells_shapes_and_padding_in_plain_numbers(training):
    (sample,) = DualInputSegDataPreProcessor(**BENCHMARK)(make_batch((40, 50)), training)[
        'data_samples'
    ]
    assert (sample.img_shape, sample.pad_shape, sample.padding_size) == (
        (40, 50),
        (64, 64),
        (0, 14, 0, 24),
    )
    assert type(sample.img_shape) is type(sample.pad_shape) is tuple
    assert all(
        type(value) is int for value in (*sample.img_shape, *sample.pad_shape, *sample.padding_size)
    )
    assert sample.car == 0.25
    assert 'img_padding_size' not in sample.metainfo


def test_training_pads_images_of_several_sizes_and_their_labels():
    batch = make_batch(
        (40, 50), (70, 20), extra=['gt_edge_map', 'gt_sem_seg_from', 'gt_sem_seg_to']
    )
    images = [image.clone() for image in batch['inputs']]
    labels = [
        {name: field.data.clone() for name, field in sample.items()}
        for sample in batch['data_samples']
    ]
    output = DualInputSegDataPreProcessor(**BENCHMARK)(batch, training=True)
    assert output['inputs'].shape == (2, 6, 96, 64)
    for index, (image, sample) in enumerate(zip(images, output['data_samples'])):
        np.testing.assert_array_equal(output['inputs'][index], expected_image(image, (96, 64)))
        h, w = image.shape[1:]
        assert sample.padding_size == (0, 64 - w, 0, 96 - h)
        assert len(labels[index]) == 4
        for name, label in labels[index].items():
            padded = sample.get(name).data
            assert padded.shape == (1, 96, 64)
            assert torch.equal(padded[:, :h, :w], label)
            assert (padded[:, h:] == 255).all()
            assert (padded[:, :, w:] == 255).all()


def test_testing_leaves_the_label_and_pads_by_test_cfg_only():
    batch = make_batch((40, 50), (40, 50))
    assert DualInputSegDataPreProcessor(**BENCHMARK)(batch)['data_samples'][0].gt_sem_seg.shape == (
        40,
        50,
    )
    output = DualInputSegDataPreProcessor(size_divisor=32, test_cfg={'size': (48, 60)})(batch)
    assert output['inputs'].shape == (2, 6, 48, 60)
    output = DualInputSegDataPreProcessor(size_divisor=32)(batch)
    assert output['inputs'].shape == (2, 6, 40, 50)
    assert output['data_samples'][0].padding_size == (0, 0, 0, 0)


def test_padding_of_a_test_pipeline_is_taken_away_from_prediction_and_label():
    """The preprocessor tells of both paddings; the label loses the one that it got."""
    image = torch.randint(0, 256, (6, 64, 64), dtype=torch.uint8)
    label = torch.full((1, 64, 64), 255)
    label[:, :40, 14:] = torch.randint(0, 2, (1, 40, 50))
    sample = SegDataSample(metainfo=dict(padded=(14, 0, 0, 24), label_padded=(14, 0, 0, 24)))
    sample.set_data(dict(gt_sem_seg=PixelData(data=label)))
    preprocessor = DualInputSegDataPreProcessor(test_cfg=dict(size=(70, 64)))
    for _ in range(2):  # a sample that is tested again has lost its padding already
        (found,) = preprocessor(dict(inputs=[image], data_samples=[sample]))['data_samples']
        assert found.padding_size == (14, 0, 0, 30)
        assert torch.equal(found.gt_sem_seg.data, label[:, :40, 14:])


def test_training_label_of_another_size_beside_a_padded_image_is_refused():
    batch = make_batch((40, 50))
    batch['inputs'] = [batch['inputs'][0][:, :20, :25]]
    with pytest.raises(
        UserError, match=r'its label is \(h, w\) = \(40, 50\) and its image \(20, 2'
    ):
        DualInputSegDataPreProcessor(**BENCHMARK)(batch, training=True)


@pytest.mark.parametrize('channels', [6, 8, 12])
def test_batch_of_one_preprocessor_is_converted_to_that_of_another(channels):
    """Colours are swapped where preprocessors swap them: in pairs of six channels."""
    batch = make_batch((8, 9), channels=channels)
    swapping = DualInputSegDataPreProcessor(mean=[120.0], std=[57.0], bgr_to_rgb=True)
    plain = DualInputSegDataPreProcessor(
        mean=[float(i) for i in range(channels)], std=[float(i + 1) for i in range(channels)]
    )
    for source, target in ((swapping, plain), (plain, swapping)):
        found = InputConverter(source, target)(source(batch)['inputs'])
        torch.testing.assert_close(found, target(batch)['inputs'], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('training', [True, False])
def test_samples_may_be_missing(training):
    inputs = make_batch((40, 50))['inputs']
    for data in (
        {'inputs': inputs},
        {'inputs': inputs, 'data_samples': None},
        {'inputs': torch.stack(inputs)},
    ):
        output = DualInputSegDataPreProcessor(**BENCHMARK)(data, training)
        assert output['inputs'].shape == (1, 6, 64, 64)
        assert output['data_samples'] is None


def test_fixed_size_pads_smaller_images_with_the_given_values():
    output = DualInputSegDataPreProcessor(size=(40, 60), pad_val=5, seg_pad_val=7)(
        make_batch((30, 50)), training=True
    )
    assert (output['inputs'][0, :, 30:] == 5).all()
    assert (output['inputs'][0, :, :, 50:] == 5).all()
    assert (output['data_samples'][0].gt_sem_seg.data[0, 30:] == 7).all()
    larger = DualInputSegDataPreProcessor(size=(10, 60))(make_batch((30, 50)), training=True)
    assert larger['inputs'].shape == (1, 6, 30, 60)


def test_channels_are_swapped_in_pairs_of_six_channels_only():
    for channels in (6, 8):
        batch = make_batch((4, 4), channels=channels)
        output = DualInputSegDataPreProcessor(rgb_to_bgr=True, size_divisor=1)(batch)['inputs'][0]
        order = [2, 1, 0, 5, 4, 3] if channels == 6 else list(range(8))
        assert torch.equal(output, batch['inputs'][0][order].float())


@pytest.mark.parametrize('shapes', [[(32, 32), (32, 32)], [(32, 32), (20, 10)]])
def test_float_inputs_are_not_overwritten(shapes):
    batch = make_batch(*shapes, dtype=torch.float32)
    kept = [image.clone() for image in batch['inputs']]
    DualInputSegDataPreProcessor(mean=MEAN * 2, std=STD * 2)(batch, training=True)
    assert all(torch.equal(image, copy) for image, copy in zip(batch['inputs'], kept))


def test_numbers_equal_mmseg_on_one_date():
    ours = DualInputSegDataPreProcessor(**BENCHMARK)
    theirs = SegDataPreProcessor(**{**BENCHMARK, 'mean': MEAN, 'std': STD})
    batch = make_batch((40, 50), (70, 20))
    date_b = {
        'inputs': [image[3:] for image in batch['inputs']],
        'data_samples': make_batch((40, 50), (70, 20))['data_samples'],
    }
    expected = theirs(date_b, training=True)
    found = ours(batch, training=True)
    assert torch.equal(found['inputs'][:, 3:], expected['inputs'])
    for one, other in zip(found['data_samples'], expected['data_samples']):
        assert torch.equal(one.gt_sem_seg.data, other.gt_sem_seg.data)
        assert one.padding_size == tuple(map(int, other.padding_size))


def test_batch_augments_come_last_in_training_only():
    preprocessor = DualInputSegDataPreProcessor(
        size_divisor=32, batch_augments=lambda inputs, samples: (inputs + 1000, samples[:1])
    )
    batch = make_batch((40, 50), (40, 50))
    output = preprocessor(batch, training=True)
    assert output['inputs'].min() >= 1000
    assert len(output['data_samples']) == 1
    assert preprocessor(batch)['inputs'].max() < 1000


def test_nothing_of_it_is_in_a_checkpoint():
    preprocessor = DualInputSegDataPreProcessor(**BENCHMARK)
    assert preprocessor.state_dict() == {}
    assert preprocessor.mean.shape == (6, 1, 1)


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        ({'mean': [1.0]}, 'std=None'),
        ({'bgr_to_rgb': True, 'rgb_to_bgr': True}, 'bgr_to_rgb'),
        ({'size': (8, 8), 'size_divisor': 8}, 'size_divisor=8'),
    ],
)
def test_contradictory_settings_are_refused(settings, text):
    with pytest.raises(UserError, match=text):
        DualInputSegDataPreProcessor(**settings)


def test_batches_that_cannot_be_stacked_are_refused():
    with pytest.raises(UserError, match=r'different sizes.*\(40, 50\), \(70, 20\)'):
        DualInputSegDataPreProcessor(**BENCHMARK)(make_batch((40, 50), (70, 20)))
    with pytest.raises(UserError, match='3 and 3 values, but pairs have 6 channels'):
        DualInputSegDataPreProcessor(mean=MEAN, std=STD)(make_batch((4, 4)))
    mixed = {'inputs': [torch.zeros(6, 4, 4), torch.zeros(8, 4, 4)]}
    with pytest.raises(UserError, match=r'\[6, 8\]'):
        DualInputSegDataPreProcessor()(mixed, training=True)
