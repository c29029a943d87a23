"""What a config says: loaded, with ``--cfg-options`` and errors a user can act on, and asked for
its model, its strategy, its data and the files that it starts from."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS, found_config
from mtkd_cd.core.precision import FULL, Precision, as_precision
from mtkd_cd.core.strategy import (
    Layout,
    Place,
    Strategy,
    of_each_fold,
    range_and_fold,
    training_command,
)
from mtkd_cd.core.text import closest, did_you_mean
from mtkd_cd.models.mtkd.routing import choose_routing

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
SPECIALIST_DATA = 'CARPartitionDataset'
FOLD_DATA = 'FoldDataset'
CASCADE = 'OriginPartitionCascade'
DISTILLER = 'MultiTeacherDistiller'
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


def own_type(cfg: Config, name: str) -> str:
    """The name of a class of ours in a config of any default scope."""
    return name if cfg.get('default_scope') == 'mtkd_cd' else f'mtkd_cd.{name}'


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


def work_dir_of(cfg: Config) -> Path:
    """The config's own work dir, or the place of its strategy under ``work_dirs``."""
    own = cfg.get('work_dir')
    if own:
        return Path(own)
    return Layout(model_of(cfg)).place(strategy_of(cfg), range_of(cfg), fold_of(cfg))


def specialist_ranges(cfg: Config) -> CARPartition:
    """The CAR ranges of a cascade's specialists or a distiller's teachers."""
    return ranges_of(cfg.model)


def ranges_of(node: Mapping[str, Any]) -> CARPartition:
    """The CAR ranges of a node of a config that has ``thresholds`` and ``names``, or their
    defaults."""
    return CARPartition(**_given(node, 'thresholds', 'names'))


def _given(node: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: node[key] for key in keys if node.get(key) is not None}


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
