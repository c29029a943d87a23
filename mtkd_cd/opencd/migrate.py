"""Open-CD's configs, those of MTKD too, rewritten for this package.

Open-CD has a copy of a detector's class for each family that it distils, with the teachers as its
sub-modules and the data cut into a folder for each CAR range. Here one wrapper distils any
detector, and the data set is cut by its CARs.
"""

import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mtkd_cd.core.car import DEFAULT_THRESHOLDS
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import Layout, Strategy
from mtkd_cd.core.text import did_you_mean

TWO_TEACHERS = (0.1,)
# The detector that each of Open-CD's distilling classes, and of the paper's repository's, copies.
DISTILLING = {
    'DistillDIEncoderDecoder': 'DIEncoderDecoder',
    'DistillDIEncoderDecoder_S': 'DIEncoderDecoder',
    'DistillDIEncoderDecoder_S_TwoTeachers': 'DIEncoderDecoder',
    'DistillSiamEncoderDecoder': 'SiamEncoderDecoder',
    'DistillSiamEncoderDecoder_ChangeStar': 'SiamEncoderDecoder',
    'DistillBAN': 'BAN',
    'DistillTimeTravellingPixels': 'TimeTravellingPixels',
    'DistillTimeTravellingPixels_TwoTeachers': 'TimeTravellingPixels',
}
RANGE_OF_SUFFIX = {'s': 'small', 'm': 'medium', 'l': 'large'}
_SPLIT_OF_RANGE = re.compile(
    r'^(?P<before>(?:.*/)?(?:train|val|test))_(?P<range>[sml])(?P<after>/.*)?$'
)
_SEMANTIC = ('SiamEncoderMultiDecoder', 'TinyCDv2', 'TinyCD_v2', 'SCDDecoder', 'MultiHeadDecoder')
GRADIENT_NOTE = (
    'The published code calls the distillation term `distill`. mmengine sums only the entries '
    'whose names hold `loss`, so that term never reached a gradient: the published training is '
    'the origin trained on. Here it is called `loss_distill` and is trained. The same lambda is '
    "therefore another training; start from the paper's table 6, and compare with "
    '`configs/continued`.'
)


@dataclass
class Migration:
    """A rewritten config and what there is to say about it.

    Attributes:
        cfg: The config, resolved: it has no ``_base_``.
        changed: What was rewritten, a line each.
        left: What could not be, and what to do about it.
        notes: What differs from Open-CD although nothing had to be rewritten.
    """

    cfg: Config
    changed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The three lists, for people."""
        parts = []
        for title, lines in (
            ('Changed', self.changed),
            ('Could not be changed', self.left),
            ('Mind', self.notes),
        ):
            if lines:
                parts.append('\n'.join([f'{title}:', *(f'  - {line}' for line in lines)]))
        return '\n'.join(parts) or 'Nothing to change'


def migrate_config(path: str | Path) -> Migration:
    """Rewrite one of Open-CD's configs, MTKD's or another, for this package.

    Args:
        path: The config file. The files that its ``_base_`` names must be there.

    Returns:
        The new config and what was done.

    Raises:
        UserError: The file, or one that it inherits from, is missing or no config.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'config {path} does not exist: check the path')
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except FileNotFoundError as error:
        raise UserError(
            f'config {path} inherits from a file that is not there ({error}). Run the command '
            'where the file lies in its own tree, for instance in a clone of Open-CD'
        ) from error
    except Exception as error:
        # A config is code: whatever it raises is a mistake in the file.
        raise UserError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    migration = Migration(cfg)
    _migrate_scope(migration)
    _migrate_model(migration, path.stem)
    _migrate_data(migration)
    _report_unknown_types(migration)
    return migration


def _migrate_scope(migration: Migration) -> None:
    cfg = migration.cfg
    if cfg.get('default_scope') != 'mtkd_cd':
        migration.changed.append(f"default_scope: {cfg.get('default_scope')!r} -> 'mtkd_cd'")
        cfg.default_scope = 'mtkd_cd'
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    foreign = [name for name in imports if name.split('.')[0] == 'opencd']
    if foreign:
        kept = [name for name in imports if name not in foreign]
        cfg.custom_imports = dict(cfg.custom_imports, imports=[*kept, 'mtkd_cd'])
        migration.changed.append(f'custom_imports: {", ".join(foreign)} -> mtkd_cd')
    prefixed = set()
    for node in _dicts(cfg._cfg_dict):
        kind = node.get('type')
        if isinstance(kind, str) and kind.startswith('opencd.'):
            node['type'] = kind.removeprefix('opencd.')
            prefixed.add(kind)
    if prefixed:
        migration.changed.append(f'prefix opencd. taken from {", ".join(sorted(prefixed))}')


def _migrate_model(migration: Migration, name: str) -> None:
    model = migration.cfg.get('model')
    kind = str(model.get('type')) if isinstance(model, Mapping) else ''
    if kind not in DISTILLING:
        return
    student = {key: value for key, value in model.items() if not key.startswith('init_cfg')}
    loss = student.pop('distill_loss', None) or {}
    student['type'] = DISTILLING[kind]
    two = kind.endswith('_TwoTeachers')
    suffixes = ('s', 'l') if two else ('s', 'm', 'l')
    sources = {'student': 'init_cfg'} | {RANGE_OF_SUFFIX[s]: f'init_cfg_t_{s}' for s in suffixes}
    checkpoints = {
        part: _checkpoint(migration, part, key, model.get(key), name)
        for part, key in sources.items()
    }
    thresholds = TWO_TEACHERS if two else DEFAULT_THRESHOLDS
    weight = _loss_weight(migration, loss)
    migration.cfg.model = dict(
        type='MultiTeacherDistiller',
        student=student,
        thresholds=tuple(thresholds),
        checkpoints=checkpoints,
        distill_loss=dict(type='ChangeMapMSELoss', loss_weight=weight),
    )
    migration.changed.append(
        f'model: {kind} -> MultiTeacherDistiller(student={DISTILLING[kind]}), thresholds '
        f'{", ".join(map(str, thresholds))}'
    )
    migration.changed.append(
        f'model: {", ".join(sources.values())} -> checkpoints ({", ".join(checkpoints)})'
    )
    migration.changed.append(f'model: distill_loss -> ChangeMapMSELoss(loss_weight={weight})')
    migration.notes.append(GRADIENT_NOTE)
    migration.notes.append(
        'Teachers are chosen by the CAR of the stored label, `<=` at the thresholds, pixels '
        "ignored in the label left out. model.compat='opencd' chooses them as Open-CD does: by "
        'the augmented label, 255 counted as change, `<`.'
    )
    if migration.cfg.pop('find_unused_parameters', None):
        migration.changed.append('find_unused_parameters: dropped, teachers have no gradients')


def _checkpoint(
    migration: Migration, part: str, key: str, init_cfg: Mapping[str, Any] | None, name: str
) -> str:
    given = (init_cfg or {}).get('checkpoint')
    if given:
        return str(given)
    if part == 'student':
        place = Layout(name).weights(Strategy('origin')).as_posix()
    else:
        place = Layout(name).weights(Strategy('partition'), part).as_posix()
    migration.left.append(f'model.{key} names no checkpoint: put the file into {place}')
    return place


def _loss_weight(migration: Migration, loss: Mapping[str, Any]) -> float:
    kind = str(loss.get('type'))
    if not kind.startswith('DistillLossWithPixel'):
        migration.left.append(
            f'model.distill_loss.type={kind!r} has no term on the raw change map: loss_weight is '
            "the paper's commonest, 1e-4; choose yours"
        )
        return 1e-4
    if loss.get('loss_weight', 1.0):
        migration.left.append(
            f'model.distill_loss: its KL term (loss_weight={loss.get("loss_weight", 1.0)}, '
            f'temperature={loss.get("temperature", 1.0)}) is dropped; the squared error stays'
        )
    return float(loss.get('pixel_weight', 1.0))


def _migrate_data(migration: Migration) -> None:
    """Folders of a CAR range (``train_s/A``) to the whole split in a ``CARPartitionDataset``."""
    cfg = migration.cfg
    model = cfg.get('model') or {}
    thresholds = tuple(model.get('thresholds') or ()) or None
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, MutableMapping) and isinstance(loader.get('dataset'), Mapping):
            loader['dataset'] = _whole_split(
                migration, f'{split}_dataloader', loader['dataset'], thresholds
            )


def _whole_split(
    migration: Migration, where: str, dataset: Any, thresholds: tuple[float, ...] | None
) -> Any:
    for key in ('dataset', 'datasets'):  # RepeatDataset, ConcatDataset and their like
        inner = dataset.get(key)
        if isinstance(inner, Mapping):
            dataset[key] = _whole_split(migration, where, inner, thresholds)
        elif isinstance(inner, list):
            dataset[key] = [_whole_split(migration, where, part, thresholds) for part in inner]
    ranges = set()
    for holder, key in _places(dataset):
        found = _SPLIT_OF_RANGE.match(holder[key])
        if found:
            ranges.add(found['range'])
            holder[key] = found['before'] + (found['after'] or '')
    if not ranges:
        return dataset
    if len(ranges) > 1:
        migration.left.append(
            f'{where}.dataset mixes the folders of several CAR ranges ({", ".join(sorted(ranges))})'
        )
        return dataset
    name = RANGE_OF_SUFFIX[ranges.pop()]
    wrapper = dict(type='CARPartitionDataset', range=name, dataset=dataset)
    if thresholds:
        wrapper['thresholds'] = thresholds
    migration.changed.append(
        f'{where}.dataset: folders of the range {name} -> CARPartitionDataset(range={name!r}) '
        'round the whole split; the copies of the data are not needed'
    )
    if name != 'medium' and not thresholds:
        migration.notes.append(
            f'{where}.dataset is cut at {", ".join(map(str, DEFAULT_THRESHOLDS))}. For two '
            f'teachers add thresholds={TWO_TEACHERS} to its CARPartitionDataset.'
        )
    return wrapper


def _places(dataset: Any) -> Iterator[tuple[Any, str]]:
    """The entries of a data set's config that may hold a folder."""
    for key in ('data_root', 'ann_file'):
        if isinstance(dataset.get(key), str):
            yield dataset, key
    prefix = dataset.get('data_prefix')
    if isinstance(prefix, Mapping):
        for key, value in prefix.items():
            if isinstance(value, str):
                yield prefix, key


def _report_unknown_types(migration: Migration) -> None:
    from mtkd_cd.registry import is_known, similar_name

    for kind in sorted(
        {
            node['type']
            for node in _dicts(migration.cfg._cfg_dict)
            if isinstance(node.get('type'), str)
        }
    ):
        if is_known(kind):
            continue
        if kind.rpartition('.')[2] in _SEMANTIC:
            advice = 'semantic change detection is out of scope; the binary models are in docs'
        elif kind.rpartition('.')[2].startswith('Distill'):
            # What is rewritten is gone by now: a misspelt one, or a loss of a model that is not.
            advice = did_you_mean(kind, DISTILLING) or 'check its spelling and that of its model'
        else:
            advice = similar_name(kind) or 'nothing here is like it'
        migration.left.append(f'type {kind!r} is not known here: {advice}')


def _dicts(node: Any) -> Iterator[MutableMapping[str, Any]]:
    """Every dict in a config, the outer ones first."""
    if isinstance(node, MutableMapping):
        yield node
        for value in list(node.values()):
            yield from _dicts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _dicts(value)
