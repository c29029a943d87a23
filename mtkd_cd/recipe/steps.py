"""The paper's recipe (arXiv:2502.13407, sections 4.1 and 4.2): its steps as data, and the machine
that works through them."""

import copy
import csv
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.registry import DefaultScope

from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.locks import alone
from mtkd_cd.core.precision import FULL
from mtkd_cd.core.strategy import (
    BEST,
    CURVES,
    Layout,
    Strategy,
    of_each_fold,
    specialist_name,
    training_command,
)
from mtkd_cd.core.text import closest, csv_row
from mtkd_cd.data.images import band_numbers
from mtkd_cd.data.stamp import stamp_changes
from mtkd_cd.engine import read_curve
from mtkd_cd.engine.checkup import TRAINING_NEEDS
from mtkd_cd.engine.config import (
    check_exists,
    innermost_data,
    is_cascade,
    is_type,
    load_config,
    merge_options,
    precision_of,
    starting_weights,
)
from mtkd_cd.engine.costs import COSTS, compile_teachers, set_costs, set_teacher_precision
from mtkd_cd.engine.image_size import set_crop_size, set_image_size
from mtkd_cd.engine.inputs import (
    set_bands,
    set_data,
    set_loaders,
    set_radiometry,
    set_test_data_to_validation,
)
from mtkd_cd.engine.machine import set_machine
from mtkd_cd.engine.open_data import open_test_data, stamp_of_test_data
from mtkd_cd.engine.record import (
    check_settings,
    file_digest,
    flat,
    name_of,
    read_record,
    read_test_record,
    settings_of,
    write_json,
)
from mtkd_cd.engine.schedule import set_iters, set_val_interval
from mtkd_cd.engine.testing import run_test, set_provenance
from mtkd_cd.engine.training import prepare_training, run_training
from mtkd_cd.evaluation import ImageTable, load_table
from mtkd_cd.evaluation.metric import PREFIX
from mtkd_cd.models.mtkd.building import build_detector
from mtkd_cd.models.mtkd.calibration import calibrate_routing
from mtkd_cd.models.mtkd.routing import ORIGIN
from mtkd_cd.recipe.derive import derive, distillation_loss
from mtkd_cd.recipe.options import PAPER_KINDS, RecipeOptions
from mtkd_cd.recipe.results import RecipeResults, StepTime
from mtkd_cd.reporting.summaries import recipe_markdown

ROUTING = 'routing'
DEFAULT = Strategy('mtkd')  # the paper's variant
TEST_RECORD = 'test.json'
# Derivation gives the student a schedule of its own; the user's options go before it.
_OF_SCHEDULE = ('train_cfg', 'param_scheduler', 'default_hooks')


@dataclass(frozen=True)
class Step:
    """One training run or one test.

    Attributes:
        strategy: What is trained or tested.
        action: What is done; ``validate`` tests origin and specialists on the validation split.
        range: The CAR range of a specialist.
        fold: The fold that a specialist does not see, where there are folds.
    """

    strategy: Strategy
    action: Literal['train', 'validate', 'test']
    range: str | None = None
    fold: int | None = None

    @property
    def specialist(self) -> str | None:
        """``small``, or ``small_0`` with folds; ``None`` for what is no specialist's."""
        return specialist_name(self.range, self.fold) if self.range else None

    def place(self, layout: Layout) -> Path:
        """Where the step keeps its files."""
        return layout.place(self.strategy, self.range, self.fold)

    def __str__(self) -> str:
        """``train partition@0.1/small``, ``train partition@folds5/small_0``."""
        return f'{self.action} {self.strategy}{f"/{self.specialist}" if self.range else ""}'


def fold_of_step(strategy: Strategy, fold: int | None) -> int | None:
    """The fold of one training, the first by default; ``None`` where the training has none.

    Raises:
        UserError: There is no such fold.
    """
    folds = strategy.folds if strategy.kind == 'partition' else 0
    if fold is not None and fold >= folds:
        there_are = f'there are 0 to {folds - 1}' if folds else 'it trains on no folds'
        raise UserError(f'fold {fold} of {strategy}: {there_are}')
    return (fold or 0) if folds else None


def recipe(variant: Strategy = DEFAULT) -> list[Step]:
    """All steps in their order.

    The origin learns from everything, a specialist from each CAR range. The cascade of them needs
    no training. The control is the origin trained on alone. The student starts from the origin and
    is taught by the specialists. A validated routing is found before cascade and student use it.
    Teachers of another model have been trained by that model's own recipe. With folds, a range has
    a specialist for each, and there is no cascade: its specialists have seen all images.

    Args:
        variant: A strategy with the wanted thresholds and routing.
    """
    specialists = variant.of('partition')
    if variant.teachers:  # all of their steps are done
        return [
            Step(strategy, action)
            for strategy in (Strategy('origin'), Strategy('continued'), variant.of('mtkd'))
            for action in ('train', 'test')
        ]
    routing = [Step(variant.of(ROUTING), 'validate')] if variant.routing == 'validated' else []
    return [
        Step(Strategy('origin'), 'train'),
        Step(Strategy('origin'), 'test'),
        *(
            Step(specialists, 'train', name, fold)
            for fold in (range(specialists.folds) if specialists.folds else [None])
            for name in specialists.partition.names
        ),
        *routing,
        *([] if specialists.folds else [Step(variant.of('op'), 'test')]),
        Step(Strategy('continued'), 'train'),
        Step(Strategy('continued'), 'test'),
        Step(variant.of('mtkd'), 'train'),
        Step(variant.of('mtkd'), 'test'),
    ]


def run_recipe(
    model: str, options: RecipeOptions, kinds: Sequence[str] = PAPER_KINDS, tests: bool = True
) -> RecipeResults:
    """Work through the recipe; what is finished is skipped, what was interrupted goes on.

    Args:
        model: Name of a benchmark model, or path of the config of an origin.
        options: See there.
        kinds: Kinds of the strategies to do now, a validated routing being part of those that
            follow it; the results cover whatever has been tested.
        tests: Whether to test too; without, the test split is not read.

    Returns:
        The results; ``<work_dir>/report/<model>/report.json`` and ``report.md`` say the same.

    Raises:
        UserError: Unknown model, a work dir that holds a run with other settings, bad data.
    """
    routed = not {'op', 'mtkd'}.isdisjoint(kinds)
    steps = [
        step
        for step in recipe(options.strategy('mtkd'))
        if step.strategy.kind in kinds or (step.strategy.kind == ROUTING and routed)
    ]
    steps = [step for step in steps if tests or step.action != 'test']
    configs = [step_config(step, model, options) for step in steps]
    layout = options.layout(model_name(model))
    _check_start_of_folds(options)
    _check_teachers(layout, options, kinds)
    # All settings and all data, before the first hours are spent.
    prepared = {
        step: prepare_training(cfg) for step, cfg in zip(steps, configs) if step.action == 'train'
    }
    for cfg in [cfg for step, cfg in zip(steps, configs) if step.action == 'test'][:1]:
        open_test_data(cfg)
    # One process of a distributed run stands for all.
    lock = layout.root / f'.{layout.model}.lock'
    with (
        alone(lock, what=f'{layout.root} ({layout.model})') if is_main_process() else nullcontext()
    ):
        for number, (step, cfg) in enumerate(zip(steps, configs), 1):
            _announce(f'[{number}/{len(steps)}] {step}: {_summary(step, cfg)}')
            if step in prepared:
                run_training(prepared[step], resume=True, terse=True)
                if not options.keep_checkpoints and is_main_process():
                    drop_checkpoints(Path(cfg.work_dir))
            elif step.action == 'validate':
                _find_routing(step, model, options)
            else:
                show_dir = options.show_dir / step.strategy.text if options.show_dir else None
                _test_once(
                    cfg, layout.table(step.strategy, options.tables), step.strategy, show_dir
                )
                if step.strategy.kind == 'mtkd' and options.bundle and is_main_process():
                    _bundle_student(step, model, options)
        results = collect_results(layout)
        if is_main_process():
            results.write(layout.report)
            with atomic_write(layout.report / 'report.md') as file:
                file.write(recipe_markdown(results))
            _write_curves(layout)
        barrier()
        return results


def model_name(model: str) -> str:
    """The name of a model that was given by its name or by the path of its config."""
    return Path(model).stem if model.endswith('.py') else model


def origin_config(model: str, options: RecipeOptions) -> Config:
    """The origin's config with all that the user has changed.

    Raises:
        UserError: Unknown model, or an option that the config has no place for.
    """
    if model.endswith('.py'):
        cfg = load_config(model, needs=TRAINING_NEEDS)
    else:
        known = sorted(path.stem for path in (options.configs / 'origin').glob('*.py'))
        if model not in known:
            raise UserError(f'unknown model {model!r}: {closest(model, known)}')
        cfg = load_config(options.configs / 'origin' / f'{model}.py')
    merge_options(cfg, options.cfg_options)
    set_machine(cfg, options.device, options.launcher)
    if options.data_root is not None or options.dataset_type is not None:
        set_data(cfg, options.data_root, options.dataset_type)
    if options.bands is not None:
        set_bands(cfg, band_numbers(options.bands))
    if options.radiometry is not None:
        set_radiometry(cfg, options.radiometry)
    if options.image_size is not None:
        set_image_size(cfg, options.image_size)
    if options.crop_size is not None:
        set_crop_size(cfg, options.crop_size)
    set_loaders(cfg, options.batch_size, options.num_workers)
    if options.lr is not None:
        cfg.optim_wrapper.optimizer.lr = options.lr
    if options.seed is not None:
        cfg.setdefault('randomness', {})['seed'] = options.seed
    costs = {name: getattr(options, name) for name in COSTS}
    set_costs(cfg, **costs | dict(teacher_precision=None))  # it has no teachers yet
    return cfg


def step_config(step: Step, model: str, options: RecipeOptions) -> Config:
    """The config of a step: the origin's, the user's changes, then what the strategy changes."""
    name, kind = model_name(model), step.strategy.kind
    layout = options.layout(name)
    cfg = derive(
        origin_config(model, options),
        step.strategy,
        step.range,
        fold=step.fold,
        root=layout.root,
        distill_loss=_distillation_loss(model, options) if kind == 'mtkd' else None,
        teachers=_teachers_config(options) if kind == 'mtkd' else None,
    )
    again = {key: value for key, value in options.cfg_options.items() if _is_of_schedule(key)}
    merge_options(cfg, again)
    if kind == 'partition' and options.specialists_from == 'origin':
        cfg.load_from = str(layout.weights(Strategy('origin')))
    if kind == 'mtkd' and options.compile:
        compile_teachers(cfg)
    if kind == 'mtkd' and options.teacher_precision is not None:
        set_teacher_precision(cfg, options.teacher_precision)
    if kind == 'origin':
        _set_student_schedule(cfg, options)
    iters = _iterations(kind, options)
    if iters is not None:
        set_iters(cfg, iters)
    if options.val_interval is not None:
        set_val_interval(cfg, options.val_interval)
    cfg.work_dir = str(step.place(layout))
    if options.tta:
        cfg.tta = True
    return cfg


def _teachers_config(options: RecipeOptions) -> Config | None:
    """The origin's config of the model that teaches; the user's entries are for the student's."""
    if options.teachers is None:
        return None
    return origin_config(options.teachers, dataclasses.replace(options, cfg_options={}))


def _check_teachers(layout: Layout, options: RecipeOptions, kinds: Sequence[str]) -> None:
    """Refuse teachers of another model that are not finished, or are built otherwise than its
    config says, before anything is trained."""
    strategy = options.strategy('mtkd')
    if not strategy.teachers or strategy.kind not in kinds:
        return
    config = options.teachers if str(options.teachers).endswith('.py') else None
    files = of_each_fold(layout.checkpoints(strategy), strategy.folds)
    del files['student']
    if strategy.routing == 'validated':
        files['routing'] = str(layout.routing(strategy))
    for name, path in files.items():
        check_exists(path, f'{path} ({name} of the teachers)', config)
        record = read_record(Path(path).parent) if name != 'routing' else {}
        if record and not record.get('finished'):  # weights from elsewhere have no record
            raise UserError(
                f'{path} ({name} of the teachers) is of a training that has not finished. '
                f'To finish it: {training_command(path, config)}'
            )
    _check_architecture(options, next(iter(files.values())))


def _check_architecture(options: RecipeOptions, path: str) -> None:
    """Refuse a teacher whose weights do not fit the model that will be built for them: it may have
    been trained with entries of its own."""
    cfg = _teachers_config(options)
    assert cfg is not None
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mtkd_cd')):
        detector = build_detector(cfg.model, cfg.get('data_preprocessor'))
    try:
        load_weights(detector, path)
    except UserError as error:
        raise UserError(
            f'--teachers {options.teachers}: {error}. --cfg-options are for the student: write '
            "the teachers' entries in a config, and give its path as --teachers"
        ) from None


def _check_start_of_folds(options: RecipeOptions) -> None:
    """Refuse specialists of folds that have seen all images through the weights they start from."""
    if options.strategy('partition').folds and options.specialists_from == 'origin':
        raise UserError(
            f'folds={options.folds} and specialists_from=origin: the origin has seen the fold that '
            'its specialists are not to see; use --specialists-from config'
        )


def _is_of_schedule(key: str) -> bool:
    return key.partition('.')[0] in _OF_SCHEDULE


def _iterations(kind: str, options: RecipeOptions) -> int | None:
    if kind == 'partition':
        return options.specialist_iters or options.iters
    if kind in ('continued', 'mtkd'):
        half = max(1, options.iters // 2) if options.iters else None
        return options.student_iters or half
    return options.iters


def _set_student_schedule(cfg: Config, options: RecipeOptions) -> None:
    """Let an origin's config say how long its student trains: once it is written to a file, the
    options are gone. Call it before the origin's own schedule is changed."""
    iters = _iterations('mtkd', options)
    if iters is None:
        return
    student = copy.deepcopy(cfg)
    if 'student_train_cfg' in cfg:
        loop = {key: cfg.train_cfg[key] for key in ('type',) if key in cfg.train_cfg}
        student.train_cfg = {**loop, **student.student_train_cfg}
        student.param_scheduler = student.get('student_param_scheduler', [])
    set_iters(student, iters)
    if options.val_interval is not None:
        set_val_interval(student, options.val_interval)
    if options.iters is None and 'max_epochs' in cfg.train_cfg:
        student.train_cfg['_delete_'] = True  # the origin goes on to count epochs
    cfg.student_train_cfg = student.train_cfg
    cfg.student_param_scheduler = student.param_scheduler


def _distillation_loss(model: str, options: RecipeOptions) -> dict[str, Any] | None:
    """That of ``configs/mtkd/<model>.py``, which states the paper's lambda, where there is one."""
    path = options.configs / 'mtkd' / f'{model}.py'
    loss: dict[str, Any] | None = None
    if not model.endswith('.py') and path.is_file():
        loss = dict(load_config(path).model.distill_loss)
    if options.loss_weight is not None:
        loss = (loss or distillation_loss(0.0)) | dict(loss_weight=options.loss_weight)
    return loss


def _summary(step: Step, cfg: Config) -> str:
    if step.action != 'train':
        return cfg.work_dir
    schedulers = cfg.get('param_scheduler') or []
    schedulers = schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]
    warmup = next((one.get('end', 0) for one in schedulers if is_type(one, 'LinearLR')), 0)
    epochs = cfg.train_cfg.get('max_epochs')
    length = f'{epochs} epochs' if epochs else f'{cfg.train_cfg.max_iters} iterations'
    unit = 'epochs' if epochs and cfg.train_cfg.get('val_by_epoch', True) else 'iterations'
    schedule = f'{length}, warm-up {warmup}'
    if interval := cfg.get('val_dataloader') and cfg.train_cfg.get('val_interval'):
        schedule += f', validation every {interval} {unit}'
    return f'{schedule}, in {cfg.work_dir}'


def _bundle_student(step: Step, model: str, options: RecipeOptions) -> None:
    """Leave the student as a bundle beside its weights, unless one of these weights is there."""
    from mtkd_cd.inference.bundle import SUFFIX, Facts, create_bundle

    layout = options.layout(model_name(model))
    weights = step.place(layout) / BEST
    path = weights.with_name(f'{layout.model}{SUFFIX}')
    if path.is_file() and path.stat().st_mtime_ns >= weights.stat().st_mtime_ns:
        return
    cfg = step_config(step, model, options)
    data = innermost_data(cfg.train_dataloader.dataset)
    facts = Facts(data=f'train split of {data.get("data_root", "")}')
    try:
        create_bundle(cfg, weights, path, facts=facts, name=layout.model)
    except UserError as error:  # the student and its scores are there
        _announce(f'no bundle of the student: {error}')
    else:
        _announce(f'bundle of the student: {path}')


def _find_routing(step: Step, model: str, options: RecipeOptions) -> None:
    """Test the origin and every specialist on the whole validation split; who scores best where
    serves there."""
    layout, partition = options.layout(model_name(model)), step.strategy.partition
    specialists = step.strategy.of('partition')
    sources = {ORIGIN: Step(Strategy('origin'), 'train')} | {
        name: Step(specialists, 'train', name) for name in partition.names
    }
    tables = {}
    for name, source in sources.items():
        weights = source.place(layout) / BEST
        cfg = step_config(step, model, options)
        place = step.place(layout) / name
        tables[name] = validation_table(cfg, place, source.strategy, weights)
    if is_main_process():
        calibrate_routing(tables, partition).save(layout.routing(step.strategy))
    barrier()


def validation_table(cfg: Config, place: Path, strategy: Strategy, weights: Path) -> ImageTable:
    """Test on the validation split, unless it has been done before.

    Args:
        cfg: Config of a step.
        place: Folder for logs and the record; the per-image table goes beside it, ``<place>.json``.
        strategy: What is tested, for the table to say so.
        weights: What to test; a cascade brings its own.

    Returns:
        The per-image table.

    Raises:
        UserError: No validation split, or no weights.
    """
    set_test_data_to_validation(cfg)
    cfg.work_dir = str(place)
    table = place.with_name(f'{place.name}.json')
    _test_once(cfg, table, strategy, weights=weights)
    return load_table(table)


def _test_once(
    cfg: Config,
    table: Path,
    strategy: Strategy,
    show_dir: Path | None = None,
    weights: Path | None = None,
) -> None:
    """Test, unless these weights, by default those of the work dir, have been tested, and drawn to
    ``show_dir``, like this before."""
    record_path = Path(cfg.work_dir) / TEST_RECORD
    record = read_test_record(record_path)
    pictures = None if show_dir is None else str(show_dir.resolve())
    drawn = show_dir is None or (show_dir.is_dir() and record.get('pictures') == pictures)
    if drawn and is_tested(cfg, table, weights):
        return
    stamp, data = _test_stamp(cfg, weights), stamp_of_test_data(cfg)
    _say_what_changed(cfg, record, stamp, data)
    start = time.monotonic()
    tested = None if is_cascade(cfg) else weights or Path(cfg.work_dir) / BEST
    cfg.work_dir = str(Path(cfg.work_dir) / 'test')
    set_provenance(cfg, strategy)
    metrics = run_test(cfg, tested, out=table, show_dir=show_dir, terse=True)
    # Reports give the scores of the tables, whatever other metrics a config has beside ours.
    own = f'{PREFIX}/'
    metrics |= {
        key.removeprefix(own): value for key, value in metrics.items() if key.startswith(own)
    }
    if is_main_process():
        for other in {'.json', '.csv'} - {table.suffix}:  # of the same test, in the other format
            table.with_suffix(other).unlink(missing_ok=True)
        write_json(
            record_path,
            dict(
                stamp=stamp,
                data=data,
                metrics=metrics,
                seconds=time.monotonic() - start,
                pictures=pictures,
            ),
        )
    barrier()


def is_tested(cfg: Config, table: Path, weights: Path | None = None) -> bool:
    """Whether the per-image table is that of a step's present weights, tested as its config says.

    Args:
        cfg: The step's config.
        table: Where the table is.
        weights: Other weights than those of the step's own training.

    Raises:
        UserError: There are no weights to test; names the command that makes them.
    """
    record = read_test_record(Path(cfg.work_dir) / TEST_RECORD)
    if not record or _test_stamp(cfg, weights) != record.get('stamp'):
        return False
    return table.is_file() and stamp_of_test_data(cfg) == record.get('data')


def _say_what_changed(
    cfg: Config, record: Mapping[str, Any], stamp: Any, data: dict[str, str]
) -> None:
    """Before a test is done again."""
    if not isinstance(record.get('data'), dict):
        return
    reasons = []
    if record.get('stamp') != stamp:
        reasons.append('its weights or its settings have changed')
    if text := stamp_changes(record['data'], data):
        reasons.append(f'its data have changed: {text}')
    if reasons:
        _announce(f'tested again, in {cfg.work_dir}: {"; ".join(reasons)}')


def _test_stamp(cfg: Config, weights: Path | None) -> dict[str, Any]:
    own = [weights or Path(cfg.work_dir) / BEST]
    files = [Path(path) for path in starting_weights(cfg).values()] if is_cascade(cfg) else own
    for path in files:
        check_exists(path, str(path), cfg.filename)
    views = ('tta_model', 'tta_pipeline') if cfg.get('tta') else ()
    # A loop with more than its type, as fp16; means and deviations at the top of a config.
    more = [key for key in ('test_cfg', 'data_preprocessor') if len(cfg.get(key) or ()) > 1]
    keys = ('model', 'test_dataloader', 'test_evaluator', 'tta', *views, *more)
    test = {key: cfg.get(key) for key in keys}
    if (precision := precision_of(cfg)) != FULL:
        test['precision'] = precision
    return dict(
        test=json.dumps(test, default=name_of, sort_keys=True),
        weights=[[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
    )


def is_trained(cfg: Config) -> bool:
    """Whether a step's training has finished.

    Raises:
        UserError: Its work dir holds a run with other settings.
    """
    check_settings(cfg.work_dir, settings_of(cfg))
    return bool(read_record(cfg.work_dir).get('finished')) and (Path(cfg.work_dir) / BEST).is_file()


def drop_checkpoints(place: Path) -> None:
    """Delete what a training in this work dir could be resumed from; the best weights stay."""
    numbered = (*place.glob('iter_*.pth'), *place.glob('epoch_*.pth'))
    for path in (*numbered, place / 'last_checkpoint'):
        path.unlink(missing_ok=True)


def _write_curves(layout: Layout) -> None:
    """The validation curves of all trainings, in one table."""
    steps = [step for step in _steps_of(layout) if step.action == 'train']
    rows = [
        dict(
            strategy=step.strategy.text,
            range=step.specialist or '',
            iter=point['iter'],
            mIoU=point['mIoU'],
        )
        for step in steps
        for point in read_curve(step.place(layout) / 'curve.csv')
        if point.get('mIoU')  # which not every config validates
    ]
    with atomic_write(layout.report / CURVES) as file:
        writer = csv.DictWriter(file, ('strategy', 'range', 'iter', 'mIoU'), lineterminator='\n')
        writer.writeheader()
        writer.writerows(map(csv_row, rows))


def collect_results(layout: Layout) -> RecipeResults:
    """Read the metrics of every test and the time of every step from the records of all variants
    that have files. Tests that followed from another origin than is there now are left out."""
    results = RecipeResults(layout.model)
    is_outdated = _outdated_beside(layout)
    for step in _steps_of(layout):
        place = step.place(layout)
        training = step.action == 'train'
        record = read_record(place) if training else read_test_record(place / TEST_RECORD)
        if record.get('seconds') is not None:
            results.times.append(
                StepTime(step.action, step.strategy, step.specialist, record['seconds'])
            )
        if record.get('metrics') and is_outdated(step, record):
            results.outdated.append(step.strategy)
        elif record.get('metrics'):
            results.metrics[step.strategy] = record['metrics']
    return results


def _outdated_beside(layout: Layout) -> Callable[[Step, Mapping[str, Any]], bool]:
    """What tells whether a test, by its record, followed from another origin than there is now, or
    was on other data or done otherwise than the origin's test."""
    weights = layout.weights(Strategy('origin'))
    digest = file_digest(weights) if weights.is_file() else None
    origin = read_test_record(weights.with_name(TEST_RECORD))
    data, stamps, way = origin.get('data'), _tested_weights(origin), _way_of_test(origin)

    def is_outdated(step: Step, record: Mapping[str, Any]) -> bool:
        started = read_record(step.place(layout)).get('settings', {})
        of_origin = {'continued': 'weights.start', 'mtkd': 'weights.student'}
        start = started.get(of_origin.get(step.strategy.kind, ''))
        of_record = _way_of_test(record)
        return (
            (start is not None and digest is not None and start != digest)
            or (data is not None and record.get('data', data) != data)
            or bool(way and of_record and way != of_record)
            or any(stamps.get(path, row) != row for path, row in _tested_weights(record).items())
        )

    return is_outdated


def _tested_weights(record: Mapping[str, Any]) -> dict[str, list]:
    """[path, size, time] of the files of a test, by path."""
    stamp = record.get('stamp')
    rows = stamp.get('weights') if isinstance(stamp, dict) else None
    rows = rows if isinstance(rows, list) else []
    return {str(row[0]): row for row in rows if isinstance(row, list) and row}


def _way_of_test(record: Mapping[str, Any]) -> dict[str, Any]:
    """What decides on the scores of a test beside its weights and the content of its data: how
    images are read and resized, views, metrics. Empty where a record does not tell."""
    stamp = record.get('stamp')
    text = stamp.get('test') if isinstance(stamp, dict) else None
    try:
        test = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return {}
    if not isinstance(test, dict):
        return {}
    data = test.get('test_dataloader') or {}
    keys = ('test_evaluator', 'test_cfg', 'tta', 'tta_pipeline', 'precision')
    return flat({'dataset': data.get('dataset'), **{key: test.get(key) for key in keys}})


def _steps_of(layout: Layout) -> list[Step]:
    """The steps of every variant that has files, each once."""
    steps = [step for variant in layout.variants() for step in recipe(variant)]
    return list(dict.fromkeys(steps))


def _announce(text: str) -> None:
    if is_main_process():
        print(text, flush=True)
