"""Configs as the tools use them: loaded with errors a user can act on, and adjusted by what the
command line says."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mmengine.device.utils
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import init_dist, is_distributed
from mmengine.registry import DefaultScope
from mmengine.utils.dl_utils import set_multi_processing

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS, found_config
from mtkd_cd.core.precision import FULL, Precision, as_precision
from mtkd_cd.core.processes import watch_others
from mtkd_cd.core.strategy import (
    Layout,
    Place,
    Strategy,
    of_each_fold,
    range_and_fold,
    training_command,
)
from mtkd_cd.core.text import closest, did_you_mean
from mtkd_cd.data.images import band_numbers as band_numbers
from mtkd_cd.data.images import normalization_of
from mtkd_cd.data.radiometry import from_spec
from mtkd_cd.models.mtkd.routing import choose_routing
from mtkd_cd.registry import MODELS

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_RUNNER_KEYS = (  # what a config may hold beside what the shipped ones do
    *(
        'activation_checkpointing',
        'auto_scale_lr',
        'compile',
        'efficient_conv_bn_eval',
        'experiment_name',
        'find_unused_parameters',
        'precision',
        'student_model',
        'student_train_dataloader',
    ),
    *(
        'model_wrapper_cfg',
        'sync_bn',
        'tta_model',
        'tta_pipeline',
        'vis_backends',
        'visualizer',
        'work_dir',
    ),
)
# Arguments of `set_costs`.
COSTS = (
    'amp',
    'compile',
    'cache',
    'accumulate',
    'checkpoint_activations',
    'teacher_precision',
)
SPECIALIST_DATA = 'CARPartitionDataset'
FOLD_DATA = 'FoldDataset'
CASCADE = 'OriginPartitionCascade'
DISTILLER = 'MultiTeacherDistiller'
_SUFFIXES = ('.py', '.json', '.yml', '.yaml')  # of configs, as mmengine reads them


def load_config(
    path: str | Path,
    options: Mapping[str, Any] | None = None,
    needs: Sequence[str] = ('model',),
) -> Config:
    """Read a config file and apply ``--cfg-options``.

    Args:
        path: Of the file. ``configs/...`` is the package's own where the current folder has none.
        options: Entries to set, by their dotted keys.
        needs: Entries that the config has to have.

    Raises:
        UserError: No such file, not a config, or an option that the config has no place for.
    """
    path = found_config(path)
    if not path.is_file():
        raise UserError(f'config {path} {_hint_for(path)}')
    if path.suffix not in _SUFFIXES:
        raise UserError(f'config {path} is none: give a file {", ".join(_SUFFIXES)}')
    try:
        cfg = Config.fromfile(path)
    except UserError:
        raise
    except Exception as error:
        # A config is code: whatever it raises is a mistake in the file.
        raise UserError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    # yapf takes half a second for the text of a config, and mmengine asks for it five times a run
    # and with every checkpoint. Its fromfile drops the argument of this name.
    object.__setattr__(cfg, '_format_python_code', False)
    merge_options(cfg, options or {})
    missing = [name for name in needs if not cfg.get(name)]
    if missing:
        raise UserError(f'config {path} has no {", ".join(missing)}: give one that has')
    return cfg


def _hint_for(path: Path) -> str:
    """What is wrong with the path of a config that is no file, and what may be meant."""
    if path.is_dir():
        return f'is a folder: give a file {", ".join(_SUFFIXES)}'
    if (CONFIGS / 'origin' / f'{path}.py').is_file():
        return f'does not exist: did you mean configs/origin/{path}.py, or configs/mtkd/{path}.py?'
    folders = [path.parent]
    shipped = path.parts[:1] == ('configs',)
    if shipped:
        folders.append(CONFIGS.joinpath(*path.parent.parts[1:]))
    siblings = sorted({file.stem for folder in folders for file in folder.glob('*.py')})
    if not siblings:
        return f'does not exist: folder {path.parent} holds no config'
    # The files of a folder of the user's may be anything.
    near = closest(path.stem, siblings) if shipped else did_you_mean(path.stem, siblings)
    return f'does not exist: {near or "check the path"}'


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Apply ``--cfg-options``.

    Raises:
        UserError: An option that the config has no place for.
    """
    for key in options:
        first = key.split('.')[0]
        if first not in cfg and first not in _RUNNER_KEYS:
            raise UserError(
                f'--cfg-options {key}=...: the config has no {first!r}; {closest(first, cfg)}'
            )
    options = {key: _as_text(cfg, key, value) for key, value in options.items()}
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f'--cfg-options {" ".join(options)}: {error.args[0]}') from error
    for loader in LOADERS:
        if loader in cfg and cfg[loader] and cfg[loader].get('num_workers') == 0:
            # torch refuses both where there is no worker.
            cfg[loader].persistent_workers = False
            cfg[loader].pop('prefetch_factor', None)


def _as_text(cfg: Config, key: str, value: Any) -> Any:
    """What mmengine took for a list because it has a comma in it, such as a path, as the text that
    the config has in its place."""
    is_list = isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value)
    node: Any = cfg
    for name in key.split('.'):
        if isinstance(node, (list, tuple)) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        else:
            node = node.get(name) if isinstance(node, (dict, Config)) else None
    return ','.join(value) if is_list and isinstance(node, str) else value


def is_type(node: Any, *names: str) -> bool:
    """Whether a node of a config builds one of these classes.

    Args:
        node: A dictionary with a ``type``: a name, with a scope or a module before it, or the class
            itself, as in mmengine's pure-Python configs.
        names: Of classes.
    """
    return _type_name(node) in names


def _type_name(node: Any) -> str:
    kind = node.get('type') if isinstance(node, Mapping) else None
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def model_of(cfg: Config) -> str:
    """The model's name: the config file's. A config that was not read from a file goes by its
    detector's class."""
    return Path(cfg.filename).stem if cfg.filename else _type_name(cfg.model)


def strategy_of(cfg: Config) -> Strategy:
    """The strategy of a config, by what is in it, wherever its file is.

    A cascade is ``op``, a distiller ``mtkd``, with what it matches and who teaches it. Training
    data of a CAR range make a specialist. A config that starts from an origin's ``best.pth``
    (``load_from``) is ``continued``, all others are ``origin``.
    """
    data = (cfg.get('train_dataloader') or {}).get('dataset')
    for node, name, kind in (
        (cfg.get('model'), CASCADE, 'op'),
        (cfg.get('model'), DISTILLER, 'mtkd'),
        (data, SPECIALIST_DATA, 'partition'),
    ):
        if node is not None and is_type(node, name):
            folds = _fold_in(node)[0] if kind == 'partition' else node.get('folds')
            known = _given(node, 'thresholds', 'routing') | dict(folds=folds or 0)
            if kind == 'mtkd':
                known |= dict(match=_match_of(node), teachers=_teachers_of(node))
            return Strategy(kind, **known)
    start = Place.of(cfg.load_from) if cfg.get('load_from') else None
    continued = start is not None and start.strategy.kind == 'origin'
    return Strategy('continued' if continued else 'origin')


def _match_of(model: Any) -> str:
    """What a distiller's student matches, where its loss is ours."""
    loss = model.get('distill_loss')
    return loss.get('match', 'mse') if is_type(loss, 'ChangeMapLoss') else 'mse'


def _teachers_of(model: Any) -> str:
    """Name of the other model that teaches a distiller's student, by the place of its weights."""
    if 'type' not in (model.get('teachers') or {}):
        return ''
    files = dict(model.get('checkpoints') or {})
    places = [Place.of(path) for name, path in files.items() if path and name != 'student']
    names = {place.layout.model for place in places if place is not None}
    with suppress(UserError):  # a folder that no strategy can be called by
        return Strategy('mtkd', teachers=names.pop()).teachers if len(names) == 1 else ''
    return ''


def range_of(cfg: Config) -> str | None:
    """The CAR range that a config trains on, if it does; several are joined by ``+``."""
    data = (cfg.get('train_dataloader') or {}).get('dataset')
    if not is_type(data, SPECIALIST_DATA):
        return None
    found = _range_in(data)
    return found if isinstance(found, str) else '+'.join(found)


def fold_of(cfg: Config) -> int | None:
    """The fold that a specialist's config leaves out of the training data, if it does."""
    data = (cfg.get('train_dataloader') or {}).get('dataset')
    return _fold_in(data)[1] if is_type(data, SPECIALIST_DATA) else None


def _fold_in(data: Any) -> tuple[int, int | None]:
    """(number of folds, the one that is left out) of a specialist's training data."""
    inner = data.get('dataset')
    left_out = inner.get('leave_out') if is_type(inner, FOLD_DATA) else None
    return (inner['folds'], left_out) if isinstance(left_out, int) else (0, None)


def _range_in(data: Any) -> Any:
    """``range``, or as it was once called."""
    return data['range'] if 'range' in data else data['partition']


def innermost_data(data: Any) -> Any:
    """The data set that has a ``data_root``, below its wrappers; of several sets their wrapper."""
    while 'data_root' not in data and 'dataset' in data:
        data = data['dataset']
    return data


def data_sets(data: Any) -> list[Any]:
    """All data sets behind wrappers, also behind one of several (``ConcatDataset``); at least
    one."""
    inner = innermost_data(data)
    several = inner.get('datasets') or ()
    return [one for part in several for one in data_sets(part)] or [inner]


def is_cascade(cfg: Config) -> bool:
    """Whether the config's model is the O-P cascade, which is tested and not trained."""
    return is_type(cfg.get('model'), CASCADE)


def precision_of(cfg: Config) -> Precision:
    """The precision of a config's test: of a cascade its model's, else ``precision`` at the top.

    Raises:
        UserError: There is no such precision.
    """
    of_model = cfg.model.get('precision') if is_cascade(cfg) else None
    return as_precision(of_model or cfg.get('precision') or FULL)


def set_precision(cfg: Config, precision: str) -> None:
    """Let a config's test compute in this precision.

    Raises:
        UserError: There is no such precision.
    """
    cfg.precision = as_precision(precision)
    if is_cascade(cfg):
        cfg.model.precision = precision


def work_dir_of(cfg: Config) -> Path:
    """The config's own work dir, or the place of its strategy under ``work_dirs``."""
    own = cfg.get('work_dir')
    if own:
        return Path(own)
    return Layout(model_of(cfg)).place(strategy_of(cfg), range_of(cfg), fold_of(cfg))


def set_range(cfg: Config, name: str) -> None:
    """Make a specialist's config that of the range ``name``: training and validation data.

    Raises:
        UserError: The config trains on no range, or there is no such range.
    """
    wrappers = [node for node in nodes(cfg) if is_type(node, SPECIALIST_DATA)]
    if not wrappers:
        raise UserError(
            f'--range {name}: {cfg.filename} trains on no CAR range; take the config of that '
            'name in configs/partition/'
        )
    for wrapper in wrappers:
        CARPartition(**_given(wrapper, 'thresholds', 'names')).index_of_name(name)
        wrapper.pop('partition', None)
        wrapper['range'] = name


def specialist_ranges(cfg: Config) -> CARPartition:
    """The CAR ranges of a cascade's specialists or a distiller's teachers."""
    return CARPartition(**_given(cfg.model, 'thresholds', 'names'))


def starting_weights(cfg: Config) -> dict[str, str]:
    """The files that a run starts from, by name.

    They are those of a cascade or a distiller, with folds each specialist's. Under a validated
    routing they are ``routing``, its file, and the specialists that it uses. ``start`` is the
    config's ``load_from``.

    Raises:
        UserError: The routing file is missing or no good.
    """
    start = dict(start=cfg.load_from) if cfg.get('load_from') else {}
    checkpoints = dict(cfg.model.get('checkpoints') or {})
    checkpoints = of_each_fold(checkpoints, cfg.model.get('folds') or 0)
    if cfg.model.get('routing', 'car') != 'validated':
        return start | checkpoints
    routing = choose_routing('validated', cfg.model.get('routing_file'), specialist_ranges(cfg))
    used = ('origin', 'student', *(routing.detectors if is_cascade(cfg) else routing.teachers))
    return (
        start
        | {name: path for name, path in checkpoints.items() if range_and_fold(name)[0] in used}
        | {'routing': str(cfg.model.routing_file)}
    )


def check_checkpoints(cfg: Config) -> None:
    """Refuse a config that starts from files that do not exist.

    Raises:
        UserError: Names the file and the command that makes it.
    """
    for name, path in starting_weights(cfg).items():
        check_exists(path, f'{path} ({name})', cfg.filename)


def check_exists(path: str | Path, what: str, config: str | Path | None = None) -> None:
    """Refuse a checkpoint that does not exist; says how to make it where that is known.

    Args:
        path: The checkpoint.
        what: Its name in the message.
        config: The config that asks for it.

    Raises:
        UserError: There is no such file.
    """
    if not Path(path).is_file():
        command = training_command(path, config)
        raise UserError(
            f'checkpoint {what} does not exist. '
            + (f'To train it: {command}' if command else 'Check the path')
        )


def set_iters(cfg: Config, iters: int, val_interval: int | None = None) -> None:
    """Shorten or lengthen the schedule: warm-up over at most a tenth of it, at most ten validations
    unless said otherwise.

    A schedule in epochs becomes one in iterations, its warm-up a tenth. The parts of a schedule
    after its warm-up, and steps of ``MultiStepLR`` and ``StepLR``, keep their places in it.
    """
    before = cfg.train_cfg.get('max_iters') or cfg.train_cfg.pop('max_epochs')
    if _counts_epochs_alone(cfg):
        cfg.train_cfg.pop('by_epoch', None)
        cfg.train_cfg.type = 'IterBasedTrainLoop'
    found = cfg.get('param_scheduler') or []
    found = found if isinstance(found, (list, tuple)) else [found]
    warmed_up = next((one['end'] for one in found if _is_warmup(one, before)), 0)
    longest_warmup = warmed_up if 'max_iters' in cfg.train_cfg else iters
    warmup = min(longest_warmup, iters // 10) if warmed_up else 0
    cfg.train_cfg.max_iters = iters

    def moved(time: int) -> int:
        if time <= warmed_up:
            return round(time * warmup / warmed_up) if warmed_up else 0
        return warmup + round((time - warmed_up) * (iters - warmup) / (before - warmed_up))

    schedulers = []
    for scheduler in found:
        begin = moved(scheduler.get('begin', 0))
        end = moved(min(scheduler.get('end', before), before))
        if end - begin > 1:  # mmengine's schedulers divide by end - begin - 1
            period = _rescaled(scheduler, iters, before)
            kept = {
                key: value for key, value in scheduler.items() if key != 'convert_to_iter_based'
            }
            schedulers.append(dict(kept, begin=begin, end=end, by_epoch=False, **period))
    cfg.param_scheduler = schedulers
    set_val_interval(cfg, val_interval or max(1, -(-iters // 10)))
    logger = _default_hook(cfg, 'logger', 'LoggerHook')
    logger['interval'] = max(1, min(logger.get('interval', 10), iters // 20))


def _is_warmup(scheduler: Mapping[str, Any], length: int) -> bool:
    """Whether a scheduler raises the rate at the beginning of a schedule and no longer."""
    if scheduler.get('begin') or not scheduler.get('end', length) < length:
        return False
    if is_type(scheduler, 'QuadraticWarmupLR'):
        return True
    start = scheduler.get('start_factor', scheduler.get('factor', 1 / 3))
    return is_type(scheduler, 'LinearLR', 'ConstantLR') and start < scheduler.get('end_factor', 1)


def _rescaled(scheduler: Mapping[str, Any], iters: int, before: int) -> dict[str, Any]:
    """Times within a scheduler, of a schedule of ``before`` that becomes one of ``iters``."""
    found: dict[str, Any] = {}
    if 'T_max' in scheduler:
        found['T_max'] = max(1, round(scheduler['T_max'] * iters / before))
    if 'milestones' in scheduler:
        found['milestones'] = [max(1, step * iters // before) for step in scheduler['milestones']]
    if 'step_size' in scheduler:
        found['step_size'] = max(1, scheduler['step_size'] * iters // before)
    return found


def set_val_interval(cfg: Config, interval: int) -> None:
    """Validate, and write a checkpoint to resume from, every ``interval`` iterations.

    Raises:
        UserError: The config trains in mmengine's loop by epochs, which knows no iterations.
    """
    if _counts_epochs_alone(cfg):
        raise UserError(
            f'{cfg.filename}: its loop validates by epochs alone; give the length in iterations '
            'too (--iters), or set train_cfg.val_interval, in epochs, or train_cfg.type to '
            "'ReplayableIterLoop', which takes max_epochs too"
        )
    cfg.train_cfg.val_interval = interval
    if 'max_epochs' in cfg.train_cfg:
        cfg.train_cfg.val_by_epoch = False
    _default_hook(cfg, 'checkpoint', 'CheckpointHook').update(by_epoch=False, interval=interval)


def _counts_epochs_alone(cfg: Config) -> bool:
    """Whether the training loop is mmengine's by epochs."""
    return is_type(cfg.train_cfg, 'EpochBasedTrainLoop') or bool(cfg.train_cfg.get('by_epoch'))


def _default_hook(cfg: Config, name: str, kind: str) -> Any:
    """The config of one of the runner's default hooks, put there where a config leaves it to
    mmengine."""
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    if hooks.get(name) is None:
        hooks[name] = ConfigDict(type=kind)
    return hooks[name]


def set_image_size(cfg: Config, size: int) -> None:
    """Resize every image, in training and in tests alike, so that it fits into ``size`` x ``size``
    pixels. Crops in training and windows in prediction get that size."""
    if 'image_size' in cfg:
        cfg.image_size = size
    training = [
        pipeline
        for name in ('train_dataloader', 'student_train_dataloader')
        for pipeline in _pipelines(cfg.get(name) or {})
    ]
    for pipeline in _pipelines(cfg):
        _resize_images(pipeline, size, any(pipeline is one for one in training))
    _set_crops(cfg, size)
    _set_windows(cfg, size)


def set_crop_size(cfg: Config, size: int) -> None:
    """Train on crops of ``size`` x ``size`` pixels.

    Images keep their size. Those of a test are predicted in windows of the crop's size, unless the
    config resizes them (:func:`set_image_size`): then the window stays that of the resized image.
    """
    _set_crops(cfg, size)
    if _test_resize(cfg) is None:
        _set_windows(cfg, size)


def describe_scale(cfg: Config) -> str:
    """One line on the resolution at which a config tests its images."""
    resize = _test_resize(cfg)
    images = (
        'at their native resolution'
        if resize is None
        else f'resized to {resize.get("scale") or resize.get("scale_factor")}'
    )
    windows = next((node for node in nodes(cfg.model) if node.get('mode') == 'slide'), None)
    if windows is None:
        return f'Images are tested {images}, each as a whole'
    crop, stride = windows.crop_size, windows.stride
    return (
        f'Images are tested {images}; those larger than {crop[1]} x {crop[0]} pixels in sliding '
        f'windows of that size, {stride[1]} and {stride[0]} pixels apart'
    )


def _set_crops(cfg: Config, size: int) -> None:
    for node in nodes(cfg):
        if is_type(node, 'MultiImgRandomCrop'):
            node.crop_size = (size, size)


def _set_windows(cfg: Config, size: int) -> None:
    """Make the sliding windows ``size`` x ``size`` pixels large, overlapping as they did."""
    for node in nodes(cfg):
        if node.get('mode') == 'slide' and 'crop_size' in node and 'stride' in node:
            node.stride = tuple(
                max(1, round(size * stride / crop))
                for stride, crop in zip(node.stride, node.crop_size)
            )
            node.crop_size = (size, size)


def _resize_images(pipeline: list, size: int, trains: bool) -> None:
    """Set the target of the pipeline's resizing, or begin it: before the labels of a test are
    loaded, which predictions are compared with at their own size, and after those of training."""
    for step in pipeline:
        if is_type(step, 'MultiImgResize'):
            step.scale = (size, size)
            return
    after = (
        'MultiImgLoadAnnotations'
        if trains or any(is_type(step, 'MultiImgRandomCrop') for step in pipeline)
        else 'MultiImgLoadImageFromFile'
    )
    place = next((index for index, step in enumerate(pipeline) if is_type(step, after)), None)
    if place is not None:
        pipeline.insert(
            place + 1, ConfigDict(type='MultiImgResize', scale=(size, size), keep_ratio=True)
        )


def _pipelines(cfg: Any) -> list[list]:
    """Every list of a config, or of a part of it, that loads pairs, each once."""
    found: dict[int, list] = {}
    for node in nodes(cfg):
        for value in node.values():
            if isinstance(value, list) and any(
                isinstance(step, dict) and is_type(step, 'MultiImgLoadImageFromFile')
                for step in value
            ):
                found[id(value)] = value
    return list(found.values())


def _test_resize(cfg: Config) -> Any:
    """The step that resizes test images, if there is one."""
    for loader in ('test_dataloader', 'val_dataloader'):
        for node in nodes(cfg.get(loader) or {}):
            if is_type(node, 'MultiImgResize'):
                return node
    return None


def set_data(cfg: Config, root: str | Path | None = None, dataset_type: str | None = None) -> None:
    """Read another folder, and as another data set class, in every split.

    Where a config reads several folders, ``root`` holds them, each under its own name.
    """
    # Not the variable of this name at the top of a config, from which data sets may differ.
    found = [node for node in nodes(cfg) if 'data_root' in node and 'type' in node]
    several = len({str(node.data_root) for node in found}) > 1
    for node in found:
        if root is not None:
            name = Path(str(node.data_root)).name if several else ''
            node.data_root = str(Path(root, name))
        node.type = dataset_type or node.type


def set_radiometry(cfg: Config, rule: str) -> None:
    """Bring the values of all images to 0..255 by this rule.

    Raises:
        UserError: No such rule.
    """
    described = from_spec(rule).describe()
    for node in nodes(cfg):
        if 'data_root' in node and 'type' in node:
            node.radiometry = ConfigDict(described)


def set_bands(cfg: Config, bands: Sequence[int]) -> None:
    """Read these bands, and make the first convolutions and the normalisation of all detectors fit
    their number.

    Args:
        cfg: The config.
        bands: Numbers from 1, red, green and blue first.

    Raises:
        UserError: A backbone that takes three bands only.
    """
    count = len(bands)
    for node in nodes(cfg):
        if 'data_root' in node and 'type' in node:
            node.bands = list(bands)
        if count != 3 and isinstance(node.get('image_encoder'), dict):
            raise UserError(
                f'the image encoder of {node.type} takes three bands, found {count} in bands: '
                'choose three of them, or another model'
            )
        if isinstance(node.get('backbone'), dict):
            _widen_detector(node, count)
        if is_type(node, 'DualInputSegDataPreProcessor') and _is_for_other_bands(node, count):
            mean, std = normalization_of(count)
            node.mean, node.std = [*mean] * 2, [*std] * 2


def _is_for_other_bands(preprocessor: Any, count: int) -> bool:
    """Whether its normalisation does not fit pairs of so many bands; one that does may be another
    than ours, as that of BAN."""
    mean = preprocessor.get('mean')
    return isinstance(mean, (list, tuple)) and len(mean) not in (1, 2 * count)


def _widen_detector(detector: Any, count: int) -> None:
    backbone = detector.backbone
    if count == detector.get('backbone_inchannels', 3):
        return
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        kind = MODELS.get(backbone.type) if isinstance(backbone.type, str) else backbone.type
    names = {
        name
        for base in getattr(kind, '__mro__', ())
        for name in inspect.signature(base.__init__).parameters
    }
    if 'in_channels' not in names:
        raise UserError(
            f'{detector.get("type")} with backbone {backbone.type} takes three bands, found '
            f'{count} in bands: choose three of them, or another model'
        )
    # FC-EF and its like see both dates as one image.
    backbone.in_channels = 2 * count if backbone.get('in_channels') == 6 else count
    detector.backbone_inchannels = count


def set_test_data_to_validation(cfg: Config) -> None:
    """Let the config's test be one on the validation split.

    Raises:
        UserError: The config has none.
    """
    if not cfg.get('val_dataloader'):
        raise UserError(
            f'{cfg.filename} has no val_dataloader: what is chosen by validation needs validation '
            'data'
        )
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator


def set_loaders(cfg: Config, batch_size: int | None = None, num_workers: int | None = None) -> None:
    """Images per training step, and loader processes of every split."""
    if batch_size is not None:
        cfg.train_dataloader.batch_size = batch_size
    if num_workers is not None:
        for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            loader: Any = cfg.get(key)
            if not loader:
                continue
            loader.num_workers = num_workers
            loader.persistent_workers = num_workers > 0


def set_amp(cfg: Config) -> None:
    """Train in mixed precision: float16 with a dynamic loss scale on a GPU, bfloat16 on the CPU;
    convolutions in channels-last order.

    Call :func:`set_machine` first. Validation and tests stay float32.

    Raises:
        UserError: An optimiser wrapper that has no mixed precision.
    """
    wrapper = cfg.optim_wrapper
    wrapper.setdefault('type', 'OptimWrapper')
    if not is_type(wrapper, 'OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(
            f'--amp: the config has optim_wrapper.type={wrapper.type!r}; it works with OptimWrapper'
        )
    if is_type(wrapper, 'OptimWrapper'):
        on_cpu = mmengine.device.utils.get_device() == 'cpu'
        wrapper.update(
            dict(type=own_type(cfg, 'BFloat16OptimWrapper'))
            if on_cpu
            else dict(type='AmpOptimWrapper', loss_scale='dynamic')
        )
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if not is_type(hook, 'ChannelsLastHook')]
    _add_hook(cfg, 'ChannelsLastHook')


def set_costs(
    cfg: Config,
    *,
    amp: bool = False,
    compile: bool = False,
    cache: str = 'none',
    accumulate: int | None = None,
    checkpoint_activations: bool = False,
    teacher_precision: str | None = None,
) -> None:
    """What training costs; call :func:`set_machine` first.

    Args:
        cfg: The config.
        amp: See :func:`set_amp`.
        compile: See :func:`set_compile`.
        cache: ``'none'``, or see :func:`set_cache`.
        accumulate: See :func:`set_accumulation`.
        checkpoint_activations: See :func:`set_checkpointing`.
        teacher_precision: See :func:`set_teacher_precision`; ``None`` leaves the config's own.

    Raises:
        UserError: As :func:`set_amp` and :func:`set_teacher_precision` do.
    """
    if amp:
        set_amp(cfg)
    if compile:
        set_compile(cfg)
    if cache != 'none':
        set_cache(cfg, cache)
    if accumulate is not None:
        set_accumulation(cfg, accumulate)
    if checkpoint_activations:
        set_checkpointing(cfg)
    if teacher_precision is not None:
        set_teacher_precision(cfg, teacher_precision)


def set_cache(cfg: Config, kind: str) -> None:
    """Keep decoded images of training (a student's own data too) and validation, which are read
    again and again.

    Args:
        cfg: The config.
        kind: ``'ram'`` or ``'disk'``, see :func:`~mtkd_cd.data.decoded.open_cache`.
    """
    for loader in ('train_dataloader', 'student_train_dataloader', 'val_dataloader'):
        for node in nodes(cfg.get(loader) or {}):
            if is_type(node, 'MultiImgLoadImageFromFile', 'MultiImgLoadAnnotations'):
                node.cache = kind


def set_accumulation(cfg: Config, steps: int) -> None:
    """Add up the gradients of several batches before each step of the optimiser; iterations go on
    to count batches."""
    cfg.optim_wrapper.accumulative_counts = steps


def set_compile(cfg: Config) -> None:
    """Compile the detector in training, and a distiller's teachers."""
    _add_hook(cfg, 'CompileHook')
    if is_type(cfg.get('model'), DISTILLER):
        compile_teachers(cfg)


def compile_teachers(cfg: Config) -> None:
    """Compile the teachers of a distiller; those of one architecture share what is compiled."""
    _set_teacher_option(cfg, 'compiled', True)


def set_teacher_precision(cfg: Config, precision: str) -> None:
    """Let the teachers of a distiller compute in this precision.

    Raises:
        UserError: An unknown precision, or a config without teachers.
    """
    precision = as_precision(precision)
    has_teachers = is_type(cfg.get('model'), DISTILLER)
    if has_teachers and precision != cfg.model.get('teacher_options', {}).get('precision', FULL):
        _set_teacher_option(cfg, 'precision', precision)
    elif not has_teachers and precision != FULL:
        raise UserError(
            f'--teacher-precision {precision}: {cfg.filename} has no teachers, its model is '
            f'{cfg.model.get("type")}; leave it out, or train the config of that name in '
            'configs/mtkd/'
        )


def _set_teacher_option(cfg: Config, name: str, value: Any) -> None:
    cfg.model.teacher_options = {**cfg.model.get('teacher_options', {}), name: value}


def set_checkpointing(cfg: Config) -> None:
    """Compute transformer layers again in the backward pass."""
    _add_hook(cfg, 'ActivationCheckpointingHook')


def _add_hook(cfg: Config, name: str) -> None:
    hook = dict(type=own_type(cfg, name))
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def set_machine(cfg: Config, device: str = 'auto', launcher: str = 'none') -> None:
    """Fit a config to the machine: device, processes and what follows from them.

    Batch norms become synchronised ones among GPU processes, and only there, unless the config says
    otherwise (``sync_bn``). A recipe in mixed precision is float32 on the CPU, unless
    :func:`set_amp` follows.

    Args:
        cfg: The config.
        device: ``auto``, ``cpu`` or ``cuda``.
        launcher: As in mmengine: ``none``, ``pytorch``, ``slurm``, ``mpi``.

    Raises:
        UserError: No GPU where one is asked for, or a launcher that has not launched this process.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch finds no GPU here; use --device cpu')
    if device == 'cpu':
        mmengine.device.utils.DEVICE = 'cpu'
    cfg.launcher = launcher
    wrapper: Any = cfg.get('optim_wrapper') or {}
    if is_type(wrapper, 'AmpOptimWrapper') and mmengine.device.utils.get_device() == 'cpu':
        wrapper.type = 'OptimWrapper'
        wrapper.pop('loss_scale', None)
        wrapper.pop('dtype', None)
    for node in nodes(cfg):
        if is_type(node, 'SyncBN', 'SyncBatchNorm'):
            node.type = 'BN'
    if launcher == 'none':
        return
    if launcher == 'pytorch' and not torch.distributed.is_torchelastic_launched():
        raise UserError(
            '--launcher pytorch: this process was not started by torchrun. Use: torchrun '
            '--nproc_per_node N -m mtkd_cd COMMAND ... --launcher pytorch'
        )
    on_gpu = mmengine.device.utils.get_device() != 'cpu'
    if on_gpu:
        cfg.setdefault('sync_bn', 'torch')
    else:  # mmengine's wrapper assumes a GPU per process
        wrapper = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        cfg.model_wrapper_cfg = {
            **wrapper,
            **(cfg.get('model_wrapper_cfg') or {}),
            'device_ids': None,
        }
    if (
        not is_distributed()
    ):  # before the runner does: settings and data are checked by all processes together
        env_cfg: Any = cfg.get('env_cfg') or {}
        set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
        if on_gpu:
            init_dist(launcher, **env_cfg.get('dist_cfg', {}))
        else:
            torch.distributed.init_process_group('gloo')
    watch_others()


def nodes(node: Any) -> Iterator[Any]:
    """Every dictionary in a config."""
    if isinstance(node, Config):
        node = node._cfg_dict
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from nodes(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from nodes(value)


def own_type(cfg: Config, name: str) -> str:
    """The name of a class of ours in a config of any default scope."""
    return name if cfg.get('default_scope') == 'mtkd_cd' else f'mtkd_cd.{name}'


def _given(node: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: node[key] for key in keys if node.get(key) is not None}
