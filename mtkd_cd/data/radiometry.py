"""How stored values become the 0..255 that models are trained on: one rule for a whole data set or
a whole scene, never one per image, per window or per date."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mtkd_cd.core.errors import UserError

# Of a scene's or an image's longer side, a fixed grid of that many pixels is looked at.
SAMPLE_SIDE = 512
_LEVELS = 255.0


@dataclass(frozen=True)
class Identity:
    """Values are taken as they are: for 8-bit images."""

    name: ClassVar[str] = 'identity'
    fitted: ClassVar[bool] = True

    def fit(self, *_: Any, band_axis: int = 0) -> 'Identity':
        """Itself: nothing depends on the data."""
        return self

    def apply(self, array: np.ndarray, band_axis: int = 0) -> np.ndarray:
        """The array itself.

        Args:
            array: uint8 of any shape.
            band_axis: Not used.

        Raises:
            UserError: Another dtype; shows its percentiles and the rules that would do.
        """
        if array.dtype != np.uint8:
            raise no_rule_error('the image', {'it': array})
        return array

    def describe(self) -> dict:
        """The rule as JSON values; :func:`from_spec` reads it."""
        return {'type': self.name}

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Linear:
    """``scale * value + offset`` brought from ``low``..``high`` to 0..255, and clipped there.

    Args:
        scale: Factor of the stored values, for instance 0.0001 for Sentinel-2 reflectances.
        offset: Added after it, for instance -0.1 for Sentinel-2 products since 2022.
        low: Becomes 0.
        high: Becomes 255.

    Raises:
        UserError: A number that is not finite, scale 0, or ``low`` not below ``high``.
    """

    scale: float = 1.0
    offset: float = 0.0
    low: float = 0.0
    high: float = 255.0
    name: ClassVar[str] = 'linear'
    fitted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        numbers = (self.scale, self.offset, self.low, self.high)
        _check_numbers('linear', numbers)
        if not self.scale or not self.low < self.high:
            raise UserError(f'radiometry {self}: scale must not be 0, and low must be below high')

    def fit(self, *_: Any, band_axis: int = 0) -> 'Linear':
        """Itself: nothing depends on the data."""
        return self

    def apply(self, array: np.ndarray, band_axis: int = 0) -> np.ndarray:
        """Map values to 0..255.

        Args:
            array: Numbers of any dtype and shape.
            band_axis: Not used: all bands get the same numbers.

        Returns:
            float32 in [0, 255], NaN where the input is.
        """
        gain = _LEVELS * self.scale / (self.high - self.low)
        shift = _LEVELS * (self.offset - self.low) / (self.high - self.low)
        return np.clip(array * np.float64(gain) + shift, 0, _LEVELS).astype(np.float32)

    def describe(self) -> dict:
        """The rule as JSON values; :func:`from_spec` reads it."""
        return {
            'type': self.name,
            'scale': self.scale,
            'offset': self.offset,
            'low': self.low,
            'high': self.high,
        }

    def __str__(self) -> str:
        return (
            f'linear(scale={self.scale:g}, offset={self.offset:g}, low={self.low:g}, '
            f'high={self.high:g})'
        )


@dataclass(frozen=True)
class Percentile:
    """Each band's values between two percentiles brought to 0..255, and clipped there.

    One range serves both dates, so that equal values stay equal: from the smaller of the dates' low
    percentiles to the larger of their high ones. So neither date is clipped further than its own
    percentiles would do it. It is taken once (:meth:`fit`), of a whole scene or a whole training
    split.

    Args:
        low: Percentile that becomes 0.
        high: Percentile that becomes 255.
        bounds: ((value of ``low``, value of ``high``), ...), one per band; ``None`` before
            :meth:`fit`.

    Raises:
        UserError: Percentiles outside [0, 100] or in the wrong order; bounds likewise.
    """

    low: float = 2.0
    high: float = 98.0
    bounds: tuple[tuple[float, float], ...] | None = None
    name: ClassVar[str] = 'percentile'

    def __post_init__(self) -> None:
        _check_numbers('percentile', (self.low, self.high))
        if not 0 <= self.low < self.high <= 100:
            raise UserError(
                f'radiometry percentile({self.low:g}, {self.high:g}): two increasing numbers '
                'between 0 and 100 are needed, for instance percentile(2, 98)'
            )
        if self.bounds is None:
            return
        try:
            bounds = tuple((float(low), float(high)) for low, high in self.bounds)
        except (TypeError, ValueError):
            raise UserError(
                f'radiometry percentile: bounds={self.bounds!r}: a pair (low, high) per band is '
                'needed'
            ) from None
        for pair in bounds:
            _check_numbers(f'percentile with bounds {pair}', pair)
            if not pair[0] < pair[1]:
                raise UserError(f'radiometry percentile: bounds {pair}: low must be below high')
        object.__setattr__(self, 'bounds', bounds)

    @property
    def fitted(self) -> bool:
        """Whether the values of the percentiles are known."""
        return self.bounds is not None

    def fit(self, *dates: np.ndarray | Sequence[np.ndarray], band_axis: int = 0) -> 'Percentile':
        """The rule with the values of its percentiles, band by band.

        Args:
            *dates: Of each date an array, or a list of the arrays of its images, with equal numbers
                of bands, each thinned by :func:`thinned`; NaN and infinite values are left out,
                invalid pixels should be NaN or masked (``numpy.ma``).
            band_axis: Where the bands are: 0 for (C, H, W), -1 for (H, W, C). Two-dimensional
                arrays are one band.

        Raises:
            UserError: A band without a finite value.
        """
        if self.fitted:
            return self
        images = [[date] if isinstance(date, np.ndarray) else date for date in dates]
        ordered = [[_bands_first(image, band_axis) for image in date] for date in images]
        bounds = []
        for band in range(ordered[0][0].shape[0]):
            values = [np.concatenate([_finite(image[band]) for image in date]) for date in ordered]
            known = [np.percentile(date, (self.low, self.high)) for date in values if date.size]
            if not known:
                raise UserError(
                    f'radiometry {self}: band {band + 1} has no valid pixel to take percentiles of'
                )
            low = float(min(pair[0] for pair in known))
            high = float(max(pair[1] for pair in known))
            # A band of one value has no contrast to stretch: it becomes 0.
            bounds.append((low, high if high > low else low + max(1.0, abs(low))))
        return Percentile(self.low, self.high, tuple(bounds))

    def apply(self, array: np.ndarray, band_axis: int = 0) -> np.ndarray:
        """Map values to 0..255.

        Args:
            array: Numbers of any dtype; (C, H, W), (H, W, C) or, for one band, (H, W).
            band_axis: Where the bands are: 0 for (C, H, W), -1 for (H, W, C).

        Returns:
            float32 in [0, 255], NaN where the input is.

        Raises:
            UserError: The rule is not fitted, or to another number of bands.
        """
        if self.bounds is None:
            raise UserError(f'radiometry {self}: its percentiles have not been taken yet: call fit')
        bands = 1 if array.ndim == 2 else array.shape[band_axis]
        if bands != len(self.bounds):
            raise UserError(
                f'radiometry {self} has the values of {len(self.bounds)} bands, but the image has '
                f'{bands}'
            )
        shape = [1] * array.ndim
        if array.ndim > 2:
            shape[band_axis] = -1
        low, high = (np.array(side, np.float64).reshape(shape) for side in zip(*self.bounds))
        scaled = (array - low) * (_LEVELS / (high - low))
        return np.clip(scaled, 0, _LEVELS).astype(np.float32)

    def describe(self) -> dict:
        """The rule as JSON values, with the values of its percentiles; :func:`from_spec` reads
        it."""
        bounds = None if self.bounds is None else [list(pair) for pair in self.bounds]
        return {'type': self.name, 'low': self.low, 'high': self.high, 'bounds': bounds}

    def __str__(self) -> str:
        return f'percentile({self.low:g}, {self.high:g})'


Rule = Identity | Linear | Percentile
_RULES: dict[str, type] = {rule.name: rule for rule in (Identity, Linear, Percentile)}
_CALL = re.compile(r'\s*(\w+)\s*(?:\((.*)\))?\s*', re.DOTALL)


def from_spec(spec: 'str | Mapping | Rule') -> Rule:
    """The rule that a config, a card or a command line names.

    Args:
        spec: ``'identity'``, ``'linear(0.0001, 0, 0, 0.3)'``, ``'linear(low=0, high=3000)'``,
            ``'percentile(2, 98)'``, or a dictionary with ``type`` and the arguments, as
            ``describe`` gives it.

    Raises:
        UserError: An unknown rule, or arguments that it doesn't take.
    """
    if isinstance(spec, (Identity, Linear, Percentile)):
        return spec
    positional: list = []
    arguments: dict = {}
    name = None
    if isinstance(spec, Mapping):
        arguments = dict(spec)
        name = arguments.pop('type', None)
    elif isinstance(spec, str) and (match := _CALL.fullmatch(spec)):
        name = match[1]
        positional, arguments = _arguments(spec, match[2] or '')
    spec_name = str(name)
    rule = _RULES.get(spec_name)
    if rule is None:
        raise UserError(
            f'radiometry={spec!r}: a rule is identity, linear(scale, offset, low, high) or '
            'percentile(low, high), for instance linear(low=0, high=3000) or percentile(2, 98)'
        )
    try:
        return rule(*positional, **arguments)
    except TypeError:
        raise UserError(
            f'radiometry={spec!r}: {spec_name} takes '
            + {
                'identity': 'no arguments',
                'linear': 'the numbers scale, offset, low and high',
                'percentile': 'the numbers low and high, and bounds',
            }[spec_name]
        ) from None


def _arguments(spec: str, text: str) -> tuple[list[float], dict[str, float]]:
    positional, named = [], {}
    for part in filter(None, (part.strip() for part in text.split(','))):
        key, equals, value = part.rpartition('=')
        try:
            number = float(value)
        except ValueError:
            raise UserError(f'radiometry={spec!r}: {value.strip()!r} is not a number') from None
        if equals:
            named[key.strip()] = number
        else:
            positional.append(number)
    return positional, named


def thinned(array: np.ndarray, side: int = SAMPLE_SIDE, band_axis: int = 0) -> np.ndarray:
    """Every n-th row and column of an image: the sample that percentiles are taken of.

    It depends on the image's size alone. Readers that decimate themselves use
    :func:`thinning_step`.

    Args:
        array: (C, H, W), (H, W, C) or (H, W).
        side: Most pixels of the longer side.
        band_axis: Where the bands are.
    """
    if array.ndim == 2:
        step = thinning_step(array.shape[0], array.shape[1], side)
        return array[::step, ::step]
    height, width = array.shape[1:] if band_axis == 0 else array.shape[:2]
    step = thinning_step(height, width, side)
    return array[:, ::step, ::step] if band_axis == 0 else array[::step, ::step]


def thinning_step(height: int, width: int, side: int = SAMPLE_SIDE) -> int:
    """n of every n-th row and column such that at most ``side`` pixels of a side are left."""
    return max(1, math.ceil(max(height, width) / side))


def needs_rule(dtype: np.dtype) -> bool:
    """Whether values of this type mean nothing without a rule: all but 8-bit ones."""
    return np.dtype(dtype) != np.uint8


def no_rule_error(
    what: str,
    samples: Mapping[str, np.ndarray],
    option: str = 'radiometry={rule!r} in the data set',
) -> UserError:
    """The refusal of values for which no rule is given, with what helps to choose one.

    Args:
        what: The file or pair.
        samples: {name of a date or file: its values}.
        option: How a rule is given, with ``{rule}`` for it: a line of a config or an option.
    """
    lines, highest = [], 1.0
    for name, sample in samples.items():
        values = _finite(np.asarray(sample) if not np.ma.isMaskedArray(sample) else sample)
        if not values.size:
            lines.append(f'{name}: no valid value')
            continue
        found = np.percentile(values, (0, 2, 50, 98, 100)).tolist()
        highest = max(highest, found[3]) if np.issubdtype(sample.dtype, np.integer) else found[3]
        shown = ', '.join(f'{value:.5g}' for value in found)
        lines.append(f'{name} holds {sample.dtype}, percentiles 0, 2, 50, 98, 100: {shown}')
    linear = option.format(rule=f'linear(low=0, high={float(f"{highest:.2g}"):g})')
    percentile = option.format(rule='percentile(2, 98)')
    return UserError(
        f'{what} needs a rule that brings its values to 0..255 ({"; ".join(lines)}): set {linear} '
        f'(the same for all images), or {percentile} (taken once over both dates)'
    )


def _check_numbers(rule: str, numbers: Sequence) -> None:
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise UserError(f'radiometry {rule}: {number!r} is not a number')
        if not math.isfinite(number):
            raise UserError(f'radiometry {rule}: {json.dumps(number)} is not finite')


def _bands_first(array: np.ndarray, band_axis: int) -> np.ndarray:
    return array[None] if array.ndim == 2 else np.moveaxis(array, band_axis, 0)


def _finite(values: np.ndarray) -> np.ndarray:
    """(N,) the values that are neither masked nor NaN nor infinite."""
    flat = values.compressed() if np.ma.isMaskedArray(values) else np.ravel(values)
    return flat[np.isfinite(flat)]
