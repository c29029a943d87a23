"""Input sizes that a network can take."""

from torch import Tensor

from mtkd_cd.core.errors import UserError


def check_divisible(network: str, images: Tensor, divisor: int) -> None:
    """Refuse images whose sides are no multiples of ``divisor``, naming the next size that works.

    Raises:
        UserError: As said.
    """
    height, width = images.shape[2:]
    if height % divisor or width % divisor:
        height, width = int(height), int(width)  # torch's tracer hands out tensors
        works = ' x '.join(str(-(-side // divisor) * divisor) for side in (height, width))
        raise UserError(
            f'{network} needs image sides in multiples of {divisor}, found {height} x {width}: pad '
            f'to {works} '
            f'(size_divisor={divisor} of the data preprocessor and of its test_cfg; for sliding '
            'windows, crop_size)'
        )
