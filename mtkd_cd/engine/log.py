"""Log lines in which small numbers keep their digits."""

from typing import Any

from mmengine.runner import LogProcessor

from mtkd_cd.registry import LOG_PROCESSORS


@LOG_PROCESSORS.register_module()
class SignificantLogProcessor(LogProcessor):
    """mmengine's processor, which also writes small numbers: ``3.2e-06``, not ``0.0000``. A
    distillation loss is lambda times a distance, and so small.

    Takes the arguments of mmengine's ``LogProcessor``.
    """

    def get_log_after_iter(self, *args: Any, **kwargs: Any) -> tuple[dict, str]:
        """The values to log and the line that says them."""
        values, line = super().get_log_after_iter(*args, **kwargs)
        for name, value in values.items():
            # Below, the fixed digits show one at most.
            if isinstance(value, float) and 0 < abs(value) < 10 ** (1 - self.num_digits):
                fixed = f'{name}: {value:.{self.num_digits}f}'
                line = line.replace(f'  {fixed}', f'  {name}: {value:.{self.num_digits - 1}e}')
        return values, line
