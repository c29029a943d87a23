"""The validation scores of a run, over its iterations."""

import csv
from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.registry import HOOKS


@HOOKS.register_module()
class ValidationCurveHook(Hook):
    """Writes ``<work_dir>/curve.csv``: a row per validation, ``iter`` and the metrics.

    A resumed run takes the place of what the interrupted one had written from there on.

    Args:
        metrics: Those to write.
        filename: Name of the file in the work dir.
    """

    priority = 'LOW'

    def __init__(
        self, metrics: tuple[str, ...] = ('mIoU', 'mFscore'), filename: str = 'curve.csv'
    ) -> None:
        self.metrics = metrics
        self.filename = filename

    def before_train(self, runner: Runner) -> None:
        """A run that starts anew has no curve yet."""
        if runner.iter == 0 and is_main_process():
            (Path(runner.work_dir) / self.filename).unlink(missing_ok=True)

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Add a row."""
        if not is_main_process():
            return
        path = Path(runner.work_dir) / self.filename
        rows = [row for row in read_curve(path) if int(row['iter']) < runner.iter]
        scores = metrics or {}
        rows.append(
            {
                'iter': str(runner.iter),
                **{
                    name: repr(float(scores[key]))
                    for name in self.metrics
                    if (key := _key_of(name, scores)) is not None
                },
            }
        )
        with atomic_write(path) as file:
            writer = csv.DictWriter(file, ('iter', *self.metrics), lineterminator='\n')
            writer.writeheader()
            writer.writerows(rows)


def _key_of(name: str, scores: Mapping[str, float]) -> str | None:
    """The metric itself, else the first one of that name under a prefix."""
    if name in scores:
        return name
    return next((key for key in scores if key.rpartition('/')[2] == name), None)


def read_curve(path: Path) -> list[dict[str, str]]:
    """The rows of a curve; none where there is no file.

    Raises:
        UserError: The file is damaged.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding='utf-8', newline='') as file:
            rows = list(csv.DictReader(file, strict=True))
        for row in rows:
            values = [row['iter'], *row.values()]
            if int(row['iter']) < 0 or not all(isinstance(value, str) for value in values):
                raise ValueError(f'a row is {row}')
            for name, value in row.items():
                if value:
                    float(value if name != 'iter' else 0)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(
            f'{path} is damaged ({type(error).__name__}: {str(error)[:200]}): delete it; nothing '
            'but the curve of the validation scores is lost'
        ) from None
    return rows
