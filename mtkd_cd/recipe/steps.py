"""The steps of the paper's recipe (arXiv:2502.13407, sections 4.1 and 4.2): data, which other
modules work through."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmengine.dist import is_main_process

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.strategy import Layout, Strategy, specialist_name

ROUTING = 'routing'
DEFAULT = Strategy('mtkd')  # the paper's variant


@dataclass(frozen=True)
class Step:
    """One training run or one test.

    Attributes:
        strategy: What is trained or tested.
        action: What is done; ``validate`` tests origin and specialists on the validation split.
        range: The CAR range of a specialist.
        fold: The fold that a specialist does not see, where there are folds.
    """

    strategy: Strategy
    action: Literal['train', 'validate', 'test']
    range: str | None = None
    fold: int | None = None

    @property
    def specialist(self) -> str | None:
        """``small``, or ``small_0`` with folds; ``None`` for what is no specialist's."""
        return specialist_name(self.range, self.fold) if self.range else None

    def place(self, layout: Layout) -> Path:
        """Where the step keeps its files."""
        return layout.place(self.strategy, self.range, self.fold)

    def __str__(self) -> str:
        """``train partition@0.1/small``, ``train partition@folds5/small_0``."""
        return f'{self.action} {self.strategy}{f"/{self.specialist}" if self.range else ""}'


def fold_of_step(strategy: Strategy, fold: int | None) -> int | None:
    """The fold of one training, the first by default; ``None`` where the training has none.

    Raises:
        UserError: There is no such fold.
    """
    folds = strategy.folds if strategy.kind == 'partition' else 0
    if fold is not None and fold >= folds:
        there_are = f'there are 0 to {folds - 1}' if folds else 'it trains on no folds'
        raise UserError(f'fold {fold} of {strategy}: {there_are}')
    return (fold or 0) if folds else None


def recipe(variant: Strategy = DEFAULT) -> list[Step]:
    """All steps in their order.

    The origin learns from everything, a specialist from each CAR range. The cascade of them needs
    no training. The control is the origin trained on alone. The student starts from the origin and
    is taught by the specialists. A validated routing is found before cascade and student use it.
    Teachers of another model have been trained by that model's own recipe. With folds, a range has
    a specialist for each, and there is no cascade: its specialists have seen all images.

    Args:
        variant: A strategy with the wanted thresholds and routing.
    """
    specialists = variant.of('partition')
    if variant.teachers:  # all of their steps are done
        return [
            Step(strategy, action)
            for strategy in (Strategy('origin'), Strategy('continued'), variant.of('mtkd'))
            for action in ('train', 'test')
        ]
    routing = [Step(variant.of(ROUTING), 'validate')] if variant.routing == 'validated' else []
    return [
        Step(Strategy('origin'), 'train'),
        Step(Strategy('origin'), 'test'),
        *(
            Step(specialists, 'train', name, fold)
            for fold in (range(specialists.folds) if specialists.folds else [None])
            for name in specialists.partition.names
        ),
        *routing,
        *([] if specialists.folds else [Step(variant.of('op'), 'test')]),
        Step(Strategy('continued'), 'train'),
        Step(Strategy('continued'), 'test'),
        Step(variant.of('mtkd'), 'train'),
        Step(variant.of('mtkd'), 'test'),
    ]


def steps_of(layout: Layout) -> list[Step]:
    """The steps of every variant that has files, each once."""
    steps = [step for variant in layout.variants() for step in recipe(variant)]
    return list(dict.fromkeys(steps))


def announce(text: str) -> None:
    """Say how the steps get on; one process of a distributed run does."""
    if is_main_process():
        print(text, flush=True)
