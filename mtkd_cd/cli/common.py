"""What every command-line tool does the same way: safe checkpoints, one clear line for a user's
mistake, exit codes."""

import argparse
import atexit
import gc
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

from mtkd_cd.core.allocator import keep_freed_memory, looking_for_garbage_rarely
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import os_error_message
from mtkd_cd.core.precision import FULL, PRECISIONS, WHEN_IT_PAYS
from mtkd_cd.core.processes import ending_together

if TYPE_CHECKING:
    from mmengine.config import Config

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
_LONGEST_MESSAGE = 4000  # letters; damaged files may have anything in a message


def run_tool(
    main: Callable[[Sequence[str] | None], int | None],
    argv: Sequence[str] | None = None,
    *,
    builds: bool = True,
) -> NoReturn:
    """Run a tool's ``main(argv)`` and exit the process: ``if __name__ == '__main__':
    run_tool(main)``.

    A mistake of the user is printed as ``error: ...`` without a traceback, exit code 2. Such
    mistakes are a :class:`UserError`, also one raised in a data loader's worker, a config that
    names what does not exist, and a full disk. Ctrl-C exits with 130, a closed pipe with 141.
    Anything else is a bug and keeps its traceback. Where one process of a distributed run fails,
    all end. Checkpoints are read as tensors and plain values only, until the tool parses
    ``--trust-checkpoint`` (:func:`add_trust_argument`).

    Args:
        main: Takes the arguments, ``None`` for those of the process; returns the exit code,
            ``None`` for 0.
        argv: Passed to ``main``; ``None`` where the process is the tool's alone.
        builds: Whether the tool builds what configs name, and may read checkpoints. Where it does
            not, mmengine is not imported for it.
    """
    if builds:
        _refuse_pickled_code()
    if getattr(sys.stdout, 'errors', None) == 'strict' and hasattr(sys.stdout, 'reconfigure'):
        # Names that a terminal or a pipe has no letters for: stderr shows them so already.
        sys.stdout.reconfigure(errors='backslashreplace')
    # Threads that wait for others sleep, in this process and in those that it starts: spinning,
    # they took a busy machine from the threads that they waited for.
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    keep_freed_memory()
    logging.raiseExceptions = (
        False  # a log file that cannot be written, on a full disk, must not bury the message
    )
    if argv is None and not builds:
        # A process of a second or two looks for no garbage when it ends. One that gives arguments,
        # a notebook perhaps, may have garbage of its own that wants to be closed.
        atexit.register(gc.freeze)
    try:
        with (
            ending_together(user_message),
            looking_for_garbage_rarely(),
            _config_errors_explained() if builds else nullcontext(),
        ):
            code = main(argv) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        if not _output_is_closed():  # another pipe, for instance that of a loader's worker
            raise
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # where Python flushes to at its end
        code = EXIT_BROKEN_PIPE
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        print(f'error: {message}', file=sys.stderr)
        code = EXIT_USER_ERROR
    finally:
        # A tool that never imported torch has no processes to leave.
        distributed = sys.modules.get('torch.distributed')
        if distributed is not None and distributed.is_initialized():
            # A model in a ring of references keeps the group, whose threads then end the process
            # with SIGABRT now and then.
            gc.collect()
            distributed.destroy_process_group()
    sys.exit(code)


def _config_errors_explained() -> AbstractContextManager[None]:
    from mtkd_cd.registry import config_errors_explained

    return config_errors_explained()


def _refuse_pickled_code() -> None:
    """What :func:`mtkd_cd.core.checkpoint.load_only_tensors` sets, without importing torch for the
    tools that need none."""
    from importlib.metadata import version

    major, minor = (int(part) for part in version('torch').split('.')[:2])
    if (major, minor) >= (2, 6):
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'


class _TrustCheckpoint(argparse.Action):
    """Lets every checkpoint that the process reads hold pickled objects."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any
    ) -> None:
        from mtkd_cd.core.checkpoint import load_only_tensors

        setattr(namespace, self.dest, True)
        load_only_tensors(False)


def _output_is_closed() -> bool:
    """Whether the reader of standard output (``| head``) has seen enough."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options KEY=VALUE ...``, as mmengine's tools have it."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help='override config entries',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every tool that runs a config takes, as mmengine's tools name it."""
    parser.add_argument('--work-dir', help='default: work_dirs/<strategy>/<model>[/<range>]')
    add_config_options(parser)
    add_trust_argument(parser)


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-checkpoint``. It takes effect when it is parsed, wherever a checkpoint is read:
    ``load_from``, a resumed run, the distiller, the cascade."""
    parser.add_argument(
        '--trust-checkpoint',
        action=_TrustCheckpoint,
        help='load checkpoints that hold pickled objects, whatever reads them: they can run code',
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that replace what a config says about its data. :func:`apply_data_arguments`
    puts them into the config."""
    parser.add_argument(
        '--data-root',
        help='folder with train/ and test/ (and val/, else a tenth of train is held out)',
    )
    parser.add_argument(
        '--dataset-type', help="registered data set class, default: the config's, JL1_CD_Dataset"
    )
    parser.add_argument(
        '--bands',
        help="bands that the model takes, from 1, red, green and blue first: '4,3,2,8'",
    )
    parser.add_argument(
        '--radiometry',
        metavar='RULE',
        help="how values become 0..255, for other than 8-bit images: 'linear(low=0, high=3000)', "
        "'percentile(2, 98)'",
    )
    parser.add_argument('--num-workers', type=at_least(0), help='loader processes')
    parser.add_argument('--image-size', type=at_least(1), help='resize images to this side')
    parser.add_argument(
        '--crop-size',
        type=at_least(1),
        help='side of training crops and, unless images are resized, of test windows',
    )


def apply_data_arguments(cfg: 'Config', args: argparse.Namespace) -> None:
    """Make a config read what :func:`add_data_arguments` was told, in every split."""
    from mtkd_cd.data.images import band_numbers
    from mtkd_cd.engine.image_size import set_crop_size, set_image_size
    from mtkd_cd.engine.inputs import set_bands, set_data, set_loaders, set_radiometry

    if args.data_root or args.dataset_type:
        set_data(cfg, args.data_root, args.dataset_type)
    if args.bands:
        set_bands(cfg, band_numbers(args.bands))
    if args.radiometry:
        set_radiometry(cfg, args.radiometry)
    if args.num_workers is not None:
        set_loaders(cfg, None, args.num_workers)
    if args.image_size:
        set_image_size(cfg, args.image_size)
    if args.crop_size:
        set_crop_size(cfg, args.crop_size)


def add_cost_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that trade time for memory in training. :func:`apply_cost_arguments` puts
    them into a config."""
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision: float16 on a GPU, bfloat16 on the CPU'
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help="torch.compile of features and head, a student's teachers included: minutes first, "
        'then faster steps',
    )
    parser.add_argument(
        '--cache',
        choices=['none', 'ram', 'disk'],
        default='none',
        help='where to keep decoded images, for all loader processes; default: none',
    )
    parser.add_argument(
        '--accumulate',
        type=at_least(1),
        metavar='N',
        help='add up the gradients of N batches before each step of the optimiser',
    )
    parser.add_argument(
        '--checkpoint-activations',
        action='store_true',
        help='less memory, more time: compute transformer layers again in the backward pass',
    )
    parser.add_argument(
        '--teacher-precision',
        choices=PRECISIONS,
        help="in what a student's teachers compute, default: the config's, else float32; "
        + WHEN_IT_PAYS,
    )


def apply_cost_arguments(cfg: 'Config', args: argparse.Namespace) -> None:
    """Make a config train as :func:`add_cost_arguments` was told; call ``set_machine`` first."""
    from mtkd_cd.engine.costs import COSTS, set_costs

    set_costs(cfg, **{name: getattr(args, name) for name in COSTS})


def add_data_set_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a tool needs to find the files of a data set. ``--type`` is an old name."""
    parser.add_argument(
        'data_root',
        help='folder with train/, val/, test/ (A, B and label in each), or with list/<split>.txt',
    )
    parser.add_argument(
        '--dataset-type',
        '--type',
        help='data set class whose folder names, suffixes and label coding hold, for instance '
        'JL1_CD_Dataset',
    )


def add_thresholds_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--thresholds``, one set of CAR thresholds."""
    from mtkd_cd.core.car import DEFAULT_THRESHOLDS

    parser.add_argument(
        '--thresholds',
        type=float,
        nargs='+',
        default=DEFAULT_THRESHOLDS,
        help='CAR thresholds (default: %(default)s)',
    )


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights``, for tools that take a trained model by its config too."""
    parser.add_argument(
        '--weights', help="the config's checkpoint; default: what its training left"
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, any that torch knows."""
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')


def add_precision_argument(parser: argparse.ArgumentParser, default: str | None = FULL) -> None:
    """Add ``--precision``, of networks that predict. Without a default it is the config's."""
    usual = default or f"the config's, else {FULL}"
    parser.add_argument(
        '--precision',
        choices=PRECISIONS,
        default=default,
        help=f'in what the network computes, default: {usual}; {WHEN_IT_PAYS}',
    )


def add_range_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--range``, the CAR range of a specialist. ``--partition`` is its old name."""
    parser.add_argument(
        '--range', '--partition', help='CAR range of a specialist: small, medium or large'
    )


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add device and launcher."""
    parser.add_argument('--device', choices=['auto', 'cpu', 'cuda'], default='auto')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how processes were started',
    )
    add_local_rank_argument(parser)


def add_local_rank_argument(parser: argparse.ArgumentParser) -> None:
    """Accept torchrun's ``--local_rank`` without a word: an environment variable says the same."""
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def at_least(minimum: int) -> Callable[[str], int]:
    """Make the type of an argument that counts something."""

    def count(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f'{text} is below {minimum}')
        return int(text)

    return count


class ConfigOptions(argparse.Action):
    """Reads ``KEY=VALUE`` arguments as mmengine does, and rules, ``linear(low=0, high=3000)``, as
    texts. What cannot be parsed is a usage error, not a traceback."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, *args: Any
    ) -> None:
        from mmengine.config import DictAction

        if any(re.search(r'[=\[(,]\s*dict\(', value) for value in values):  # split at its commas
            parser.error(
                f'--cfg-options {" ".join(values)}: a dict(...) is no value here: write its '
                'entries one by one (optim_wrapper.optimizer.lr=0.1), or put it in a config that '
                'has yours as its _base_'
            )
        # mmengine looks for the end of a comma within brackets without an end.
        rules = [value for value in values if re.fullmatch(r'[\w.]+=\w+\([^()]*\)', value)]
        others = [value for value in values if value not in rules]
        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, others, *args)
        except RecursionError:
            parser.error(
                f'--cfg-options {" ".join(others)}: a comma in brackets that follow a word cannot '
                'be told from one between values: put the entry in a config'
            )
        except (ValueError, AssertionError) as error:
            parser.error(f'--cfg-options takes KEY=VALUE pairs: {error}')
        getattr(namespace, self.dest).update(rule.split('=', 1) for rule in rules)


def user_message(error: BaseException) -> str | None:
    """What to tell the user about ``error``; ``None`` if it is none of the user's doing."""
    if not isinstance(error, UserError):
        return os_error_message(error)
    message = _without_worker_traceback(str(error))
    if len(message) > _LONGEST_MESSAGE:
        half = _LONGEST_MESSAGE // 2
        message = f'{message[:half]} [...] {message[-half:]}'
    return message


def _without_worker_traceback(message: str) -> str:
    """torch hands on a worker's exception as ``Caught UserError in DataLoader worker ...``, its
    traceback, ``UserError: <message>``."""
    if not message.startswith('Caught '):
        return message
    return message.rpartition(f'{UserError.__module__}.{UserError.__qualname__}: ')[2].strip()
