"""What a report says, as numbers: scores over seeds, differences with intervals and tests,
breakdowns by CAR."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mtkd_cd.core.car import CARPartition
from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation import Interval, bootstrap_intervals, mean_and_deviation, paired_p_value
from mtkd_cd.evaluation.scores import quantile_rows, true_cars
from mtkd_cd.evaluation.statistics import CONFIDENCE, NUM_RESAMPLES
from mtkd_cd.reporting.identity import RunIdentity
from mtkd_cd.reporting.scored_run import Run

# Scores whose differences are tested, the two that the paper's claims are about; all get intervals.
TESTED = ('mIoU', 'mFscore')
NUM_BINS = 5


@dataclass(frozen=True)
class Settings:
    """Settings of the intervals and tests.

    Attributes:
        num_resamples: Draws of the bootstrap and of the permutation test.
        confidence: Share of the bootstrap's draws that an interval holds.
        seed: Seed of the draws.
    """

    num_resamples: int = NUM_RESAMPLES
    confidence: float = CONFIDENCE
    seed: int = 0


@dataclass(eq=False)
class Entry:
    """The runs of one model and strategy, which differ in their seed: a line of a table.

    Attributes:
        model: Name of the model.
        strategy: Name of the strategy.
        runs: One per seed, in ascending order of the seed.
    """

    model: str
    strategy: str
    runs: list[Run]

    def __str__(self) -> str:
        return f'{self.model}/{self.strategy}'

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """(N,) of each score, averaged over the seeds image by image, in percent."""
        return mean_over_runs(self.runs)

    def mean(self, score: str) -> float:
        """Mean of a score over images and seeds."""
        return float(self.scores[score].mean())

    def deviation(self, score: str, rows: np.ndarray | slice = slice(None)) -> float | None:
        """Sample standard deviation over the seeds of a score's mean over images; ``None`` for one
        seed.

        Args:
            score: Its name.
            rows: The images that count.
        """
        return mean_and_deviation([float(run.scores[score][rows].mean()) for run in self.runs])[1]


@dataclass(frozen=True, eq=False)
class Difference:
    """The difference of an entry to its reference, paired over the images.

    Attributes:
        entry: What is compared.
        reference: With what.
        scores: (N,) mIoU of the entry, averaged over the seeds that both have.
        by_image: (N,) differences of mIoU, likewise.
        intervals: Of each score's mean difference, in percentage points.
        deviations: Of each score's mean difference over the seeds that both have; ``None`` for one.
        p_values: Of each score in :data:`TESTED`.
        adjusted: The p-values of mIoU after Holm's correction for all differences to this
            reference.
        num_seeds: Seeds that both have, 0 where the averages over different seeds are compared.
    """

    entry: Entry
    reference: Entry
    scores: np.ndarray
    by_image: np.ndarray
    intervals: Mapping[str, Interval]
    deviations: Mapping[str, float | None]
    p_values: Mapping[str, float]
    adjusted: float
    num_seeds: int

    @property
    def num_better(self) -> int:
        """Images with a higher mIoU than in the reference."""
        return int((self.by_image > 0).sum())

    @property
    def num_worse(self) -> int:
        """Images with a lower mIoU than in the reference."""
        return int((self.by_image < 0).sum())


@dataclass(frozen=True)
class Reference:
    """The differences of all entries to one reference.

    Attributes:
        name: ``origin``: each entry is compared with the origin of its own model.
            ``fc_ef/origin``: all entries are compared with this one.
        differences: The difference of each entry. The reference itself has none, nor has an entry
            without a reference.
        strays: Entries whose model has no run of the reference's strategy. They are compared with
            the first entry instead.
    """

    name: str
    differences: Mapping[Entry, Difference]
    strays: Sequence[Entry] = ()


@dataclass(frozen=True)
class Bin:
    """Images of similar CAR.

    Attributes:
        name: ``q1``, ``q2``, ... or the name of the range.
        low: Smallest CAR: of the images of a quantile, or the lower bound of a range.
        high: Largest CAR, included.
        rows: Its images.
        intervals: Of the mean mIoU of each entry; empty without images.
        differences: Of the mean difference in mIoU to the first reference, likewise.
    """

    name: str
    low: float
    high: float
    rows: np.ndarray
    intervals: Mapping[Entry, Interval]
    differences: Mapping[Entry, Interval]


@dataclass(frozen=True)
class Comparison:
    """All numbers of a report.

    Attributes:
        files: Names of the N images.
        cars: (N,) CARs of their labels.
        partition: CAR ranges of the breakdown.
        entries: In the order that the runs were given in, those of one model together.
        intervals: Of the mean of each score over the images, by entry, then score.
        references: The first run's strategy, then those asked for.
        quantiles: Bins of equally many images.
        ranges: Bins of the partition.
        settings: Of the statistics.
    """

    files: list[str]
    cars: np.ndarray
    partition: CARPartition
    entries: list[Entry]
    intervals: Mapping[Entry, Mapping[str, Interval]]
    references: list[Reference]
    quantiles: list[Bin]
    ranges: list[Bin]
    settings: Settings

    @property
    def models(self) -> list[str]:
        """Names of the models, in order."""
        return list(dict.fromkeys(entry.model for entry in self.entries))

    @property
    def strategies(self) -> list[str]:
        """Names of the strategies, in order of their first appearance."""
        return list(dict.fromkeys(entry.strategy for entry in self.entries))

    @property
    def seeds(self) -> list[int]:
        """All seeds that the paths named."""
        seeds = {run.identity.seed for entry in self.entries for run in entry.runs}
        return sorted(seed for seed in seeds if seed is not None)

    def of_model(self, model: str) -> list[Entry]:
        """The entries of one model."""
        return [entry for entry in self.entries if entry.model == model]

    def find(self, model: str, strategy: str) -> Entry | None:
        """One entry; ``None`` where there is no such run."""
        return next((entry for entry in self.of_model(model) if entry.strategy == strategy), None)


def compare(
    runs: Sequence[Run],
    partition: CARPartition | None = None,
    references: Sequence[str] = (),
    settings: Settings = Settings(),
    num_bins: int = NUM_BINS,
) -> Comparison:
    """Compare runs over the same images, as :func:`~mtkd_cd.reporting.collect.aligned` gives them.

    First every score is averaged over the seeds of an entry, image by image. Then images are
    resampled for the intervals, and signs of differences flipped for the tests. So intervals and
    tests tell what other images would give; the deviation over seeds tells what other seeds would.

    Args:
        runs: At least one.
        partition: CAR ranges of the breakdown; those of the first run by default.
        references: Strategies, or ``MODEL/STRATEGY``, to compare with besides the first run's
            strategy.
        settings: Of the statistics.
        num_bins: Bins of equally many images in the breakdown by CAR.

    Raises:
        UserError: A reference that no run is; settings out of bounds.
    """
    entries = _entries(runs)
    table = runs[0].table
    cars = true_cars(table.counts)
    partition = partition or table.partition
    chosen = {
        entries[0].strategy: _with_fallback(entries),
        **{name: _chooser(name, entries) for name in references},
    }
    pairs: dict[str, list[tuple[Entry, Entry]]] = {name: [] for name in chosen}
    for name, choose in chosen.items():
        for entry in entries:
            other = choose(entry)
            if other is not None and other is not entry:
                pairs[name].append((entry, other))
    intervals, found = _statistics(entries, pairs, settings)
    references_found = [Reference(name, found[name], _strays(name, found[name])) for name in chosen]
    index = partition.range_of(cars)

    def bin_of(name: str, low: float, high: float, rows: np.ndarray) -> Bin:
        return Bin(
            name,
            float(low),
            float(high),
            rows,
            *_bin_intervals(entries, references_found[0], rows, settings),
        )

    return Comparison(
        files=table.files,
        cars=cars,
        partition=partition,
        entries=entries,
        intervals=intervals,
        references=references_found,
        quantiles=[
            bin_of(f'q{i}', cars[rows].min(), cars[rows].max(), rows)
            for i, rows in enumerate(quantile_rows(cars, num_bins), 1)
        ],
        ranges=[
            bin_of(name, low, high, np.flatnonzero(index == i))
            for i, name in enumerate(partition.names)
            for low, high in [partition.bounds(name)]
        ],
        settings=settings,
    )


def _entries(runs: Sequence[Run]) -> list[Entry]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.identity.model, run.identity.strategy), []).append(run)
    models = list(dict.fromkeys(model for model, _ in groups))
    ordered = sorted(
        groups, key=lambda key: models.index(key[0])
    )  # stable: strategies stay in the order given
    return [
        Entry(*key, sorted(groups[key], key=lambda run: _seed_order(run.identity)))
        for key in ordered
    ]


def _seed_order(identity: RunIdentity) -> int:
    return -1 if identity.seed is None else identity.seed


def mean_over_runs(runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """(N,) of each score, averaged over runs image by image."""
    return {score: np.mean([run.scores[score] for run in runs], 0) for score in runs[0].scores}


_Chooser = Callable[[Entry], Entry | None]


def _with_fallback(entries: Sequence[Entry]) -> _Chooser:
    own = _chooser(entries[0].strategy, entries)
    return lambda entry: own(entry) or entries[0]


def _chooser(name: str, entries: Sequence[Entry]) -> _Chooser:
    named = next((entry for entry in entries if str(entry) == name), None)
    if named is not None:
        return lambda entry: named
    by_model = {entry.model: entry for entry in entries if entry.strategy == name}
    if not by_model:
        known = ', '.join(dict.fromkeys([entry.strategy for entry in entries]))
        raise UserError(
            f'no run to compare with is {name!r}: the strategies are {known}; one run is named '
            'MODEL/STRATEGY'
        )
    return lambda entry: by_model.get(entry.model)


def _strays(name: str, differences: Mapping[Entry, Difference]) -> list[Entry]:
    """Entries that were compared with a run of another model, for want of one of their own."""
    return [
        difference.entry
        for difference in differences.values()
        if difference.reference.model != difference.entry.model
        and name != str(difference.reference)
    ]


def _statistics(
    entries: Sequence[Entry], pairs: Mapping[str, Sequence[tuple[Entry, Entry]]], settings: Settings
) -> tuple[dict[Entry, dict[str, Interval]], dict[str, dict[Entry, Difference]]]:
    """Intervals of all means and all differences.

    The images are drawn once for all of them, because drawing takes the time.
    """
    paired = {
        (name, entry): _paired_scores(entry, other)
        for name, group in pairs.items()
        for entry, other in group
    }
    # The columns of the draw: (entry, score, name of the reference, or none for the mean itself).
    columns: dict[tuple[Entry, str, str | None], np.ndarray] = {}
    for entry in entries:
        columns |= {(entry, score, None): values for score, values in entry.scores.items()}
    for (name, entry), (values, reference, _) in paired.items():
        columns |= {(entry, score, name): values[score] - reference[score] for score in values}
    found = bootstrap_intervals(columns, settings.num_resamples, settings.confidence, settings.seed)
    means = {
        entry: {score: found[entry, score, None] for score in entry.scores} for entry in entries
    }
    differences: dict[str, dict[Entry, Difference]] = {}
    for name, group in pairs.items():
        tests = {entry: _p_values(*paired[name, entry][:2], settings) for entry, _ in group}
        adjusted = holm([tests[entry]['mIoU'] for entry, _ in group])
        differences[name] = {}
        for (entry, other), corrected in zip(group, adjusted):
            values, reference, seeds = paired[name, entry]
            differences[name][entry] = Difference(
                entry=entry,
                reference=other,
                scores=values['mIoU'],
                by_image=values['mIoU'] - reference['mIoU'],
                intervals={score: found[entry, score, name] for score in values},
                deviations={
                    score: _paired_deviation(entry, other, seeds, score) for score in values
                },
                p_values=tests[entry],
                adjusted=corrected,
                num_seeds=len(seeds),
            )
    return means, differences


def _paired_scores(
    entry: Entry, reference: Entry
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[int | None]]:
    """Scores of both by image, averaged over the seeds that both have, or over all where they share
    none; and those seeds."""
    shared = [
        run.identity.seed
        for run in entry.runs
        if run.identity.seed in {other.identity.seed for other in reference.runs}
    ]
    if not shared:
        return entry.scores, reference.scores, []
    both = (
        mean_over_runs([run for run in side.runs if run.identity.seed in shared])
        for side in (entry, reference)
    )
    return next(both), next(both), shared


def _paired_deviation(
    entry: Entry, reference: Entry, seeds: Sequence[int | None], score: str
) -> float | None:
    if not seeds:
        return None
    sides = [
        {run.identity.seed: float(run.scores[score].mean()) for run in side.runs}
        for side in (entry, reference)
    ]
    return mean_and_deviation([sides[0][seed] - sides[1][seed] for seed in seeds])[1]


def _p_values(
    values: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], settings: Settings
) -> dict[str, float]:
    return {
        score: paired_p_value(
            values[score], reference[score], settings.num_resamples, settings.seed
        )
        for score in TESTED
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for testing all of them (Holm 1979). A corrected value bounds the chance of
    *any* false discovery among those up to it."""
    order = np.argsort(p_values, kind='stable')
    factors = len(p_values) - np.arange(len(p_values))
    corrected = (
        np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
        if len(p_values)
        else np.array([])
    )
    result = np.empty(len(p_values))
    result[order] = corrected
    return result.tolist()


def _bin_intervals(
    entries: Sequence[Entry], reference: Reference, rows: np.ndarray, settings: Settings
) -> tuple[dict[Entry, Interval], dict[Entry, Interval]]:
    if not len(rows):
        return {}, {}
    # The columns of the draw: an entry's mean, or its difference to the reference.
    columns: dict[Entry | Difference, np.ndarray] = {}
    for entry in entries:
        columns[entry] = entry.scores['mIoU'][rows]
    for difference in reference.differences.values():
        columns[difference] = difference.by_image[rows]
    found = bootstrap_intervals(columns, settings.num_resamples, settings.confidence, settings.seed)
    gains = {entry: found[one] for entry, one in reference.differences.items()}
    return {entry: found[entry] for entry in entries}, gains
