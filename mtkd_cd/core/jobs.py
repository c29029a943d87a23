"""Runs functions as jobs, each in a process of its own, here or on Slurm.

submitit starts the processes. Ray would want a daemon, and the field's GPUs are behind Slurm; a job
is one process and its files. submitit's local executor starts at once whatever it is given. So a
queue of ours bounds the number of jobs at a time, and starts those again that were killed.
"""

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mtkd_cd.core.errors import UserError

_FOREVER = 60 * 24 * 365  # minutes: a local job ends when it is done
_LAST_LINES = 4
_GRACE = 15  # seconds that a job gets to save what it has
_TERMINATED = 143  # 128 + SIGTERM, as shells report it


@dataclass(frozen=True, eq=False)
class Job:
    """A function with its arguments.

    Attributes:
        name: Of the job in messages.
        call: A module's function; another process has to find it.
        arguments: Of the function; pickled.
        trusted: Whether the job may read checkpoints that hold pickled objects, as its parent does
            after ``--trust-checkpoint``.
    """

    name: str
    call: Callable[..., None]
    arguments: tuple = ()
    trusted: bool = False

    def __call__(self, threads: int | None = None, nice: int = 0) -> 'Outcome':
        """Run in this process; errors become the outcome."""
        if threads:
            import torch

            torch.set_num_threads(threads)
        if nice:
            os.nice(nice)
        if self.trusted:
            from mtkd_cd.core.checkpoint import load_only_tensors

            load_only_tensors(False)
        try:
            self.call(*self.arguments)
        except UserError as error:
            return Outcome(str(error), retry=False)
        except Exception as error:
            traceback.print_exc()
            return Outcome(f'{type(error).__name__}: {error}', retry=True)
        return Outcome()


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        error: What went wrong; ``None`` where nothing did.
        retry: Whether another try may help: not with a mistake of the user.
        log: File that the job wrote.
    """

    error: str | None = None
    retry: bool = False
    log: Path | None = None


@dataclass(frozen=True)
class Cluster:
    """Where jobs run, and how many at a time.

    Attributes:
        kind: ``local``: processes of this machine. ``processes``: the same without submitit.
            ``slurm``: Slurm's jobs. ``debug``: one after the other in this process.
        folder: Where submitit keeps its pickles and the logs.
        jobs: At most so many at a time; ``None``: one per device locally, all on Slurm.
        devices: Local GPUs, a job on each; none for jobs on the CPU.
        threads: CPU threads of a job.
        nice: Added to a local job's niceness.
        slurm: Of the Slurm job: ``slurm_partition``, ``timeout_min``, ``gpus_per_node``, ... as in
            submitit.
    """

    folder: Path
    kind: Literal['local', 'processes', 'slurm', 'debug'] = 'local'
    jobs: int | None = None
    devices: tuple[int, ...] = ()
    threads: int | None = None
    nice: int = 0
    slurm: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_here(self) -> bool:
        """Whether jobs are processes of this machine."""
        return self.kind in ('local', 'processes')

    @property
    def limit(self) -> int:
        """Jobs at a time."""
        if self.kind == 'debug':
            return 1
        return self.jobs or (max(1, len(self.devices)) if self.is_here else 1_000_000)


def run_jobs(
    jobs: Sequence[Job],
    cluster: Cluster,
    retries: int = 1,
    ended: Callable[[Job, Outcome], None] = lambda *_: None,
    looked: Callable[[], None] = lambda: None,
    until: float | None = None,
) -> None:
    """Run all jobs; one that was killed or failed, except by a mistake of the user, is started
    again, behind those that wait.

    Args:
        jobs: In the order to start them.
        cluster: Where.
        retries: How many times a job is started again.
        ended: Called with each job and its last outcome.
        looked: Called each time that the jobs have been looked after.
        until: ``time.time()`` at which what runs here is asked to end and nothing is started any
            more.

    After SIGTERM the jobs of this machine get it too, and ``SystemExit`` with 143 is raised; those
    of Slurm go on.

    Raises:
        UserError: There is no submitit, or no Slurm.
    """
    executor = _executor(cluster)
    waiting, left = list(jobs), dict.fromkeys(jobs, retries)
    running: dict[Job, tuple[Any, int | None]] = {}
    with _exit_on_sigterm(), _cancelled_at_the_end(running, cluster):
        while waiting or running:
            if until is not None and time.time() > until:
                for job in waiting:
                    ended(job, Outcome('not started: the time was over'))
                for job in _stop(running, cluster):
                    ended(job, Outcome('stopped: the time was over; the next call goes on'))
                return
            while waiting and len(running) < cluster.limit:
                job = waiting.pop(0)
                running[job] = _submit(
                    executor, job, cluster, [device for _, device in running.values()]
                )
            for job in [job for job, (submitted, _) in running.items() if submitted.done()]:
                outcome = _outcome(running.pop(job)[0])
                if outcome.retry and left[job]:
                    left[job] -= 1
                    waiting.append(job)
                    print(
                        f'{job.name}: {last_lines(outcome.error)}\n'
                        f'  is started again, log: {outcome.log}',
                        flush=True,
                    )
                else:
                    ended(job, outcome)
            looked()
            time.sleep(0 if cluster.kind == 'debug' else 0.5)


@contextmanager
def _cancelled_at_the_end(
    running: Mapping[Job, tuple[Any, int | None]], cluster: Cluster
) -> Iterator[None]:
    """End what still runs on this machine when the block is left."""
    try:
        yield
    finally:
        if cluster.is_here:
            for submitted, _ in running.values():
                submitted.cancel()


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Leave the block with ``SystemExit`` at SIGTERM, so that its clean-up runs. Python hands
    signals to the main thread only; elsewhere nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: Any) -> None:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _stop(running: Mapping[Job, tuple[Any, int | None]], cluster: Cluster) -> list[Job]:
    """Ask the jobs to end, and give them time to save; those of Slurm go on."""
    if not cluster.is_here:
        return []
    for submitted, _ in running.values():
        submitted.cancel()
    end = time.time() + _GRACE
    while time.time() < end and not all(submitted.done() for submitted, _ in running.values()):
        time.sleep(0.2)
    return list(running)


class _Processes:
    """What this module needs of a submitit executor: a process for each job, whose files lie in a
    folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._gpus: tuple[int, ...] = ()
        self._count = 0

    def update_parameters(self, gpus_per_node: int, visible_gpus: tuple[int, ...]) -> None:
        self._gpus = visible_gpus

    def submit(self, *call: Any) -> '_Process':
        self.folder.mkdir(parents=True, exist_ok=True)
        self._count += 1
        files = self.folder / f'{os.getpid()}_{self._count}'
        files.with_suffix('.job').write_bytes(pickle.dumps(call))
        files.with_suffix('.result').unlink(missing_ok=True)
        visible = dict(CUDA_VISIBLE_DEVICES=','.join(map(str, self._gpus))) if self._gpus else {}
        command = f'from mtkd_cd.core.jobs import run_pickled; run_pickled({str(files)!r})'
        with files.with_suffix('.log').open('w') as log:
            process = subprocess.Popen(
                [sys.executable, '-c', command],
                env={**os.environ, **visible},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return _Process(process, files)


class _Process:
    def __init__(self, process: subprocess.Popen, files: Path) -> None:
        self.process = process
        self.files = files

    @property
    def paths(self) -> '_Process':
        return self

    @property
    def stdout(self) -> Path:
        return self.files.with_suffix('.log')

    def done(self) -> bool:
        return self.process.poll() is not None

    def exception(self) -> Exception | None:
        there = self.files.with_suffix('.result').is_file()
        return None if there else RuntimeError(f'exit code {self.process.returncode}')

    def result(self) -> Outcome:
        return pickle.loads(self.files.with_suffix('.result').read_bytes())

    def cancel(self) -> None:
        self.process.terminate()


def run_pickled(files: str) -> None:
    """What a process of :class:`_Processes` does: run the job of ``<files>.job`` and leave its
    outcome in ``<files>.result``."""
    job, *arguments = pickle.loads(Path(files).with_suffix('.job').read_bytes())
    outcome = job(*arguments)
    unfinished = Path(files).with_suffix('.part')
    unfinished.write_bytes(pickle.dumps(outcome))
    unfinished.replace(Path(files).with_suffix('.result'))


def _executor(cluster: Cluster) -> Any:
    if cluster.kind == 'processes':
        return _Processes(Path(cluster.folder))
    try:
        import submitit
    except ImportError:
        raise UserError(
            'the experiments run through submitit, which is not installed: pip install '
            "'mtkd-cd[experiments]'"
        ) from None
    if cluster.kind == 'slurm':
        try:
            executor = submitit.AutoExecutor(cluster.folder, cluster='slurm')
        except RuntimeError as error:
            raise UserError(f'--cluster slurm: {error}') from None
        executor.update_parameters(
            name='mtkd_cd',
            stderr_to_stdout=True,
            cpus_per_task=cluster.threads or 1,
            **cluster.slurm,
        )
        return executor
    if cluster.kind == 'debug':
        return submitit.DebugExecutor(cluster.folder)
    local = submitit.LocalExecutor(cluster.folder)
    local.update_parameters(timeout_min=_FOREVER, stderr_to_stdout=True)
    return local


def _submit(
    executor: Any, job: Job, cluster: Cluster, taken: Sequence[int | None]
) -> tuple[Any, int | None]:
    """The submitted job and its GPU: the one with the fewest jobs."""
    device = min(cluster.devices, key=taken.count, default=None)
    if cluster.is_here:
        executor.update_parameters(
            gpus_per_node=int(device is not None), visible_gpus=() if device is None else (device,)
        )
    with _environment({'OMP_NUM_THREADS': str(cluster.threads)} if cluster.threads else {}):
        sent = dataclasses.replace(job, trusted=_trusts_checkpoints())
        submitted = executor.submit(sent, cluster.threads, cluster.nice if cluster.is_here else 0)
    where = '' if device is None else f' on GPU {device}'
    print(f'{job.name}: started{where}, log: {submitted.paths.stdout}', flush=True)
    return submitted, device


def _trusts_checkpoints() -> bool:
    # Who has not imported the module has not changed what it says.
    module = sys.modules.get('mtkd_cd.core.checkpoint')
    return module is not None and module.trusts_checkpoints()


def _outcome(submitted: Any) -> Outcome:
    """What became of a job that is over; one that left no result was killed."""
    error = submitted.exception()
    log = submitted.paths.stdout
    if error is None:
        outcome = submitted.result()
        return Outcome(outcome.error, outcome.retry, log)
    return Outcome(f'killed, or ended without a result: {_tail(log)}', retry=True, log=log)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines() if log.is_file() else []
    return ' / '.join(lines[-_LAST_LINES:]) or 'it wrote nothing'


def last_lines(error: str | None) -> str:
    """The end of a long message."""
    return '\n'.join((error or '').splitlines()[-_LAST_LINES:])


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
