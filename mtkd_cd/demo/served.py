"""The model behind the page, and what is known of its precision and recall."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.inference.inferencer import ChangeInferencer

DEFAULT = Path('demo/work_dirs/mtkd/fc_ef/fc_ef.mtkd')  # what `make demo` leaves
_TINYCD_SIZE = 256  # the published weights were trained on images of this side


@dataclass(frozen=True)
class Served:
    """A model and what its bundle says of it.

    Attributes:
        inferencer: That predicts.
        curve: (101, 3): threshold, precision and recall of change on validation; ``None`` if there
            was none.
        images: Validation images.
        data: What it was trained on.
        licence: Of the weights.
    """

    inferencer: ChangeInferencer
    curve: np.ndarray | None = None
    images: int = 0
    data: str = ''
    licence: str = ''

    @property
    def name(self) -> str:
        """Of the model."""
        return self.inferencer.card.name

    def scores(self, threshold: float) -> tuple[float, float] | None:
        """Precision and recall on validation at the nearest threshold of the curve."""
        if self.curve is None:
            return None
        row = self.curve[np.abs(self.curve[:, 0] - threshold).argmin()]
        return float(row[1]), float(row[2])


def open_served(model: str | os.PathLike | None, folder: Path, device: str = 'auto') -> Served:
    """Open what the page serves.

    Args:
        model: A bundle, an exported network, or the TinyCD authors' published weights, which are
            made a bundle of; ``None``: the bundle that ``make demo`` leaves.
        folder: For that bundle.
        device: To predict on.

    Raises:
        UserError: No such file, other weights, or a model that is no good.
    """
    from mtkd_cd.inference.bundle import SUFFIX, Bundle

    if model is None:
        if not DEFAULT.is_file():
            raise UserError(
                'no model: give a bundle (mtkd-cd demo student.mtkd) or published TinyCD weights '
                '(mtkd-cd demo tinycd_levir_best.pth), or run `make demo` here first, which trains '
                f'one and leaves it as {DEFAULT}'
            )
        model = DEFAULT
    path = Path(model)
    if path.suffix.lower() in ('.pth', '.pt', '.ckpt'):
        path = _converted(path, folder, device)
    if path.suffix.lower() != SUFFIX:
        if path.suffix.lower() != '.onnx':
            raise UserError(
                f'model {path}: a bundle (.mtkd), an exported network (.onnx) or published TinyCD '
                'weights (.pth) is needed; `mtkd-cd bundle create` makes a bundle of a config and '
                'its weights'
            )
        return Served(ChangeInferencer(path, device=device))
    bundle = Bundle.open(path)
    description = bundle.description
    calibration = description.get('calibration')
    curve = None
    if calibration:
        names = ('threshold', 'precision', 'recall')
        curve = np.array([[point[name] for name in names] for point in calibration['curve']])
    return Served(
        ChangeInferencer(bundle.build(device), device=device),
        curve,
        images=int(calibration['images']) if calibration else 0,
        data=str(description.get('data') or ''),
        licence=str(description.get('licence') or ''),
    )


def _converted(weights: Path, folder: Path, device: str) -> Path:
    """A bundle of published weights."""
    from mtkd_cd.core.checkpoint import read_weights
    from mtkd_cd.inference.bundle import SUFFIX, Facts, create_bundle
    from mtkd_cd.models.conversion import LAYOUTS, published_layout

    if not weights.is_file():
        raise UserError(f'weights {weights} do not exist: check the path')
    layout = published_layout(read_weights(weights))
    if layout is not LAYOUTS['tinycd']:
        raise UserError(
            f"weights {weights} are not the TinyCD authors': make a bundle of them with their "
            f'config first, `mtkd-cd bundle create CONFIG {weights} -o NAME.mtkd`'
        )
    facts = Facts(notes=f"The TinyCD authors' checkpoint {weights.name}, converted.")
    bundle = create_bundle(
        CONFIGS / 'origin' / 'tinycd.py',
        weights,
        folder / f'{weights.stem}{SUFFIX}',
        facts=facts,
        training_size=_TINYCD_SIZE,
        validation=False,
        device=device,
    )
    return bundle.path
