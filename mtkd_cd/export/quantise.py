"""8-bit integers in place of float32: static quantisation, calibrated on pairs of the validation
split.

Weights are rounded per channel, activations by their range on the calibration pairs. ONNX files get
QuantizeLinear and DequantizeLinear round convolutions and products with weights, which onnxruntime
fuses; OpenVINO's are made by nncf.
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.data.labels import read_label
from mtkd_cd.evaluation.scores import image_scores
from mtkd_cd.export.description import Description
from mtkd_cd.export.graph import IR_VERSION
from mtkd_cd.export.network import in_band_order
from mtkd_cd.export.parity import normalised
from mtkd_cd.inference.card import Card
from mtkd_cd.inference.pair_lists import read_pairs
from mtkd_cd.inference.predictor import Predictor
from mtkd_cd.inference.raster.opening import open_pair
from mtkd_cd.inference.raster.request import PairOptions
from mtkd_cd.inference.windows import Window

CALIBRATION_PAIRS = 32
_QUANTISED = ['Conv', 'ConvTranspose', 'MatMul', 'Gemm']


@dataclass(frozen=True)
class Pairs:
    """Windows of some pairs.

    Attributes:
        images: (N, 2C, S, S) float32 from 0 to 255, in the card's ``band_order``.
        labels: (N, S, S) of 0, 1, 255; ``None`` without labels.
    """

    images: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.images)

    def split(self) -> tuple['Pairs', 'Pairs']:
        """Every other pair: to calibrate with, and to compare on."""
        first, second = (
            Pairs(self.images[i::2], None if self.labels is None else self.labels[i::2])
            for i in range(2)
        )
        return first, second


def read_windows(
    data: str | os.PathLike,
    card: Card,
    size: int,
    count: int = 2 * CALIBRATION_PAIRS,
    option: str = '--calibration',
    trained_bands: Sequence[int] | None = None,
) -> Pairs:
    """The middle of some pairs, evenly drawn from a list.

    Args:
        data: What :func:`~mtkd_cd.inference.pair_lists.read_pairs` takes: a folder with A/, B/ and
            perhaps label/, or a CSV file.
        card: Bands and radiometry.
        size: Side of the windows.
        count: At most that many.
        option: Who asked for them, for messages.
        trained_bands: Numbers of the files' bands that the model learned from; default: as the
            card's names tell.

    Raises:
        UserError: A pair is missing, no good, or smaller than the windows; fewer than two pairs.
    """
    tasks = read_pairs(data)
    chosen = np.unique(np.linspace(0, len(tasks) - 1, min(count, len(tasks))).astype(int))
    if len(chosen) < 2:
        raise UserError(f'--calibration {data} holds one pair: at least two are needed')
    images, labels = [], []
    trained = card.numbers if trained_bands is None else tuple(trained_bands)
    options = PairOptions(band_names=card.band_order, trained_bands=trained)
    mean = np.reshape(np.array(in_band_order(card, card.mean), np.float32), (2, -1, 1, 1))
    for index in chosen:
        task = tasks[index]
        if len(task.a) != 1 or len(task.b) != 1:
            raise UserError(f'{option} {data}: one file per date is needed')
        with open_pair(task.a[0], task.b[0], options) as pair:
            grid = pair.grid
            if pair.warp is not None:
                raise UserError(f'{option}: {task.a[0]} and {task.b[0]} lie on two grids')
            if min(grid.height, grid.width) < size:
                raise UserError(
                    f'{option}: {task.a[0]} has {grid.width} x {grid.height} pixels, the '
                    f'graph takes {size} x {size}: give larger images, or a smaller --size'
                )
            place = Window((grid.height - size) // 2, (grid.width - size) // 2, size, size)
            rule = card.radiometry
            if not rule.fitted:
                rule = rule.fit(pair.a.sample(), pair.b.sample())
            a, b, valid, _ = pair.read(place)
            dates = np.stack([rule.apply(date) for date in (a, b)]).astype(np.float32)
            images.append(np.where(valid, dates, mean).reshape(-1, size, size))
        if task.label is not None:
            label = read_label(task.label, format_seg_map='to_binary')
            labels.append(label[place.row : place.row + size, place.col : place.col + size])
    has_labels = len(labels) == len(images)
    return Pairs(np.stack(images).astype(np.float32), np.stack(labels) if has_labels else None)


def graph_inputs(pairs: Pairs, description: Description) -> Iterator[np.ndarray]:
    """(1, 2C, S, S) float32 each, as the graph takes them."""
    inputs = pairs.images
    if description.input == 'normalised':
        inputs = normalised(pairs.images, description.card).numpy()
    for one in inputs:
        yield np.ascontiguousarray(one[None], np.float32)


def quantised_onnx(model: Any, pairs: Pairs, description: Description) -> Any:
    """An ``onnx.ModelProto`` of 8-bit integers.

    Args:
        model: In float32, with one input.
        pairs: To calibrate with.
        description: How the graph is fed.
    """
    onnx = require('onnx', 'export', 'int8')
    tool = require('onnxruntime.quantization', 'export', 'int8')
    prepare = require('onnxruntime.quantization.shape_inference', 'export', 'int8')
    name = model.graph.input[0].name

    class Reader(tool.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.inputs = graph_inputs(pairs, description)

        def get_next(self) -> dict[str, np.ndarray] | None:
            one = next(self.inputs, None)
            return None if one is None else {name: one}

    with tempfile.TemporaryDirectory() as folder:
        source, fused, target = (os.path.join(folder, f'{n}.onnx') for n in 'abc')
        onnx.save(model, source)
        prepare.quant_pre_process(source, fused, skip_symbolic_shape=True)
        tool.quantize_static(
            fused,
            target,
            Reader(),
            quant_format=tool.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            # Seven bits of weights: sums of products of 8-bit integers overflow 16 bits on
            # processors without VNNI.
            reduce_range=True,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            calibrate_method=tool.CalibrationMethod.MinMax,
            extra_options={'MatMulConstBOnly': True},
        )
        result = onnx.load(target)
    result.ir_version = IR_VERSION
    # onnxruntime's optimiser writes every domain that it knows, in versions that older ones refuse.
    used = {'', *(node.domain for node in result.graph.node)}
    for entry in [one for one in result.opset_import if one.domain not in used]:
        result.opset_import.remove(entry)
    return result


def quantised_openvino(content: bytes, pairs: Pairs, description: Description) -> Any:
    """An OpenVINO model of 8-bit integers, of the bytes of an ONNX file in float32."""
    openvino = require('openvino', 'openvino', 'int8')
    nncf = require('nncf', 'openvino', 'int8 for OpenVINO')
    model = openvino.Core().read_model(content)
    dataset = nncf.Dataset(list(graph_inputs(pairs, description)))
    return nncf.quantize(
        model, dataset, preset=nncf.QuantizationPreset.MIXED, subset_size=len(pairs)
    )


@dataclass(frozen=True)
class Loss:
    """What 8-bit integers change on pairs that they were not calibrated with.

    Attributes:
        pairs: How many.
        max_difference: Of a probability.
        mean_difference: Likewise.
        flipped: Share of pixels whose decision flips.
        miou: Per-image mIoU in percent, in float32 and in int8; ``None`` without labels.
    """

    pairs: int
    max_difference: float
    mean_difference: float
    flipped: float
    miou: tuple[float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        found = dataclasses.asdict(self)
        return found | {'miou': None if self.miou is None else list(self.miou)}


def loss(
    reference: tuple[Predictor, Card], quantised: tuple[Predictor, Card], pairs: Pairs
) -> Loss:
    """Compare two predictors, each with the card of what it takes."""
    maps = [
        np.concatenate(
            [
                predictor.probability(normalised(pairs.images[i : i + 1], card)).cpu().numpy()
                for i in range(len(pairs))
            ]
        )
        for predictor, card in (reference, quantised)
    ]
    threshold = reference[1].threshold
    changes = [one > threshold for one in maps]
    difference = np.abs(maps[0] - maps[1])
    miou = None
    if pairs.labels is not None:
        first, second = (float(_mean_iou(change, pairs.labels)) for change in changes)
        miou = first, second
    return Loss(
        len(pairs),
        float(difference.max()),
        float(difference.mean()),
        float((changes[0] != changes[1]).mean()),
        miou,
    )


def _mean_iou(change: np.ndarray, labels: np.ndarray) -> float:
    axes = (1, 2)
    counts = np.stack(
        [
            (change & (labels == 1)).sum(axes),
            (change & (labels == 0)).sum(axes),
            (~change & (labels == 1)).sum(axes),
            (~change & (labels == 0)).sum(axes),
        ],
        1,
    )
    return float(image_scores(counts)['mIoU'].mean())
