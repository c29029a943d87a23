"""The precisions in which detectors that do not train may compute."""

from typing import Literal, get_args

from mtkd_cd.core.errors import UserError

Precision = Literal['float32', 'bfloat16']
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FULL: Precision = 'float32'  # the default; records name others alone
# For help texts.
WHEN_IT_PAYS = 'bfloat16 is faster on GPUs and on CPUs with AMX or AVX512-BF16, slower on others'


def as_record(precision: Precision) -> Precision | None:
    """What a record says of it: nothing of float32."""
    return None if precision == FULL else precision


def as_precision(text: str) -> Precision:
    """The precision of this name.

    Raises:
        UserError: There is none.
    """
    for precision in PRECISIONS:
        if text == precision:
            return precision
    raise UserError(f'precision={text!r}: choose {" or ".join(map(repr, PRECISIONS))}')
