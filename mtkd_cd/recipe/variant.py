"""Variants of the recipe: other CAR ranges, another choice of specialists. They share an origin,
and each has places of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtkd_cd.core.car import DEFAULT_THRESHOLDS, CARPartition
from mtkd_cd.core.errors import UserError

ROUTINGS = ('car', 'validated')


@dataclass(frozen=True)
class Variant:
    """What a variant changes; its text names its places: ``partition@0.1``, ``op@0.1+validated``.

    Attributes:
        thresholds: CAR thresholds between the specialists.
        routing: How an image finds its specialist: ``car``, by its CAR range; ``validated``, see
            ``docs/routing.md``.
    """

    thresholds: tuple[float, ...] = DEFAULT_THRESHOLDS
    routing: str = 'car'

    def __post_init__(self) -> None:
        object.__setattr__(self, 'thresholds', CARPartition(self.thresholds).thresholds)
        if self.routing not in ROUTINGS:
            raise UserError(f'routing={self.routing!r}: choose one of {", ".join(ROUTINGS)}')

    def __str__(self) -> str:
        """Empty for the default, else ``0.1``, ``0.1_0.3``, ``validated`` or ``0.1+validated``."""
        return '+'.join(
            part
            for part in (self.partition.tag, self.routing if self.routing != 'car' else '')
            if part
        )

    @classmethod
    def parse(cls, text: str) -> 'Variant':
        """The variant of a text.

        Raises:
            UserError: No variant is called so.
        """
        found: dict[str, Any] = {}
        for part in text.split('+') if text else ():
            if part in ROUTINGS[1:]:
                found['routing'] = part
                continue
            try:
                found['thresholds'] = tuple(float(number) for number in part.split('_'))
            except ValueError:
                raise UserError(
                    f'unknown variant {text!r}: CAR thresholds (0.1, or 0.1_0.3), '
                    f'{", ".join(ROUTINGS[1:])}, or both (0.1+{ROUTINGS[1]})'
                ) from None
        return cls(**found)

    @property
    def partition(self) -> CARPartition:
        """The specialists' CAR ranges."""
        return CARPartition(self.thresholds)

    def of(self, stage: str) -> 'Variant':
        """What of the variant concerns a stage: nothing the origin's, the thresholds the
        specialists' training and their validation."""
        if stage in ('origin', 'continued'):
            return Variant()
        return Variant(self.thresholds) if stage in ('partition', 'routing') else self


def strategy_name(stage: str, variant: Variant) -> str:
    """``op``, ``op@0.1``: a stage and what of the variant concerns it; the name of its folder and
    of its per-image table."""
    text = str(variant.of(stage))
    return f'{stage}@{text}' if text else stage


def parse_strategy(name: str, stages: Sequence[str]) -> tuple[str, Variant]:
    """The stage and the variant in a strategy's name.

    Raises:
        UserError: No such stage or variant, or a variant of a stage that has none.
    """
    stage, _, text = name.partition('@')
    if stage not in stages:
        raise UserError(
            f'unknown strategy {name!r}: there are {", ".join(stages)}, and variants such as op@0.1'
        )
    variant = Variant.parse(text)
    if strategy_name(stage, variant) != name:
        raise UserError(f'strategy {name!r} is called {strategy_name(stage, variant)!r}')
    return stage, variant
