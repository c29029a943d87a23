"""Confusion counts of change masks, taken once per image; every score in this package derives from
the (images x 4) table of them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mtkd_cd.core.car import IGNORE_INDEX, ArrayOrTensor, is_tensor
from mtkd_cd.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

COUNT_NAMES = ('TP', 'FP', 'FN', 'TN')


def confusion_counts(
    prediction: ArrayOrTensor, label: ArrayOrTensor, ignore_index: int = IGNORE_INDEX
) -> ArrayOrTensor:
    """Pixels of each outcome per image; positive is *changed*.

    Args:
        prediction: (..., H, W), array or tensor of any dtype: 0 unchanged, 1 changed.
        label: Same shape and kind: 0, 1 or ``ignore_index``, whose pixels are not counted.

    Returns:
        (..., 4) int64 of the kind that came in and, for tensors, on its device: TP, FP, FN, TN.

    Raises:
        UserError: Unequal shapes, or other values than those above, for instance masks coded 0 /
            255.
    """
    _refuse_other_shape(prediction, label)
    predicted, changed, ignored = prediction == 1, label == 1, label == ignore_index
    _refuse_other_values('prediction', prediction, predicted | (prediction == 0), '0 and 1')
    _refuse_other_values(
        'label', label, changed | ignored | (label == 0), f'0, 1 and {ignore_index} (ignored)'
    )
    return _stacked(_outcomes(predicted, changed, ignored))


def map_counts(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """:func:`confusion_counts` of a predicted map that may hold 255, nodata, where nothing counts.

    Args:
        prediction: (H, W): 0, 1 or 255.
        label: (H, W): 0, 1 or 255, not counted either.

    Returns:
        (4,) int64: TP, FP, FN, TN.
    """
    _refuse_other_shape(prediction, label)
    unknown = prediction == IGNORE_INDEX
    return confusion_counts(
        np.where(unknown, 0, prediction), np.where(unknown, IGNORE_INDEX, label), IGNORE_INDEX
    )


def outcome_counts(
    prediction: 'Tensor', label: 'Tensor', ignore_index: int = IGNORE_INDEX
) -> 'Tensor':
    """:func:`confusion_counts` of tensors that may hold anything, without waiting for the device.

    Args:
        prediction: (..., H, W) of any dtype.
        label: Same shape.
        ignore_index: Label value of pixels that are not counted.

    Returns:
        (..., 6) int64 on their device: TP, FP, FN, TN, then pixels of the prediction that are
            neither 0 nor 1, and pixels of the label that are neither 0, 1 nor ``ignore_index``. The
            first four are right where the last two are 0.
    """
    predicted, changed, ignored = prediction == 1, label == 1, label == ignore_index
    strange = (
        (~(predicted | (prediction == 0))).sum((-2, -1)),
        (~(changed | ignored | (label == 0))).sum((-2, -1)),
    )
    return _stacked([*_outcomes(predicted, changed, ignored), *strange])


def _outcomes(
    predicted: ArrayOrTensor, changed: ArrayOrTensor, ignored: ArrayOrTensor
) -> list[ArrayOrTensor]:
    masks = (predicted & changed, predicted & ~ignored, changed, ~ignored)
    tp, positives, changes, valid = (mask.sum((-2, -1)) for mask in masks)
    return [tp, positives - tp, changes - tp, valid - positives - changes + tp]


def _stacked(columns: list[Any]) -> Any:
    if not is_tensor(columns[0]):
        return np.stack(columns, -1)
    import torch

    return torch.stack(columns, -1)


def at_size_of(prediction: 'Tensor', label: 'Tensor') -> 'Tensor':
    """``prediction`` (H', W') as it is, or resized by nearest neighbour to the size of ``label``
    (H, W)."""
    if prediction.shape == label.shape:
        return prediction
    import torch.nn.functional as F

    # nearest-exact: mode='nearest' would shift the mask by up to half a pixel.
    resized = F.interpolate(prediction[None, None].float(), label.shape, mode='nearest-exact')
    return resized[0, 0].to(prediction.dtype)


def _refuse_other_shape(prediction: ArrayOrTensor, label: ArrayOrTensor) -> None:
    if prediction.shape != label.shape:
        raise UserError(
            f'a prediction of shape {tuple(prediction.shape)} cannot be compared with a label of '
            f'shape {tuple(label.shape)}'
        )


def _refuse_other_values(what: str, mask: ArrayOrTensor, known: ArrayOrTensor, wanted: str) -> None:
    if not known.all():
        values = (np.unique(mask) if isinstance(mask, np.ndarray) else mask.unique()).tolist()
        raise UserError(
            f'a {what} mask holds {wanted}; found {", ".join(f"{value:g}" for value in values[:8])}'
        )
