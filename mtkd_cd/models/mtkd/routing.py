"""Which detector serves which CAR range: the specialist trained on it, as in the paper, or whoever
does best on a validation split."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mtkd_cd.core.car import ArrayOrTensor, CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.strategy import ROUTING_FILE, ROUTINGS, training_command

ORIGIN = 'origin'
RoutingKind = Literal['car', 'validated']


@dataclass(frozen=True)
class Routing:
    """Names a detector for every range of the true and of the predicted CAR: ``'origin'``, or a
    specialist by its range.

    Attributes:
        partition: Ranges that the specialists were trained on.
        teachers: Who teaches the images of each range of ``partition``, by true CAR.
        cuts: Thresholds on the CAR that the origin predicts, increasing; none where one detector
            serves everything.
        detectors: Who predicts in each of the ranges that ``cuts`` make, from the smallest
            predicted CAR up; one more than ``cuts``.
        evidence: What the choice rests on, see
            :func:`~mtkd_cd.models.mtkd.calibration.calibrate_routing`.

    Raises:
        UserError: A detector that does not exist, too few or too many of them, or cuts that are no
            CAR thresholds.
    """

    partition: CARPartition
    teachers: tuple[str, ...]
    cuts: tuple[float, ...]
    detectors: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.cuts:
            CARPartition(self.cuts)
        known = (ORIGIN, *self.partition.names)
        for what, names, number in (
            ('teachers', self.teachers, len(self.partition)),
            ('detectors', self.detectors, len(self.cuts) + 1),
        ):
            if len(names) != number:
                raise UserError(f'{what}={list(names)}: {number} are needed, one for each range')
            for name in names:
                if name not in known:
                    raise UserError(
                        f'{what} names the detector {name!r}: there are {", ".join(known)}'
                    )

    def serving(self, predicted_cars: ArrayOrTensor) -> ArrayOrTensor:
        """(N,) index into :attr:`detectors` for each of the (N,) CARs that the origin predicts."""
        return ranges_between(self.cuts, predicted_cars)

    def save(self, path: str | os.PathLike) -> None:
        """Write ``routing.json``, whole or not at all; a file that holds the same already stays as
        it is."""
        content = {
            'thresholds': self.partition.thresholds,
            'names': self.partition.names,
            'teachers': dict(zip(self.partition.names, self.teachers)),
            'cascade': {'cuts': self.cuts, 'detectors': self.detectors},
            'evidence': self.evidence,
        }
        text = json.dumps(content, indent=1) + '\n'
        if Path(path).is_file() and Path(path).read_bytes() == text.encode():
            return
        with atomic_write(path) as file:
            file.write(text)


def ranges_between(cuts: Sequence[float], cars: ArrayOrTensor) -> ArrayOrTensor:
    """Find the range that each CAR lies in: (N,) indices, an array or a tensor as ``cars`` is.
    Without any cut, which a :class:`CARPartition` does not take, every index is 0."""
    if len(cuts):
        return CARPartition(cuts).range_of(cars)
    return (
        torch.zeros_like(cars, dtype=torch.long)
        if isinstance(cars, Tensor)
        else np.zeros_like(cars, np.int64)
    )


def images_by_detector(names: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Sort a batch by who serves which image.

    Args:
        names: Detector of each image.

    Yields:
        (detector, positions in the batch) for each detector that has an image, in the order in
        which they occur first.
    """
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        positions.setdefault(name, []).append(position)
    yield from positions.items()


def samples_at(batch: Tensor, positions: Sequence[int]) -> Tensor:
    """``batch[positions]``; a list for an index would be copied to the device, and the host would
    wait for it."""
    if list(positions) == list(range(len(batch))):
        return batch
    return torch.stack([batch[position] for position in positions])


def car_routing(partition: CARPartition) -> Routing:
    """The paper's: each range has its own specialist (arXiv:2502.13407, equations 2 and 5)."""
    return Routing(partition, partition.names, partition.thresholds, partition.names)


def origin_routing(partition: CARPartition) -> Routing:
    """The origin for everything."""
    return Routing(partition, (ORIGIN,) * len(partition), (), (ORIGIN,))


def choose_routing(
    kind: RoutingKind, file: str | os.PathLike | None, partition: CARPartition
) -> Routing:
    """The routing that a cascade is configured with.

    Args:
        kind: ``'car'`` or ``'validated'``.
        file: Where the validated routing is; not read for ``'car'``.
        partition: The model's ranges.

    Raises:
        UserError: As :func:`check_routing` and :func:`load_routing`.
    """
    check_routing(kind, file)
    return car_routing(partition) if kind == 'car' else load_routing(str(file), partition)


def check_routing(kind: str, file: str | os.PathLike | None) -> None:
    """Refuse an unknown kind of routing, and a validated one without a file.

    Raises:
        UserError: See above.
    """
    if kind not in ROUTINGS:
        raise UserError(f'routing={kind!r}: choose one of {", ".join(ROUTINGS)}')
    if kind == 'validated' and file is None:
        raise UserError(
            f"routing='validated' needs routing_file, the {ROUTING_FILE} that holds the choice. "
            f'{_advice(None)}'
        )


def load_routing(path: str | os.PathLike, partition: CARPartition | None = None) -> Routing:
    """Read what :meth:`Routing.save` wrote.

    Args:
        path: A ``routing.json``.
        partition: The ranges that it has to be about, if they are known.

    Raises:
        UserError: The file is missing, unreadable, incomplete, about other ranges, or names a
            detector that does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'routing file {path} does not exist. {_advice(path)}')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        found = CARPartition(content['thresholds'], content['names'])
        routing = Routing(
            found,
            _teachers(content['teachers'], found.names),
            tuple(content['cascade']['cuts']),
            tuple(content['cascade']['detectors']),
            content.get('evidence', {}),
        )
    except UserError as error:
        raise UserError(f'routing file {path}: {error}. {_advice(path)}') from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f'routing file {path} is damaged ({type(error).__name__}: {error}). {_advice(path)}'
        ) from None
    if partition is not None and routing.partition != partition:
        raise UserError(
            f'routing file {path} is about other ranges: {routing.partition} there, {partition} in '
            f'the config. {_advice(path)}'
        )
    return routing


def _teachers(by_range: Mapping[str, str], names: Sequence[str]) -> tuple[str, ...]:
    if set(by_range) != set(names):
        raise UserError(
            f'teachers are given for {", ".join(by_range) or "no range"}: one is needed for each '
            f'of {", ".join(names)}'
        )
    return tuple(by_range[name] for name in names)


def _advice(path: Path | None) -> str:
    command = training_command(path) if path is not None else None
    default = 'mtkd-cd recipe MODEL --strategies op --routing validated'
    return f'Make it with: {command or default}'
