"""The mean over views, of one-channel and two-channel heads and of a cascade."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mtkd_cd.models.tta import ChangeTTAModel


def view(logits, flip, **fields):
    sample = SegDataSample(metainfo=dict(flip=flip, img_path='a.png'))
    sample.seg_logits = PixelData(data=logits)
    sample.pred_sem_seg = PixelData(data=torch.zeros(1, 2, 3, dtype=torch.long))
    for name, value in fields.items():
        sample.set_field(value, name, dtype=None, field_type='data')
    return sample


def merge(views, threshold=None):
    detector = nn.Module()
    detector.decode_head = SimpleNamespace(threshold=threshold)
    detector.test_step = None
    return ChangeTTAModel(detector).merge_preds([views])[0]


def test_two_channels_are_decided_by_the_mean_probability():
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 2, 3)
    merged = merge([view(one, flip) for one, flip in zip(logits, (True, False, True))])
    expected = logits.softmax(1).mean(0)[1] > 0.5
    assert torch.equal(merged.pred_sem_seg.data, expected.long()[None])
    assert torch.equal(merged.seg_logits.data, logits[1])  # the sample of the stored view


@pytest.mark.parametrize(('threshold', 'used'), [(None, 0.5), (0.3, 0.3)])
def test_one_channel_is_decided_by_the_heads_threshold(threshold, used):
    torch.manual_seed(1)
    probabilities = torch.rand(4, 1, 8, 9)  # what mmseg's detectors put into seg_logits
    merged = merge([view(one, False) for one in probabilities], threshold)
    assert torch.equal(merged.pred_sem_seg.data, (probabilities.mean(0) > used).long())


@pytest.mark.parametrize('name', ['tinycd', 'stanet_r18', 'fc_ef'])
def test_equal_views_predict_what_one_does(name, build_model):
    detector = build_model(name).eval()
    inputs = torch.randn(1, 6, 32, 32)
    with torch.no_grad():
        (alone,) = detector(inputs, mode='predict')
        if detector.out_channels == 1:
            detector.decode_head.threshold = float(alone.seg_logits.data.median())
        predictions = [detector(inputs, mode='predict')[0] for _ in range(3)]
    merged = ChangeTTAModel(detector).merge_preds([predictions])[0]
    assert torch.equal(merged.pred_sem_seg.data, predictions[0].pred_sem_seg.data.long())
    assert merged.pred_sem_seg.data.float().mean() < 1


def test_cascade_keeps_what_it_says_of_the_stored_view():
    views = [view(torch.randn(2, 2, 3), flip, coarse_car=car, range=name)
             for flip, car, name in ((False, 0.1, 'medium'), (True, 0.01, 'small'))]  # fmt: skip
    merged = merge(views)
    assert (merged.coarse_car, merged.range) == (0.1, 'medium')
