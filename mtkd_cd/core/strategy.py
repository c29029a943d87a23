"""Strategies of training and testing, and the places of their files.

A strategy has a kind and, where it differs from the paper's default, a variant: other CAR
thresholds, another routing. Its text names it everywhere: ``op``, ``mtkd@0.1``,
``op@0.1_0.3+validated``. It is the name of its folder, of its per-image table and of its line in a
report. This module alone reads and writes that text, and this module alone knows the layout of a
work dir.
"""

import glob
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtkd_cd.core.car import DEFAULT_THRESHOLDS, CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS, found_config

KINDS = ('origin', 'continued', 'partition', 'op', 'mtkd')
TESTED_KINDS = ('origin', 'continued', 'op', 'mtkd')  # in the order of tables
ROUTINGS = ('car', 'validated')  # of a cascade
TEACHINGS = (*ROUTINGS, 'origin', 'cascade', 'best')  # of a student
MATCHES = ('mse', 'kl', 'margin')  # what of the change maps a student matches
WORK_DIRS = 'work_dirs'
BEST = 'best.pth'
TEST_TABLE = 'per_image.json'  # that a test leaves in its work dir
ROUTING_FILE = 'routing.json'
REPORT = 'report'  # folder of the tables and reports of all models
CURVES = 'curves.csv'  # validation curves of all trainings, beside the tables
_BY = 'by_'  # before the model whose detectors teach
_NOT_IN_NAMES = '+:/\\\n\r\t\0'  # of teachers: they stand between the parts of a text, or of a path
_FOLDS = 'folds'  # before the number of folds
FOLD = '{fold}'  # in a path: for the number of a fold
_OF_FOLD = '@'  # in a teacher's name: between its range and its fold
_ROUTING = 'routing'  # folder of the tests that a validated routing follows from
_TITLES = {'op': 'O-P', 'mtkd': 'MTKD'}


@dataclass(frozen=True)
class Strategy:
    """How a model is trained, or tested.

    Attributes:
        kind: ``origin``: on all images. ``continued``: the origin, trained on. ``partition``:
            specialists of the CAR ranges. ``op``: the cascade of origin and specialists. ``mtkd``:
            the student of the specialists. ``routing``: the tests on validation data that a
            validated routing follows from.
        thresholds: CAR thresholds between the specialists.
        routing: How an image finds its specialist: ``car``, by its CAR range; ``validated``, by the
            scores on validation data, see ``docs/routing.md``. A student may also be taught by the
            ``origin``, by the ``cascade``'s choice, or by whoever is ``best`` on the image.
        teachers: Name of another model, whose detectors teach the student; empty: its own.
        match: What of the teacher's change map the student matches, see
            :class:`~mtkd_cd.models.losses.ChangeMapLoss`; the paper's: ``mse``.
        folds: Number of folds of the training pairs. A range then has as many specialists; each is
            trained without one fold, and teaches that fold. 0: a range has one specialist, which
            has seen all.

    What has no effect on a kind is set to the default, so that equal strategies share their files.
    ``origin`` and ``continued`` have no thresholds, only ``mtkd`` has teachers, and only
    ``partition`` and ``mtkd`` have folds, unless the origin teaches.

    Raises:
        UserError: An unknown kind or routing, bad thresholds, a single fold, folds with a
            validated routing, or a name of teachers that a text cannot hold.
    """

    kind: str
    thresholds: tuple[float, ...] = DEFAULT_THRESHOLDS
    routing: str = 'car'
    teachers: str = ''
    match: str = 'mse'
    folds: int = 0

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, _ROUTING):
            raise UserError(f'unknown strategy {self.kind!r}: there are {", ".join(KINDS)}')
        if self.routing not in TEACHINGS:
            raise UserError(f'routing={self.routing!r}: choose one of {", ".join(TEACHINGS)}')
        if self.match not in MATCHES:
            raise UserError(f'match={self.match!r}: choose one of {", ".join(MATCHES)}')
        thresholds = CARPartition(self.thresholds).thresholds
        if self.kind in ('origin', 'continued'):
            thresholds = DEFAULT_THRESHOLDS
        object.__setattr__(self, 'thresholds', thresholds)
        routings = {'mtkd': TEACHINGS, 'op': ROUTINGS}.get(self.kind, ())
        if self.routing not in routings:
            object.__setattr__(self, 'routing', 'car')
        if self.kind != 'mtkd':
            object.__setattr__(self, 'teachers', '')
            object.__setattr__(self, 'match', 'mse')
        self._check_teachers()
        self._check_folds()

    def _check_teachers(self) -> None:
        found = [sign for sign in self.teachers if sign in _NOT_IN_NAMES]
        if found:
            raise UserError(
                f'teachers {self.teachers!r}: their name becomes part of the name of a strategy, '
                f'in which {found[0]!r} means something else: give the config file of the '
                'teachers, and their folders in the work dir, a name without it'
            )

    def _check_folds(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise UserError(f'folds={self.folds}: at least 2 are needed, each is left out once')
        if self.kind not in ('partition', 'mtkd') or self.routing == 'origin':
            object.__setattr__(self, 'folds', 0)
        elif self.folds and self.routing == 'validated':
            raise UserError(
                f'folds={self.folds} and routing=validated: a validated routing may name the '
                "origin, which has seen every image; choose routing 'car', 'cascade' or 'best'"
            )

    @classmethod
    def parse(cls, text: str, kinds: Sequence[str] = KINDS) -> 'Strategy':
        """The strategy of a text.

        Args:
            text: For instance ``op@0.1+validated``.
            kinds: Those that are wanted.

        Raises:
            UserError: No strategy is called so; says what it may be called.
        """
        kind, _, variant = text.partition('@')
        if kind not in kinds:
            raise UserError(
                f'unknown strategy {text!r}: there are {", ".join(kinds)}, and variants such as '
                'op@0.1'
            )
        strategy = cls(kind, **_parse_variant(variant))
        if strategy.text != text:
            raise UserError(f'strategy {text!r} is called {strategy.text!r}')
        return strategy

    @property
    def variant(self) -> str:
        """Empty for the default, else ``0.1``, ``0.1_0.3``, ``validated``, ``0.1+validated``,
        ``best+by_changer_mitb0``, ``folds5``, ``kl``."""
        routing = self.routing if self.routing != 'car' else ''
        teachers = f'{_BY}{self.teachers}' if self.teachers else ''
        match = self.match if self.match != 'mse' else ''
        folds = f'{_FOLDS}{self.folds}' if self.folds else ''
        parts = (self.partition.tag, routing, teachers, folds, match)
        return '+'.join(part for part in parts if part)

    @property
    def text(self) -> str:
        """``op``, ``op@0.1``: the name in folders, tables and commands."""
        return f'{self.kind}@{self.variant}' if self.variant else self.kind

    @property
    def title(self) -> str:
        """``O-P @ 0.1``: the name in headings, as the paper writes it."""
        title = _TITLES.get(self.kind, self.kind)
        return f'{title} @ {self.variant}' if self.variant else title

    @property
    def rank(self) -> tuple[int, str]:
        """Sort key of tables: origin, continued, O-P, MTKD, each followed by its variants."""
        known = self.kind in TESTED_KINDS
        place = TESTED_KINDS.index(self.kind) if known else len(TESTED_KINDS)
        return place, self.variant if known else self.text

    @property
    def partition(self) -> CARPartition:
        """CAR ranges of the specialists."""
        return CARPartition(self.thresholds)

    @property
    def num_teachers(self) -> int | None:
        """Specialists that take part, one for each CAR range; ``None`` where none do."""
        return len(self.partition) if self.kind in ('op', 'mtkd') else None

    def of(self, kind: str) -> 'Strategy':
        """The strategy of another kind in the same variant."""
        return replace(self, kind=kind)

    def __str__(self) -> str:
        return self.text


def _parse_variant(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in text.split('+') if text else ():
        if part in TEACHINGS[1:]:
            found['routing'] = part
            continue
        if part in MATCHES[1:]:
            found['match'] = part
            continue
        if part.startswith(_BY):
            found['teachers'] = part.removeprefix(_BY)
            continue
        if part.startswith(_FOLDS) and part.removeprefix(_FOLDS).isdecimal():
            found['folds'] = int(part.removeprefix(_FOLDS))
            continue
        try:
            found['thresholds'] = tuple(float(number) for number in part.split('_'))
        except ValueError:
            raise UserError(
                f'unknown variant {text!r}: CAR thresholds (0.1, or 0.1_0.3), '
                f'{", ".join((*TEACHINGS[1:], *MATCHES[1:]))}, {_BY}MODEL, {_FOLDS}5, or several '
                f'(0.1+{ROUTINGS[1]})'
            ) from None
    return found


def strategy_in(name: str) -> Strategy | None:
    """The strategy in a name from outside, as reports meet them: ``mine:op@0.1``, which a labelled
    folder makes, or ``partition/small``. ``None`` where there is none."""
    with suppress(UserError):
        return Strategy.parse(name.rpartition(':')[2].partition('/')[0])
    return None


def strategy_title(name: str) -> str:
    """Title of a name from outside: ``mine: O-P @ 0.1``; what is no strategy keeps its name."""
    label, _, own = name.rpartition(':')
    strategy, (base, at, variant) = strategy_in(own), own.partition('@')
    if strategy is not None and '/' not in own:
        title = strategy.title
    else:
        title = base + (f' @ {variant}' if at else '')
    return f'{label}: {title}' if label else title


def strategy_rank(name: str) -> tuple[str, int, str]:
    """Sort key of names from outside: by label, then as :attr:`Strategy.rank`; what is no strategy
    comes behind."""
    label, _, own = name.rpartition(':')
    strategy = strategy_in(own)
    return (label, *(strategy.rank if strategy else (len(TESTED_KINDS), own)))


def specialist_name(range: str, fold: int | str | None = None) -> str:
    """``small``; ``small_2``, of those who have not seen fold 2."""
    return range if fold is None else f'{range}_{fold}'


def of_each_fold(checkpoints: Mapping[str, str], folds: int) -> dict[str, str]:
    """The files that paths with ``{fold}`` stand for: ``small@0`` and so on in the place of
    ``small``."""
    found: dict[str, str] = {}
    for name, path in checkpoints.items():
        if FOLD in path and folds:
            found |= {
                fold_teacher(name, fold): path.replace(FOLD, str(fold)) for fold in range(folds)
            }
        else:
            found[name] = path
    return found


def fold_teacher(range: str, fold: int) -> str:
    """``small@0``: the name of the teacher of a range for the images of a fold."""
    return f'{range}{_OF_FOLD}{fold}'


def range_and_fold(teacher: str) -> tuple[str, str]:
    """The two parts of a teacher's name; the fold is empty without folds."""
    range, _, fold = teacher.partition(_OF_FOLD)
    return range, fold


@dataclass(frozen=True)
class Layout:
    """Where the files of a model are.

    Attributes:
        model: Name of the model.
        root: Work dir of the recipe.
    """

    model: str
    root: Path = Path(WORK_DIRS)

    def place(
        self, strategy: Strategy, range: str | None = None, fold: int | str | None = None
    ) -> Path:
        """Folder of a strategy: ``<root>/<strategy>/<model>[/<range>[_<fold>]]``."""
        own = [specialist_name(range, fold)] if range else []
        return Path(self.root, strategy.text, self.model, *own)

    def weights(
        self, strategy: Strategy, range: str | None = None, fold: int | str | None = None
    ) -> Path:
        """The best weights that a training left."""
        return self.place(strategy, range, fold) / BEST

    def routing(self, strategy: Strategy) -> Path:
        """The file of the validated routing of a strategy's thresholds, its teachers' own."""
        return self.of_teachers(strategy).place(strategy.of(_ROUTING)) / ROUTING_FILE

    def checkpoints(self, strategy: Strategy) -> dict[str, str]:
        """The weights that a cascade or a student starts from, by the name that the model knows
        them by. With folds, ``{fold}`` in the specialists' paths stands for the number."""
        first = 'student' if strategy.kind == 'mtkd' else 'origin'
        found = {first: str(self.weights(Strategy('origin')))}
        of_teachers = self.of_teachers(strategy)
        if strategy.teachers and strategy.routing != 'car':
            found['origin'] = str(of_teachers.weights(Strategy('origin')))
        if strategy.routing != 'origin':
            specialists = strategy.of('partition')
            for name in strategy.partition.names:
                fold = FOLD if strategy.folds else None
                found[name] = str(of_teachers.weights(specialists, name, fold))
        return found

    def of_teachers(self, strategy: Strategy) -> 'Layout':
        """Where the teachers of a strategy have their files."""
        return replace(self, model=strategy.teachers or self.model)

    @property
    def report(self) -> Path:
        """Folder of the tables and of the report."""
        return Path(self.root, REPORT, self.model)

    def table(self, strategy: Strategy, kind: str = 'json') -> Path:
        """The per-image table of a strategy's test, ``json`` or ``csv``."""
        return self.report / f'{strategy.text}.{kind}'

    def variants(self) -> list[Strategy]:
        """The variants that have files here, the default first, each as its ``mtkd`` strategy."""
        found = set()
        for folder in Path(self.root).glob(f'*@*/{glob.escape(self.model)}'):
            with suppress(UserError):  # folders that are none of the recipe's
                found.add(Strategy.parse(folder.parent.name).of('mtkd'))
        default = Strategy('mtkd')
        return [default, *sorted(found - {default}, key=lambda strategy: strategy.variant)]


@dataclass(frozen=True)
class Place:
    """What the path of a file says.

    Attributes:
        layout: Model and root.
        strategy: The strategy that the file is of.
        range: CAR range of a specialist.
    """

    layout: Layout
    strategy: Strategy
    range: str | None = None

    @classmethod
    def of(cls, path: str | Path) -> 'Place | None':
        """The place of weights or of a routing file; ``None`` for a file of another layout."""
        *folders, name = Path(path).parts
        # How many folders a file lies in, of which kinds.
        known = {
            BEST: ((3, ('partition',)), (2, ('origin', 'continued', 'mtkd'))),
            ROUTING_FILE: ((2, (_ROUTING,)),),
        }
        for depth, kinds in known.get(name, ()):
            if len(folders) < depth:
                continue
            text, model, *ranges = folders[-depth:]
            with suppress(UserError):
                strategy = Strategy.parse(text, kinds)
                layout = Layout(model, Path(*folders[:-depth]))
                return cls(layout, strategy, ranges[0] if ranges else None)
        return None


def training_command(path: str | Path, config: str | Path | None = None) -> str | None:
    """The command that makes a file of the layout, with its work dir; ``None`` for other files.

    Args:
        path: The file.
        config: The config that asks for it. The user's own config of the file's model may be this
            one, one beside it, or one in ``../origin``. Where there is none, and no model of the
            package has this name, the command has a path to fill in.
    """
    place = Place.of(path)
    if place is None:
        return None
    strategy, root = place.strategy, place.layout.root
    model = _model_in_commands(place.layout.model, config)
    kind = strategy.kind
    elsewhere = root != Path(WORK_DIRS)
    # Others than these look for their teachers in work_dirs, or have no config of their own.
    alone = kind in ('origin', 'partition') or (kind in ('continued', 'mtkd') and not elsewhere)
    own_config = f'configs/{kind}/{model}.py'
    if alone and not strategy.variant and found_config(own_config).is_file():
        words = ['mtkd-cd', 'train', own_config]
        words += ['--range', place.range] if place.range else []
        words += ['--work-dir', str(Path(path).parent)] if elsewhere else []
        return shlex.join(words)
    wanted = 'op' if kind == _ROUTING else kind
    routing = ROUTINGS[1] if kind == _ROUTING else strategy.routing
    words = ['mtkd-cd', 'recipe', model, '--strategies', wanted]
    if strategy.partition.tag:
        words += ['--thresholds', *map(repr, strategy.thresholds)]
    words += ['--routing', routing] if routing != 'car' else []
    if strategy.teachers:
        words += ['--teachers', _model_in_commands(strategy.teachers, config)]
    words += ['--match', strategy.match] if strategy.match != 'mse' else []
    words += ['--folds', str(strategy.folds)] if strategy.folds else []
    words += ['--work-dir', str(root)] if elsewhere else []
    return shlex.join(words)


def _model_in_commands(model: str, config: str | Path | None) -> str:
    """A model of the package by its name, one of the user's by the path of its config."""
    name = f'{model}.py'
    if config is not None:
        folder = Path(config).parent
        # Beside a config of another strategy there are those of other strategies.
        beside = [folder / name] if folder.name not in (*KINDS[1:], _ROUTING) else []
        for own in (folder.parent / 'origin' / name, *beside):
            if own.is_file() and CONFIGS.resolve() not in own.resolve().parents:
                return str(own)
    shipped = found_config(Path('configs', 'origin', name))
    return model if shipped.is_file() else f'PATH/TO/{name}'
