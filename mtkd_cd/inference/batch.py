"""Many pairs: one after the other or in shards, each for itself, resumed where a run ended."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_cd.core.csv_files import ENCODING, read_csv
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.core.files import atomic_write, os_error_message
from mtkd_cd.core.jobs import Cluster, Job, Outcome, run_jobs
from mtkd_cd.core.locks import alone
from mtkd_cd.core.precision import FULL, as_record
from mtkd_cd.core.strategy import BEST
from mtkd_cd.core.text import csv_text, from_csv_text, some
from mtkd_cd.engine.config import is_cascade, work_dir_of
from mtkd_cd.inference.grid import Grid
from mtkd_cd.inference.inferencer import ChangeInferencer
from mtkd_cd.inference.outputs import remove_leftovers
from mtkd_cd.inference.pair_lists import PairTask, parsed_date, stacked_bands, write_item
from mtkd_cd.inference.raster.files import date_of
from mtkd_cd.version import __version__

RESULTS = 'results.csv'
WAITING, DONE, FAILED = 'waiting', 'done', 'failed'
_FOLDER = '.mtkd_cd_batch'  # below the output folder: shards, logs, stacked bands
_RUN = 'MTKD_CD_RUN'
_OPTIONS = 'MTKD_CD_RUN_OPTIONS'
_INTERVAL = 1.0  # seconds between two writes of a table
_NUMBERS = ('car', 'area_m2', 'seconds')
_COLUMNS = (
    'name',
    'status',
    *_NUMBERS,
    'error',
    'warnings',
    'out',
    'a',
    'b',
    'mask',
    'date_a',
    'date_b',
    'label',
)
# What tells nothing of the result of predict_raster.
_WITHOUT_EFFECT = ('overwrite', 'dry_run', 'batch_size', 'strip', 'progress')
Row = dict[str, Any]


@dataclass(frozen=True)
class ModelSource:
    """The arguments of a :class:`~mtkd_cd.inference.inferencer.ChangeInferencer`, which another
    process can be given."""

    model: str
    weights: str | None = None
    device: str = 'auto'
    backend: str = 'torch'
    trusted: bool = False
    cfg_options: Mapping[str, Any] | None = None
    precision: str = FULL

    def open(self) -> ChangeInferencer:
        """Make the inferencer."""
        return ChangeInferencer(
            self.model,
            self.weights,
            device=self.device,
            backend=self.backend,
            trusted=self.trusted,
            cfg_options=self.cfg_options,
            precision=self.precision,
        )

    def identity(self, inferencer: ChangeInferencer) -> str:
        """A text that differs between models whose outputs may differ: a hash of the bundle, or of
        config, weights and how the model takes its input, which options may change; and another
        precision than float32."""
        card, routing = inferencer.card, inferencer.model.routing
        precision = '' if self.precision == FULL else f':{self.precision}'
        if card.sha256 and not self.cfg_options:
            return f'{self.backend}:{card.sha256}{precision}'
        digest = hashlib.sha256()
        taken = dict(card.input_as_dict(), threshold=card.threshold, sha256=card.sha256)
        taken['trained_bands'] = inferencer.trained_bands
        if routing is not None:  # its file may have changed
            taken['routing'] = (routing.cuts, routing.detectors)
        digest.update(json.dumps(taken, sort_keys=True).encode())
        cfg = inferencer.model.cfg
        files: list[str | os.PathLike] = []
        if card.sha256 is None:  # of a config
            parts = {key: cfg.get(key) for key in ('model', 'data_preprocessor', 'test_pipeline')}
            digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
            if is_cascade(cfg):
                files = list(dict(cfg.model.get('checkpoints') or {}).values())
            else:
                files = [self.weights or work_dir_of(cfg) / BEST]
        for file in files:
            with open(file, 'rb') as stream:
                while block := stream.read(2**20):
                    digest.update(block)
        return f'{self.backend}:{digest.hexdigest()}{precision}'


@dataclass(frozen=True)
class BatchOptions:
    """What is wanted of every pair.

    Attributes:
        raster: Options of :meth:`~mtkd_cd.inference.inferencer.ChangeInferencer.predict_raster`.
        probability: Path of the probability below the output folder; ``{name}`` in it becomes the
            name of the pair. ``None``: none is written.
        vector: The same for the polygons.
        items: Whether a STAC item is written beside each change map.
        resume: Whether outputs that are there already, of this model, these inputs and options, are
            kept.
        overwrite: Whether others are replaced.
    """

    raster: Mapping[str, Any] = field(default_factory=dict)
    probability: str | None = None
    vector: str | None = None
    items: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for key in ('probability', 'vector'):
            pattern = getattr(self, key)
            if pattern is not None and '{name}' not in pattern:
                raise UserError(
                    f'--{key} {pattern}: with --pairs each pair needs a name of its own, for '
                    f"instance --{key} '{{name}}_{key}{Path(pattern).suffix or '.tif'}'"
                )

    def files(self, task: PairTask, folder: Path) -> dict[str, Path]:
        """The outputs of a pair, the change map first."""
        files = dict(change=folder / task.out)
        for key in ('probability', 'vector'):
            pattern = getattr(self, key)
            if pattern is not None:
                files[key] = folder / pattern.replace('{name}', task.name)
        return files

    def settings(self, identity: str) -> dict[str, Any]:
        """Model and options, which determine the outputs of all pairs; those that are not given
        are not in it."""
        options = {
            key: value if isinstance(value, (int, float, str)) else str(value)
            for key, value in self.raster.items()
            if key not in _WITHOUT_EFFECT and value is not None
        }
        return dict(options, model=identity, version=__version__)

    def run_key(self, task: PairTask, identity: str) -> str:
        """Hash of all that determines the outputs of a pair: model, input files, options."""
        inputs = [*task.a, *task.b, task.mask, self.raster.get('mask'), self.raster.get('aoi')]
        facts = dict(
            settings=self.settings(identity),
            inputs=[_fingerprint(file) for file in inputs if file is not None],
            bands=[len(task.a), len(task.b)],
            dates=[task.date_a, task.date_b],
        )
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _fingerprint(file: Any) -> list[Any]:
    """Of a local file: its name, size and time of change; of another one its name."""
    try:
        state = os.stat(file)
    except OSError:
        return [str(file)]
    return [Path(file).name, state.st_size, state.st_mtime_ns]


class Results:
    """The table of a batch, a row per pair, on disk as it goes.

    Args:
        path: A CSV file. It is written whole, under another name first.
        tasks: The pairs, in the order of the rows.
    """

    def __init__(self, path: Path, tasks: Sequence[PairTask]) -> None:
        self.path = path
        self._written = 0.0
        self.rows: dict[str, Row] = {task.name: _row(task) for task in tasks}

    def put(self, row: Row) -> None:
        """Take the row of a pair; the file follows within a second or with :meth:`write`."""
        self.rows[row['name']] = row
        if time.monotonic() - self._written >= _INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the file."""
        with atomic_write(self.path) as file:
            writer = csv.DictWriter(file, _COLUMNS, lineterminator='\n')
            writer.writeheader()
            for row in self.rows.values():
                writer.writerow(
                    {
                        key: value if key in _NUMBERS else csv_text(str(value or ''))
                        for key, value in row.items()
                    }
                )
        self._written = time.monotonic()

    def of_status(self, status: str) -> list[Row]:
        """The rows of that status."""
        return [row for row in self.rows.values() if row['status'] == status]


def read_results(path: str | os.PathLike) -> list[Row]:
    """The rows of a table that :class:`Results` wrote; numbers as they are written.

    Raises:
        UserError: It is no such table.
    """
    try:
        with open(path, encoding=ENCODING, newline='') as file:
            table = read_csv(file, str(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path} cannot be read: {error}') from None
    missing = [name for name in ('name', 'status', 'out') if name not in table.header]
    if missing:
        raise UserError(f'{path} is no table of mtkd-cd predict --pairs: it has no {missing[0]!r}')
    return [
        {name: from_csv_text(cell) for name, cell in row.items() if name} for _, row in table.rows
    ]


def _row(task: PairTask, status: str = WAITING, **facts: Any) -> Row:
    about = dict(
        name=task.name,
        status=status,
        out=task.out,
        a=' '.join(task.a),
        b=' '.join(task.b),
        mask=task.mask or '',
        date_a=task.date_a or '',
        date_b=task.date_b or '',
        label=task.label or '',
    )
    return {**dict.fromkeys(_COLUMNS, ''), **about, **facts}


def run_batch(
    source: ModelSource,
    tasks: Sequence[PairTask],
    folder: str | os.PathLike,
    options: BatchOptions | None = None,
    *,
    cluster: Cluster | None = None,
    shards: int = 1,
    retries: int = 2,
    finished: Callable[[Row], None] = lambda row: None,
) -> Results:
    """Predict pairs into a folder, and write the table ``results.csv`` there. A pair that fails
    does not stop the others.

    Args:
        source: The model.
        tasks: The pairs.
        folder: Of the outputs.
        options: What is wanted.
        cluster: Where shards run, one process each; ``None``: all pairs in this process.
        shards: How many.
        retries: How many times a shard that was killed is started again; it goes on where it was.
        finished: Called with the row of each pair that is over.

    Returns:
        The table, as it is in the folder.

    Raises:
        UserError: The model is no good. The folder has outputs, or a table of other pairs, and
            ``options`` says neither ``resume`` nor ``overwrite``. With ``resume``: they are of
            another model or other options. Another batch writes to the folder.
    """
    folder, options = Path(folder), options or BatchOptions()
    if folder.exists() and not folder.is_dir():
        raise UserError(f'{folder} is a file: name a folder for the outputs')
    if not (options.resume or options.overwrite):
        _refuse_existing(tasks, folder, options)
        _refuse_other_table(tasks, folder)
    inferencer = source.open() if cluster is None else None
    if options.resume and not options.overwrite:
        # Each shard finds out about the model, for each of its pairs.
        model = source.identity(inferencer) if inferencer is not None else None
        _refuse_other_options(tasks, folder, options, model)
    with alone(folder / _FOLDER / 'lock', what=f'the batch in {folder}'):
        results = Results(folder / RESULTS, tasks)
        earlier = _earlier(folder / RESULTS) if options.resume else {}
        try:
            if inferencer is not None:
                identity = source.identity(inferencer)
                worker = _Worker(inferencer, identity, folder, options, earlier)
                worker.run(tasks, results, finished)
            elif cluster is not None:
                parts = _Shards(folder / _FOLDER, list(tasks), shards)
                parts.run(source, folder, options, results, earlier, cluster, retries, finished)
        finally:
            results.write()
    with contextlib.suppress(OSError):  # it holds something
        (folder / _FOLDER).rmdir()
    return results


def _refuse_existing(tasks: Sequence[PairTask], folder: Path, options: BatchOptions) -> None:
    there = [
        str(file)
        for task in tasks
        for file in options.files(task, folder).values()
        if file.exists()
    ]
    if there:
        raise UserError(
            f'{folder} has {len(there)} of the outputs already ({some(there, 3)}): --resume keeps '
            'those that are of this model, these inputs and options; --overwrite predicts all '
            'again'
        )


def _refuse_other_table(tasks: Sequence[PairTask], folder: Path) -> None:
    """Refuse to write the table over a file of the user's, or over that of other pairs."""
    path = folder / RESULTS
    if not path.exists():
        return
    try:
        rows = read_results(path)
    except UserError as error:
        raise UserError(f'{error}. Choose another folder, or move it away') from None
    names = {task.name for task in tasks}
    others = [row['name'] for row in rows if row['status'] == DONE and row['name'] not in names]
    if others:
        raise UserError(
            f'{path} tells of {len(others)} other pairs ({some(others, 3)}), which would be lost: '
            'choose another folder, or --overwrite to have a table of these pairs alone'
        )


def _refuse_other_options(
    tasks: Sequence[PairTask], folder: Path, options: BatchOptions, model: str | None
) -> None:
    """Refuse to go on, before anything is written, where maps were made with other options."""
    wanted = options.settings(model or '')
    others: list[str] = []
    differences: dict[str, None] = {}
    for task in tasks:
        file = options.files(task, folder)['change']
        made = _settings_of(file) if file.exists() else None
        found = made and {
            f'{key}: {_text(made.get(key))} there, {_text(wanted.get(key))} now'
            for key in {*made, *wanted}
            if (key != 'model' or model) and _text(made.get(key)) != _text(wanted.get(key))
        }
        if found:
            others.append(str(file))
            differences |= dict.fromkeys(sorted(found))
    if others:
        raise UserError(
            f'{folder} has {len(others)} maps made with other options ({some(others, 3)}): '
            f'{"; ".join(differences)}. Go on with the options that they were made with, name '
            'another folder, or replace them with --overwrite beside --resume'
        )


def _settings_of(file: Path) -> dict[str, Any] | None:
    """The settings that a change map was made with, where it says so."""
    try:
        found = json.loads(_tags(file).get(_OPTIONS, ''))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _text(value: Any) -> str:
    return 'not given' if value is None else json.dumps(value)


def _earlier(path: Path) -> dict[str, Row]:
    """Rows of an earlier run that tell how long a pair took; none of a damaged table."""
    if not path.is_file():
        return {}
    try:
        return {row['name']: row for row in read_results(path)}
    except UserError as error:
        print(f'warning: {error}', file=sys.stderr)
        return {}


@dataclass
class _Worker:
    """Predicts pairs with one model in one process."""

    inferencer: ChangeInferencer
    identity: str
    folder: Path
    options: BatchOptions
    earlier: Mapping[str, Row]

    def run(
        self, tasks: Iterable[PairTask], results: Results, finished: Callable[[Row], None]
    ) -> None:
        for task in tasks:
            start = time.perf_counter()
            try:
                row = self.predict(task)
            except Exception as error:
                message = str(error) if isinstance(error, UserError) else os_error_message(error)
                if message is None:
                    traceback.print_exc()
                    message = f'{type(error).__name__}: {error}'
                row = _row(
                    task,
                    FAILED,
                    error=' '.join(message.split()),
                    seconds=round(time.perf_counter() - start, 3),
                )
            results.put(row)
            finished(row)

    def predict(self, task: PairTask) -> Row:
        files = self.options.files(task, self.folder)
        key = self.options.run_key(task, self.identity)
        dates = self._dates(task) if self.options.items else None
        if self.options.resume and files['change'].exists():
            tags = _tags(files['change'])
            is_same = tags.get(_RUN) == key
            if is_same and _are_complete(files, key):
                return self._kept(task, files, float(tags['MTKD_CD_CAR']), dates)
            if not is_same and not self.options.overwrite:
                raise UserError(
                    f'{files["change"]} is there, of another model, input or option: --resume and '
                    '--overwrite together replace such outputs'
                )
        hidden = self.folder / _FOLDER / 'bands' / task.name
        a, b = (
            stacked_bands(date, hidden.with_name(f'{hidden.name}.{name}.vrt'))
            for name, date in (('a', task.a), ('b', task.b))
        )
        wanted = dict(self.options.raster)
        for name in ('mask', 'date_a', 'date_b'):
            wanted[name] = getattr(task, name) or wanted.get(name)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)  # they are in the report
            result = self.inferencer.predict_raster(
                a,
                b,
                files['change'],
                probability=files.get('probability'),
                vector=files.get('vector'),
                tags=dict(run=key, run_options=self.options.settings(self.identity)),
                **{**wanted, 'overwrite': self.options.overwrite or self.options.resume},
            )
        row = _row(
            task,
            DONE,
            car=result.car,
            area_m2='' if result.area_m2 is None else result.area_m2,
            seconds=round(result.seconds, 3),
            warnings=' | '.join(result.report['warnings']),
        )
        self._describe(task, files, row, dates)
        return row

    def _kept(
        self,
        task: PairTask,
        files: Mapping[str, Path],
        car: float,
        dates: tuple[str, str] | None,
    ) -> Row:
        for file in files.values():
            remove_leftovers(file)
        before = self.earlier.get(task.name, {})
        known = before if before.get('status') == DONE else {}
        area = _changed_area(files['change'])
        row = _row(
            task,
            DONE,
            car=car,
            area_m2=known.get('area_m2', '') if area == '' else area,
            seconds=known.get('seconds', ''),
            warnings=known.get('warnings', ''),
        )
        self._describe(task, files, row, dates)
        return row

    def _dates(self, task: PairTask) -> tuple[str, str]:
        pystac = require('pystac', 'stac', '--stac')
        found = []
        for name, files in (('a', task.a), ('b', task.b)):
            date = getattr(task, f'date_{name}') or self.options.raster.get(f'date_{name}')
            date = date or date_of(files[0])
            if date is None:
                raise UserError(
                    f'{task.name}: a STAC item has dates, and nothing says that of {files[0]}: '
                    'give the columns date_a and date_b'
                )
            parsed_date(pystac, task.name, date)
            found.append(date)
        return found[0], found[1]

    def _describe(
        self,
        task: PairTask,
        files: Mapping[str, Path],
        row: Row,
        dates: tuple[str, str] | None,
    ) -> None:
        if dates is None:
            return
        area = row['area_m2']
        facts = dict(
            model=self.inferencer.card.name,
            precision=as_record(self.inferencer.model.precision),
            car=row['car'],
            area_m2=None if area == '' else area,
        )
        write_item(files['change'].with_suffix('.json'), task, files, dates, facts)


def _are_complete(files: Mapping[str, Path], key: str) -> bool:
    """Whether the files beside the change map are there too, and of its run."""
    probability = files.get('probability')
    if probability is not None and _tags(probability).get(_RUN) != key:
        return False
    return all(file.exists() for file in files.values())


def _tags(path: Path) -> dict[str, str]:
    rasterio = require('rasterio', 'geo', '--resume')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as dataset:
                return dataset.tags()
        except rasterio.errors.RasterioIOError:
            return {}


def _changed_area(path: Path) -> float | str:
    """Square metres of a change map, as the prediction counts them; empty without a CRS, which a
    PNG never has."""
    rasterio = require('rasterio', 'geo', '--resume')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            areas = Grid.of(dataset).pixel_areas()
            if areas is None:
                return ''
            changed = np.zeros(dataset.height, np.int64)
            for _, window in dataset.block_windows(1):
                block = dataset.read(1, window=window)
                changed[window.row_off : window.row_off + len(block)] += (block == 1).sum(1)
    return float((changed * areas).sum())


class _Shards:
    """The parts of a batch, one process each, which write tables of their own.

    Args:
        hidden: Folder of the tables.
        tasks: The pairs.
        count: Of shards, at most.
    """

    def __init__(self, hidden: Path, tasks: list[PairTask], count: int) -> None:
        for file in hidden.glob('shard_*.csv'):
            file.unlink()
        count = min(count, len(tasks))
        self.parts = {hidden / f'shard_{index}.csv': tasks[index::count] for index in range(count)}
        self._seen: dict[Path, int] = {}

    def run(
        self,
        source: ModelSource,
        folder: Path,
        options: BatchOptions,
        results: Results,
        earlier: Mapping[str, Row],
        cluster: Cluster,
        retries: int,
        finished: Callable[[Row], None],
    ) -> None:
        jobs = [
            Job(path.stem, run_shard, (source, part, folder, options, path, _of(part, earlier)))
            for path, part in self.parts.items()
        ]
        ends: dict[str, Outcome] = {}
        run_jobs(
            jobs,
            cluster,
            retries,
            ended=lambda job, outcome: ends.update({job.name: outcome}),
            looked=lambda: self._gather(results, finished),
        )
        self._gather(results, finished)
        for job, part in zip(jobs, self.parts.values()):
            outcome = ends.get(job.name, Outcome())
            if outcome.error is None:
                continue
            if not outcome.retry:  # a mistake of the user that is none of a pair: the model
                raise UserError(outcome.error)
            for task in part:
                if results.rows[task.name]['status'] == WAITING:
                    error = f'its process ended: {" ".join(outcome.error.split())}'
                    results.put(_row(task, FAILED, error=error))
                    finished(results.rows[task.name])

    def _gather(self, results: Results, finished: Callable[[Row], None]) -> None:
        """Bring what the shards have written since into one table."""
        for path in self.parts:
            if not path.is_file() or self._seen.get(path) == path.stat().st_mtime_ns:
                continue
            self._seen[path] = path.stat().st_mtime_ns
            for row in read_results(path):
                if row['status'] != WAITING and results.rows[row['name']]['status'] == WAITING:
                    results.put(row)
                    finished(row)


def _of(tasks: Sequence[PairTask], rows: Mapping[str, Row]) -> dict[str, Row]:
    return {task.name: rows[task.name] for task in tasks if task.name in rows}


def run_shard(
    source: ModelSource,
    tasks: Sequence[PairTask],
    folder: Path,
    options: BatchOptions,
    path: Path,
    earlier: Mapping[str, Row],
) -> None:
    """Predict a part of a batch in a process of its own.

    A shard that was killed and is started again keeps what it has done: the pairs in its table, and
    outputs that nothing but its own first try can have written.

    Args:
        source: The model.
        tasks: The part.
        folder: Of the outputs.
        options: What is wanted.
        path: The table of the part.
        earlier: Rows of its pairs in an earlier batch.
    """
    results = Results(path, tasks)
    over = {name: row for name, row in _earlier(path).items() if row['status'] != WAITING}
    for name, row in over.items():
        results.rows[name] = row
    if not options.overwrite:
        options = dataclasses.replace(options, resume=True)
    inferencer = source.open()
    worker = _Worker(inferencer, source.identity(inferencer), folder, options, earlier)
    try:
        worker.run((task for task in tasks if task.name not in over), results, lambda row: None)
    finally:
        results.write()
