"""What tables, figures and sentences of a report say alike: numbers, references, names of files."""

from dataclasses import dataclass

from mtkd_cd.core.strategy import strategy_title
from mtkd_cd.paper.published import model_title
from mtkd_cd.reporting.comparison import Comparison, Difference, Entry, Reference
from mtkd_cd.reporting.table_formats import Tone

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Published:
    """Which printed figures stand beside the measured ones.

    Attributes:
        dataset: The paper's data set.
        same: Whether the evaluated images may be that set's.
    """

    dataset: str
    same: bool

    @property
    def words(self) -> str:
        """What a caption says of them."""
        where = f'on the test set of {self.dataset}'
        return (
            f'published {where}'
            if self.same
            else f'published, {where}, another data set than the one evaluated here'
        )


def signed(value: float, digits: int = 2) -> str:
    """``+0.50``, ``-0.42``, and ``+0.00`` for what rounds to nothing."""
    return f'{round(value, digits) + 0.0:+.{digits}f}'


def p_text(p_value: float) -> str:
    """``0.034``, ``< 0.001``."""
    return '< 0.001' if p_value < 0.001 else f'{p_value:.3f}'


def level_text(comparison: Comparison) -> str:
    """The confidence level of all intervals: ``95 %``."""
    return f'{100 * comparison.settings.confidence:g} %'


def tone_of(difference: float) -> Tone:
    """Gain or loss."""
    return 'gain' if round(difference, 2) > 0 else 'loss' if round(difference, 2) < 0 else ''


def reference_title(reference: Reference) -> str:
    """``origin``, or ``FC-EF, origin`` where all are compared with one run."""
    model, slash, strategy = reference.name.rpartition('/')
    return (
        f'{model_title(model)}, {strategy_title(strategy)}' if slash else strategy_title(strategy)
    )


def reference_words(reference: Reference) -> str:
    """The same within a sentence."""
    title = reference_title(reference)
    return title if '/' in reference.name else f'{title} of the same model'


def against(difference: Difference) -> str:
    """What a difference is to: ``origin``, or ``FC-EF, origin`` where that is of another model."""
    reference = difference.reference
    title = strategy_title(reference.strategy)
    return (
        title
        if reference.model == difference.entry.model
        else f'{model_title(reference.model)}, {title}'
    )


def file_name(prefix: str, entry: Entry) -> str:
    """Of a table or figure about one entry: letters, digits, ``_``, ``-`` and ``.`` only."""
    return f'{prefix}_{plain(entry.model)}_{plain(entry.strategy)}'


def plain(text: str) -> str:
    """Text as a part of a file name that every system takes."""
    return ''.join(char if char.isalnum() or char in '-.' else '_' for char in text)
