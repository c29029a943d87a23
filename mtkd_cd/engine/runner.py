"""mmengine's runner for a training or a test: made and closed, with what can be done about errors
of its loaders and of memory."""

import gc
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mtkd_cd.core.allocator import pass_over_imports
from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.checkup import shared_memory_advice
from mtkd_cd.engine.config import model_of, strategy_of
from mtkd_cd.evaluation.metric import with_distinct_names
from mtkd_cd.registry import DATASETS, MODELS, RUNNERS


class LightRunner(Runner):
    """mmengine's runner, except that the visualiser of a config that names none imports matplotlib
    when something is drawn."""

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """The visualiser; mmengine's default one waits for its figure."""
        if visualizer is None:
            visualizer = dict(
                type='mtkd_cd.Visualizer', vis_backends=[dict(type='LocalVisBackend')]
            )
        return super().build_visualizer(visualizer)


class TerseRunner(LightRunner):
    """Our runner, except that the console shows one line per event; configs, environment and
    tables go to the log file alone."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """The logger, its console handler filtered."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: '\n' not in record.getMessage())
        return logger


@contextmanager
def runner_of(cfg: Config, terse: bool) -> Iterator[Runner]:
    """A runner of its own name; its log file and loader processes are closed at the end."""
    for key in ('val_evaluator', 'test_evaluator'):
        if isinstance(cfg.get(key), list):
            cfg[key] = with_distinct_names(cfg[key])
    # mmengine takes no `randomness` without a seed.
    cfg.randomness = {'seed': None, **(cfg.get('randomness') or {})}
    import_parts()
    # mmengine keeps loggers, message hubs and visualisers by this name, per process.
    cfg.experiment_name = f'{strategy_of(cfg)}_{model_of(cfg)}_{time.time_ns()}'
    runner = (
        RUNNERS.build(cfg)
        if 'runner_type' in cfg
        else (TerseRunner if terse else LightRunner).from_cfg(cfg)
    )
    try:
        yield runner
    finally:
        end_workers(runner)
        for handler in list(runner.logger.handlers):
            runner.logger.removeHandler(handler)
            handler.close()
        del runner
        gc.collect()


def import_parts() -> None:
    """Import networks and data sets before one is made: mmengine's look through all there is for
    garbage."""
    MODELS.import_from_location()
    DATASETS.import_from_location()
    pass_over_imports()


def end_workers(runner: Runner) -> None:
    """End the loader processes of all loops.

    Runner and loops refer to each other, and the collector of such cycles closes the queues of a
    loader before it asks the processes to end: that question never arrives, and each is waited for
    twice five seconds.
    """
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):  # built or not
        for name in ('dataloader', 'dataloader_iterator'):
            iterator: Any = getattr(getattr(loop, name, None), '_iterator', None)
            if hasattr(iterator, '_shutdown_workers'):
                iterator._shutdown_workers()


@contextmanager
def loader_errors() -> Iterator[None]:
    """Say what can be done about loader workers that are gone or hang, and about full memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f'{str(error).splitlines()[0][:200]} Lower the batch size (--batch-size), or the size '
            'of the crops'
        ) from error
    except RuntimeError as error:
        text = str(error)
        if 'shared memory' in text or 'Bus error' in text or 'unable to write to file' in text:
            raise UserError(f'a loader worker has no room. {shared_memory_advice()}') from error
        if 'DataLoader timed out' in text:
            raise UserError(
                f'{text.splitlines()[0]}: its workers hang, or the data are very slow to read. '
                f'{shared_memory_advice()}; for slow data, set train_dataloader.timeout (seconds; '
                '0: none)'
            ) from error
        if 'Expected to have finished reduction in the prior iteration' in text:
            raise UserError(
                'some parameters take no part in the loss, which several processes have to be '
                'told: --cfg-options find_unused_parameters=True (slower)'
            ) from error
        if re.search(r'DataLoader worker.*(exited unexpectedly|killed by signal)', text):
            raise UserError(
                f'{text.splitlines()[0].strip()} If nobody ended it, memory was short: lower '
                f'--num-workers or --batch-size. {shared_memory_advice()}'
            ) from error
        raise
