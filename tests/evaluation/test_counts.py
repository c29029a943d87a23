import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation.counts import at_size_of, confusion_counts


def _masks(seed=0, num=6, size=(9, 7)):
    rng = np.random.default_rng(seed)
    prediction = (rng.random((num, *size)) < rng.random((num, 1, 1))).astype(np.uint8)
    label = (rng.random((num, *size)) < rng.random((num, 1, 1))).astype(np.uint8)
    prediction[0], label[1], prediction[2], label[2] = 0, 1, 1, 0
    label[3][rng.random(size) < 0.3] = 255
    label[4] = 255
    return prediction, label


def _expected(prediction, label):
    valid = label != 255
    (tn, fp), (fn, tp) = (
        confusion_matrix(label[valid], prediction[valid], labels=[0, 1])
        if valid.any()
        else np.zeros((2, 2), int)
    )
    return [tp, fp, fn, tn]


def test_counts_equal_the_confusion_matrix_of_each_image():
    prediction, label = _masks()
    expected = [_expected(p, t) for p, t in zip(prediction, label)]
    assert confusion_counts(prediction, label).tolist() == expected
    assert (
        confusion_counts(torch.from_numpy(prediction), torch.from_numpy(label)).tolist() == expected
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.int64, torch.bool])
def test_predictions_of_any_dtype_count_alike(dtype):
    prediction, label = (torch.from_numpy(masks) for masks in _masks())
    assert torch.equal(
        confusion_counts(prediction.to(dtype), label), confusion_counts(prediction, label)
    )


def test_one_mask_gives_one_row():
    prediction, label = _masks()
    assert confusion_counts(prediction[3], label[3]).tolist() == _expected(prediction[3], label[3])


def test_another_ignore_index():
    label = np.array([[0, 1, 9, 9]])
    assert confusion_counts(np.array([[0, 1, 1, 0]]), label, ignore_index=9).tolist() == [
        1,
        0,
        0,
        1,
    ]


@pytest.mark.parametrize('kind', [np.asarray, torch.tensor])
def test_masks_of_another_coding_are_refused_with_the_values_found(kind):
    binary, coded = kind([[0, 1]]), kind([[0, 254]])
    with pytest.raises(UserError, match='prediction mask holds 0 and 1; found 0, 254'):
        confusion_counts(coded, binary)
    with pytest.raises(UserError, match=r'label mask holds 0, 1 and 255 \(ignored\); found 0, 254'):
        confusion_counts(binary, coded)


def test_unequal_sizes_are_refused():
    with pytest.raises(UserError, match=r'\(4, 4\).*\(4, 5\)'):
        confusion_counts(np.zeros((4, 4)), np.zeros((4, 5)))


def test_resizing_a_mask_repeats_its_pixels_and_keeps_its_dtype():
    mask = torch.tensor([[0, 1], [1, 1]], dtype=torch.int64)
    enlarged = at_size_of(mask, torch.zeros(4, 6))
    assert torch.equal(enlarged, mask.repeat_interleave(2, 0).repeat_interleave(3, 1))
    assert enlarged.dtype == torch.int64


def test_shrinking_a_mask_does_not_shift_it():
    mask = torch.zeros(9, 9, dtype=torch.uint8)
    mask[3:6, 3:6] = 1
    assert at_size_of(mask, torch.zeros(3, 3)).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
