"""Models behind one method, ``probability``: a detector of any scope, or the detectors of a
cascade."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.checkpoint import load_weights, read_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.precision import FULL, Precision
from mtkd_cd.core.strategy import BEST
from mtkd_cd.data.radiometry import Identity, Rule, from_spec
from mtkd_cd.engine.config import (
    DISTILLER,
    check_exists,
    data_sets,
    is_cascade,
    is_type,
    load_config,
    specialist_ranges,
    work_dir_of,
)
from mtkd_cd.inference.card import RGB, Card
from mtkd_cd.models.conversion import published_layout
from mtkd_cd.models.mtkd.building import Detector, build_detector
from mtkd_cd.models.mtkd.normalisation import InputConverter
from mtkd_cd.models.mtkd.routing import ORIGIN, Routing, choose_routing
from mtkd_cd.models.prepare import Prepared
from mtkd_cd.registry import DATASETS

_HALF = 0.5
_percentiles: dict[str, Rule] = {}  # of training splits, by the config of the data set
_ABOVE_HALF = float(torch.nextafter(torch.tensor(_HALF), torch.tensor(1.0)))


class Predictor(Protocol):
    """What every backend offers."""

    def probability(self, pairs: Tensor) -> Tensor:
        """(N, H, W) float32 probability of change of (N, 2C, H, W) normalised pairs."""


class TorchPredictor:
    """A detector in mmseg's form. It predicts through its prepared copy
    (:mod:`mtkd_cd.models.prepare`), as a test does.

    Args:
        detector: Of any scope; its ``predict(inputs)`` gives samples with ``seg_logits``.
        temperature: The logits are divided by it.
        convert: Turns what the caller normalised into this detector's input.
        precision: In what the prepared copy computes.
    """

    def __init__(
        self,
        detector: Detector,
        temperature: float = 1.0,
        convert: Callable[[Tensor], Tensor] | None = None,
        precision: Precision = FULL,
    ) -> None:
        self.detector = detector.eval()
        self._prepared = Prepared(self.detector, precision=precision)
        self.temperature = temperature
        self.convert = convert

    def probability(self, pairs: Tensor) -> Tensor:
        """(N, H, W) float32; above 0.5 exactly where a two-channel head's argmax is change.

        The network takes the pairs as they are, each one window, also where a test would slide
        smaller windows over them.
        """
        return torch.stack(self._predict(pairs, None))

    def probability_at(
        self, pairs: Tensor, shape: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """Probabilities at the sizes of the images before a pipeline resized them.

        Images are cut into windows as the model's ``test_cfg`` says and the logits are resized, as
        in a test.

        Args:
            pairs: (N, 2C, H, W), padded at the right and the bottom.
            shape: (h, w) of the images without padding.
            sizes: (H, W) of each result.
        """
        height, width = pairs.shape[2:]
        meta = dict(
            img_shape=shape,
            pad_shape=(height, width),
            padding_size=(0, width - shape[1], 0, height - shape[0]),
        )
        samples = [SegDataSample(metainfo=dict(meta, ori_shape=size)) for size in sizes]
        return self._predict(pairs, samples)

    def _predict(self, pairs: Tensor, samples: list[SegDataSample] | None) -> list[Tensor]:
        device = next((p.device for p in self.detector.parameters()), pairs.device)
        pairs = pairs.to(device)
        inputs = self.convert(pairs) if self.convert else pairs
        detector = self._prepared.detector
        with torch.no_grad():
            predicted = predict_samples(
                detector,
                inputs,
                samples,
                whole=samples is None and _slides(detector),
                keep_logits=self.temperature != 1,
            )
            return [
                change_probability(sample.seg_logits.data[None].float(), self.temperature)[0]
                for sample in predicted
            ]


def predict_samples(
    detector: Any,
    pairs: Tensor,
    samples: list[SegDataSample] | None = None,
    *,
    whole: bool = False,
    keep_logits: bool = False,
) -> list[SegDataSample]:
    """What ``detector.predict`` gives.

    Args:
        detector: In mmseg's form.
        pairs: (N, 2C, H, W).
        samples: Whose metainfo says what was padded and resized.
        whole: Whether each pair is one window, also where a test would slide smaller ones.
        keep_logits: Whether ``seg_logits`` of a sigmoid head are logits, of no change (0) and of
            change, where the detector lets us see them. mmseg gives the probability, which is 1
            in float32 from a logit of 17 on: a temperature above 1 would leave it there.
    """
    if not (whole or (keep_logits and hasattr(detector, 'postprocess_result'))):
        return detector.predict(pairs, samples)
    if samples is None:
        size = pairs.shape[2:]
        meta = dict(img_shape=size, pad_shape=size, ori_shape=size, padding_size=(0, 0, 0, 0))
        metas = [meta] * len(pairs)
    else:
        metas = [sample.metainfo for sample in samples]
    with torch.inference_mode():  # as a prepared detector's `predict` does
        logits = (detector.whole_inference if whole else detector.inference)(pairs, metas)
        if keep_logits and logits.shape[1] == 1:
            logits = torch.cat((torch.zeros_like(logits), logits), 1)
        return detector.postprocess_result(logits, samples)


def _slides(detector: Any) -> bool:
    """Whether a test slides windows over the images."""
    return (getattr(detector, 'test_cfg', None) or {}).get('mode') == 'slide'


def change_probability(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Probability of change of mmseg's ``seg_logits``.

    Args:
        logits: (N, 2, H, W) logits, or (N, 1, H, W) of a sigmoid head, which mmseg gives as
            probabilities.
        temperature: The logits are divided by it.

    Returns:
        (N, H, W).

    Raises:
        UserError: Another number of channels.
    """
    if logits.shape[1] == 1 and temperature == 1:
        return logits[:, 0]
    margin = result_margin(logits)
    probability = (margin / temperature).sigmoid()
    if logits.shape[1] == 1:
        return probability
    # Rounding brings margins that are barely positive to one half exactly.
    return torch.where(margin > 0, probability.clamp(min=_ABOVE_HALF), probability.clamp(max=_HALF))


def result_margin(logits: Tensor) -> Tensor:
    """(N, H, W) log-odds of change of what :func:`change_probability` takes.

    Raises:
        UserError: Another number of channels.
    """
    if logits.shape[1] == 1:
        return logits[:, 0].logit()
    if logits.shape[1] != 2:
        raise UserError(
            f'the model has {logits.shape[1]} classes: change detectors have one or two channels'
        )
    return logits[:, 1] - logits[:, 0]


@dataclass
class Model:
    """A model as the inferencer uses it.

    Attributes:
        card: How the model takes its input.
        load: A function that builds the predictor, by the name of each detector. A model that is no
            cascade has one detector, called ``''``.
        routing: Of a cascade: which detector predicts pairs of which coarse CAR.
        partition: The named CAR ranges.
        cfg: The config that the model was trained with, for its test pipeline.
        device: The only one that it runs on, where that is so.
        precision: In what its networks compute.
    """

    card: Card
    load: Mapping[str, Callable[[], Predictor]]
    routing: Routing | None = None
    partition: CARPartition = field(default_factory=CARPartition)
    cfg: Any = None
    device: str | None = None
    precision: Precision = FULL
    _loaded: dict[str, Predictor] = field(default_factory=dict)

    def predictor(self, name: str = '') -> Predictor:
        """The predictor called ``name``, built when it is first needed."""
        if name not in self._loaded:
            self._loaded[name] = self.load[name]()
        return self._loaded[name]

    def in_precision(self, precision: Precision) -> 'Model':
        """A model of the same detectors that compute in this precision.

        Raises:
            UserError: The model runs no detector of torch; one of a cascade says so when it is
                loaded.
        """
        if self.device is not None:
            raise _no_other_precision(precision, self.card.name)

        def load(name: str) -> Predictor:
            found = self.predictor(name)
            if not isinstance(found, TorchPredictor):
                raise _no_other_precision(precision, self.card.name)
            return TorchPredictor(found.detector, found.temperature, found.convert, precision)

        loads = {name: partial(load, name) for name in self.load}
        return replace(self, load=loads, precision=precision, _loaded={})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the detectors; of a cascade the origin comes first."""
        return tuple(self.load)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the detectors that have been built so far."""
        return tuple(self._loaded)


def _no_other_precision(precision: str, name: str) -> UserError:
    return UserError(
        f'precision={precision!r}: {name} is no network of torch, it computes as it was exported: '
        'leave precision out, or give a bundle or a config and the backend torch'
    )


def init_model(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None = None,
    device: str = 'auto',
    cfg_options: Mapping[str, Any] | None = None,
    *,
    trusted: bool = False,
) -> Detector:
    """Build the detector of a config and load its weights, as ``mmseg.apis.init_model``.

    Args:
        config: A config file or a loaded config. Of a distiller's, the student is built; a
            cascade's loads the checkpoints that the config names.
        checkpoint: Weights, also a file of the TinyCD authors'; ``None`` leaves them as they are
            initialised.
        device: ``'auto'``, ``'cpu'``, ``'cuda'``, ``'cuda:1'``.
        cfg_options: Changes of config entries.
        trusted: Whether the file may hold pickled objects. Only for files of your own.

    Returns:
        The detector in evaluation mode, with the config as ``cfg``.

    Raises:
        UserError: The config or the checkpoint is missing or no good.
    """
    cfg = config if isinstance(config, Config) else load_config(os.fspath(config), cfg_options)
    if isinstance(config, Config) and cfg_options:
        cfg.merge_from_dict(dict(cfg_options))
    detector = build_plain(cfg, _student_of(cfg.model))
    if checkpoint is not None:
        check_exists(os.fspath(checkpoint), str(checkpoint), cfg.filename)
        try:
            load_weights(detector, checkpoint, trusted=trusted)
        except UserError:
            published = _published(cfg, checkpoint, trusted)
            if published is None:
                raise
            detector = published
    detector.cfg = cfg
    return placed(detector, device)


def _published(cfg: Config, path: str | os.PathLike, trusted: bool) -> Detector | None:
    """The detector of a published file in its authors' layout, if this is one; the options that it
    needs are set in the config."""
    weights = read_weights(path, trusted=trusted)
    layout = published_layout(weights)
    if layout is None:
        return None
    node = 'model.student' if 'student' in cfg.model else 'model'
    options = {key.replace('model', node, 1): value for key, value in layout.options.items()}
    problem = UserError(f'{path} is {layout.title}, which is not the model of {cfg.filename}')
    if not is_type(_student_of(cfg.model).get('backbone'), layout.backbone):
        raise problem
    cfg.merge_from_dict(options)
    detector = build_plain(cfg, _student_of(cfg.model))
    converted = layout.convert(weights)
    wanted = converted.get('state_dict', converted)
    missing = [key for key in detector.state_dict() if key not in wanted]
    if [key for key in missing if not key.endswith('num_batches_tracked')]:
        raise problem
    detector.load_state_dict(wanted, strict=False)
    return detector


def model_from_config(
    config: str | os.PathLike | Config,
    weights: str | os.PathLike | None = None,
    device: str = 'auto',
    cfg_options: Mapping[str, Any] | None = None,
    *,
    trusted: bool = False,
) -> Model:
    """A model from a config and its weights; the detectors of a cascade are loaded when needed.

    Args:
        config: A config file or a loaded config.
        weights: A checkpoint; default: the ``best.pth`` that the config's training left.
        device: See :func:`init_model`.
        cfg_options: Changes of config entries.
        trusted: Whether the file may hold pickled objects.

    Raises:
        UserError: The config or a checkpoint is missing or no good.
    """
    cfg = config if isinstance(config, Config) else load_config(os.fspath(config), cfg_options)
    if is_cascade(cfg):
        if weights is not None:
            raise UserError(
                f'weights={weights}: a cascade has one file per detector; set '
                'model.checkpoints in its config'
            )
        return _cascade_from_config(cfg, device, trusted)
    path = Path(weights) if weights is not None else work_dir_of(cfg) / BEST
    check_exists(path, str(path), cfg.filename)
    return model_from_detector(init_model(cfg, path, device, trusted=trusted))


def model_from_detector(detector: Detector) -> Model:
    """A model from a module that :func:`init_model` gave, or any detector in mmseg's form with a
    data preprocessor; also of a built cascade."""
    cfg = getattr(detector, 'cfg', None)
    name = Path(cfg.filename).stem if cfg is not None and cfg.filename else type(detector).__name__
    if hasattr(detector, 'specialists') and hasattr(detector, 'routing'):
        predictors = {
            ORIGIN: TorchPredictor(detector.origin),
            **{
                range_name: TorchPredictor(specialist, convert=detector._convert[range_name])
                for range_name, specialist in detector.specialists.items()
            },
        }
        return Model(
            card_of(detector.origin, cfg, name),
            {key: partial(_same, value) for key, value in predictors.items()},
            detector.routing,
            detector.partition,
            cfg,
        )
    predictor = TorchPredictor(detector)
    return Model(card_of(detector, cfg, name), {'': lambda: predictor}, cfg=cfg)


def card_of(detector: Detector, cfg: Config | None = None, name: str = '') -> Card:
    """Make the card of a detector from its data preprocessor, its head and its config."""
    preprocessor = detector.data_preprocessor
    channels = 2 * int(getattr(detector, 'backbone_inchannels', 3))
    swaps = bool(
        getattr(
            preprocessor, 'channel_conversion', getattr(preprocessor, '_channel_conversion', False)
        )
    )
    threshold = getattr(getattr(detector, 'decode_head', None), 'threshold', None)
    if getattr(detector, 'out_channels', None) != 1:
        threshold = None  # argmax
    divisor = preprocessor_divisor(preprocessor)
    bands: tuple[str, ...] = RGB if swaps else RGB[::-1]
    numbers, radiometry = data_settings(cfg)[0], radiometry_of(cfg)
    if channels != 6:
        count = channels // 2
        named = numbers if numbers and len(numbers) == count else range(1, count + 1)
        bands = tuple(f'band {number}' for number in named)
    return Card(
        name=name or type(detector).__name__,
        mean=_per_channel(getattr(preprocessor, 'mean', None), channels, 0.0),
        std=_per_channel(getattr(preprocessor, 'std', None), channels, 1.0),
        bands=bands,
        radiometry=radiometry,
        training_size=_training_size(cfg),
        divisor=divisor,
        threshold=_HALF if threshold is None else float(threshold),
    )


def tested_data(cfg: Config | None) -> Mapping[str, Any]:
    """The config of the data set that a config's test reads, below its wrappers; of several the
    first, with a warning where others are read otherwise. Empty where there is no test."""
    loader = (cfg or {}).get('test_dataloader') or {}
    if not loader.get('dataset'):
        return {}
    first, *others = data_sets(loader['dataset'])
    for key in ('pipeline', 'bands', 'radiometry'):
        if any(other.get(key) != first.get(key) for other in others):
            warnings.warn(
                f'the test reads several data sets, of which {key} differs: pairs are read as in '
                f'the first, {first.get("data_root")}',
                stacklevel=2,
            )
    return first


def data_settings(cfg: Config | None) -> tuple[tuple[int, ...] | None, Rule]:
    """Numbers of the bands that a config's test reads, ``None`` where it names none, and the rule
    for their values. Percentiles of a training split are not in a config: their rule is unfitted.
    """
    data = tested_data(cfg)
    bands, radiometry = data.get('bands'), data.get('radiometry')
    return (
        None if bands is None else tuple(bands),
        Identity() if radiometry is None else from_spec(radiometry),
    )


def radiometry_of(cfg: Config | None) -> Rule:
    """The rule of a config's test, with the percentiles of the training split as the data set takes
    them; where there are no data a warning says so, and the rule is unfitted: each scene's own are
    taken."""
    rule = data_settings(cfg)[1]
    if rule.fitted:
        return rule
    assert cfg is not None
    data = tested_data(cfg)
    roots = {str(one.get('data_root')) for one in data_sets(cfg.test_dataloader.dataset)}
    if len(roots) > 1:
        warnings.warn(
            f'the test reads {len(roots)} data sets, which have percentiles of their own: those of '
            'each pair are taken',
            stacklevel=2,
        )
        return rule
    key = repr(dict(data))
    if key not in _percentiles:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtkd_cd')):
            try:
                dataset: Any = DATASETS.build(data)
                dataset.full_init()
            except UserError as error:
                warnings.warn(
                    f'the percentiles of the training are not known here ({error}): those of each '
                    'pair are taken; a bundle holds them',
                    stacklevel=2,
                )
                return rule
        _percentiles[key] = dataset.radiometry
    return _percentiles[key]


def preprocessor_divisor(preprocessor: nn.Module) -> int:
    """The number to whose multiples a test pads image sides."""
    test_cfg = getattr(preprocessor, 'test_cfg', None) or {}
    return int(test_cfg.get('size_divisor') or 1)


def choose_device(device: str) -> torch.device:
    """``'auto'`` is a GPU where there is one.

    Raises:
        UserError: A device that torch does not find or know.
    """
    if device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f'device={device!r}: auto, cpu, cuda or cuda:N is needed') from None
    if chosen.type == 'cuda' and not torch.cuda.is_available():
        raise UserError(f'device={device!r}: torch finds no GPU here; use cpu')
    return chosen


def _same(predictor: Predictor) -> Predictor:
    return predictor


def _cascade_from_config(cfg: Config, device: str, trusted: bool) -> Model:
    partition = specialist_ranges(cfg)
    routing = choose_routing(
        cfg.model.get('routing', 'car'), cfg.model.get('routing_file'), partition
    )
    needed = dict.fromkeys((ORIGIN, *routing.detectors))
    checkpoints = dict(cfg.model.get('checkpoints') or {})
    for name in needed:
        if name not in checkpoints:
            raise UserError(
                f'model.checkpoints of the cascade has no {name!r}: give the file of each detector'
            )
        check_exists(checkpoints[name], f'{checkpoints[name]} ({name})', cfg.filename)

    def build(name: str, model: Mapping[str, Any]) -> Detector:
        detector = build_plain(cfg, model)
        load_weights(detector, checkpoints[name], trusted=trusted)
        return placed(detector, device)

    return cascade_of(cfg, routing, build)


def cascade_of(
    cfg: Config,
    routing: Routing,
    build: Callable[[str, Mapping[str, Any]], Detector],
    card: Card | None = None,
) -> Model:
    """The model of a cascade, whose detectors are built when they are needed; the origin at once.

    Args:
        cfg: The cascade's config.
        routing: Which detector predicts pairs of which coarse CAR.
        build: Builds and loads a detector of this name and config.
        card: Card to use, instead of the one that the origin gives.
    """
    temperature = 1.0 if card is None else card.temperature
    others = dict(cfg.model.get('specialists') or {})
    origin = build(ORIGIN, cfg.model.origin)

    def load(name: str) -> Predictor:
        if name == ORIGIN:
            return TorchPredictor(origin, temperature)
        detector = build(name, others.get(name) or cfg.model.origin)
        convert = InputConverter(origin.data_preprocessor, detector.data_preprocessor)
        return TorchPredictor(detector, temperature, convert)

    return Model(
        card or card_of(origin, cfg, Path(cfg.filename).stem if cfg.filename else 'cascade'),
        {name: partial(load, name) for name in dict.fromkeys((ORIGIN, *routing.detectors))},
        routing,
        routing.partition,
        cfg,
    )


def _student_of(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """A distiller's student, whose weights its checkpoints hold; any other model itself."""
    if is_type(model, DISTILLER):
        return model['student']
    return model


def build_plain(cfg: Config, model: Mapping[str, Any]) -> Detector:
    """Build a detector in a config's scope, with the config's data preprocessor if it has none."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtkd_cd')):
        return build_detector(model, cfg.get('data_preprocessor'))


def placed(detector: Detector, device: str) -> Detector:
    """Put a detector on a device, in evaluation mode. On the CPU, synchronised batch norms become
    plain ones."""
    chosen = choose_device(device)
    if chosen.type == 'cpu':
        detector = revert_sync_batchnorm(detector)
    return detector.to(chosen).eval()


def _per_channel(values: Tensor | None, channels: int, default: float) -> tuple[float, ...]:
    if values is None:
        return (default,) * channels
    numbers = values.detach().cpu().flatten().tolist()
    return tuple(numbers * channels if len(numbers) == 1 else numbers)


def _training_size(cfg: Config | None) -> int:
    if cfg is not None:
        for node in _steps(cfg.get('train_dataloader')):
            if is_type(node, 'MultiImgRandomCrop'):
                side = node.get('crop_size')
                return int(side if isinstance(side, int) else max(side))
        if cfg.get('image_size'):
            return int(cfg.image_size)
    return Card('', (), ()).training_size


def _steps(node: Any) -> Any:
    if isinstance(node, Mapping):
        yield node
        for value in node.values():
            yield from _steps(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _steps(value)
