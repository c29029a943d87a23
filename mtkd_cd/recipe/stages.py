"""The paper's recipe (arXiv:2502.13407, sections 4.1 and 4.2) as data, and the machine that works
through it."""

import csv
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process

from mtkd_cd.core.car import DEFAULT_THRESHOLDS
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.engine import config as adjust
from mtkd_cd.engine import read_curve
from mtkd_cd.engine.record import check_settings, read_json, read_record, settings_of, write_json
from mtkd_cd.engine.run import BEST, open_test_data, prepare_training, run_test, run_training
from mtkd_cd.evaluation import ImageTable, load_table
from mtkd_cd.models.mtkd.calibration import calibrate_routing
from mtkd_cd.models.mtkd.routing import FILENAME as ROUTING
from mtkd_cd.models.mtkd.routing import ORIGIN
from mtkd_cd.recipe.report import Report
from mtkd_cd.recipe.variant import Variant, parse_strategy, strategy_name

STAGES = ('origin', 'partition', 'op', 'mtkd')
OPTIONAL_STAGES = ('continued',)
SPECIALISTS_FROM = ('config', 'origin')
TEST_RECORD = 'test.json'
CURVES = 'curves.csv'


@dataclass(frozen=True)
class Step:
    """One training run or one test.

    Attributes:
        stage: The strategy, which is the folder of the config: ``origin``, ``partition``, ``op``,
            ``continued``, ``mtkd``; or ``routing``.
        action: What is done; ``validate`` tests origin and specialists on the validation split.
        range: The CAR range of a specialist.
        variant: What of the recipe's variant concerns the stage.
    """

    stage: str
    action: Literal['train', 'validate', 'test']
    range: str | None = None
    variant: Variant = adjust.DEFAULT_VARIANT

    @property
    def strategy(self) -> str:
        """The stage and its variant, as folders and tables are called."""
        return strategy_name(self.stage, self.variant)

    def place(self, model: str, work_dir: Path) -> Path:
        """Where the step keeps its files."""
        return adjust.stage_dir(self.stage, model, self.range, work_dir, self.variant)

    def __str__(self) -> str:
        return f'{self.action} {self.strategy}{f"/{self.range}" if self.range else ""}'


def recipe(variant: Variant = adjust.DEFAULT_VARIANT) -> list[Step]:
    """All steps in their order: the origin learns from everything, a specialist from each CAR
    range; the cascade of them needs no
    training; the control is the origin trained on alone; the student starts from the origin and is
    taught by the specialists. A validated routing is found before the cascade and the student
    follow it.
    """
    routing = (
        [Step('routing', 'validate', variant=variant.of('routing'))]
        if variant.routing == 'validated'
        else []
    )
    return [
        Step('origin', 'train'),
        Step('origin', 'test'),
        *(
            Step('partition', 'train', name, variant.of('partition'))
            for name in variant.partition.names
        ),
        *routing,
        Step('op', 'test', variant=variant),
        Step('continued', 'train'),
        Step('continued', 'test'),
        Step('mtkd', 'train', variant=variant),
        Step('mtkd', 'test', variant=variant),
    ]


@dataclass
class RecipeOptions:
    """What may differ from the shipped configs, the same for all stages; ``None`` leaves a config's
    own value.

    Attributes:
        configs: Folder with ``origin/``, ``partition/``, ``op/``, ``continued/`` and ``mtkd/``.
        work_dir: Stages keep their files in ``<work_dir>/<stage>[@<variant>]/<model>[/<range>]``,
            the tables go to ``<work_dir>/report/<model>``.
        data_root: Folder of the data.
        dataset_type: Registered name of the data set class.
        iters: Iterations of the origin and of each specialist.
        specialist_iters: Iterations of each specialist, where they are not the origin's.
        specialists_from: What specialists start from: ``config``, the initial weights of the
            configs, as in the paper; ``origin``, the origin's, where there are no pretrained
            weights and too few images of a range to learn from.
        student_iters: Iterations of the student, and of the control; default: half of ``iters``, as
            in the paper.
        image_size: Side in pixels to which images are resized; ``None``: native resolution.
        crop_size: Side of training crops and, unless images are resized, of test windows.
        batch_size: Pairs per training step and process.
        num_workers: Loader processes.
        val_interval: Iterations between validations.
        thresholds: CAR thresholds between the specialists. Others than the default make a variant,
            which shares the origin.
        routing: How an image finds its specialist, see :class:`~mtkd_cd.recipe.variant.Variant`.
        seed: Seed of every run.
        lr: Learning rate.
        loss_weight: The paper's lambda, the weight of the distillation loss.
        amp: Mixed precision.
        device: ``auto``, ``cpu`` or ``cuda``.
        launcher: As in mmengine.
        show_dir: Where to write a picture of each test image, in ``origin/``, ``op/`` and
            ``mtkd/``.
        keep_checkpoints: Whether a finished training keeps the checkpoints that it could have been
            resumed from, optimiser and all.
        cfg_options: Changes to the origin's config, from which all stages derive.

    Raises:
        UserError: Another ``specialists_from`` than these two.
    """

    configs: Path
    work_dir: Path = Path(adjust.WORK_DIRS)
    data_root: Path | None = None
    dataset_type: str | None = None
    iters: int | None = None
    specialist_iters: int | None = None
    specialists_from: str = 'config'
    student_iters: int | None = None
    image_size: int | None = None
    crop_size: int | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    val_interval: int | None = None
    thresholds: Sequence[float] | None = None
    routing: str = 'car'
    seed: int | None = None
    lr: float | None = None
    loss_weight: float | None = None
    amp: bool = False
    device: str = 'auto'
    launcher: str = 'none'
    show_dir: Path | None = None
    keep_checkpoints: bool = True
    cfg_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.specialists_from not in SPECIALISTS_FROM:
            raise UserError(
                f'specialists_from={self.specialists_from!r}: choose one of '
                f'{", ".join(SPECIALISTS_FROM)}'
            )

    @property
    def variant(self) -> Variant:
        """The variant of the recipe."""
        return Variant(tuple(self.thresholds or DEFAULT_THRESHOLDS), self.routing)


def run_recipe(
    model: str, options: RecipeOptions, stages: Sequence[str] = STAGES, tests: bool = True
) -> Report:
    """Work through the recipe; what is finished is skipped, what was interrupted goes on.

    Args:
        model: Name of a benchmark model.
        options: See there.
        stages: Those to do now, a validated routing being part of those that follow it; the report
            covers whatever has been tested.
        tests: Whether to test too; without, the test split is not read.

    Returns:
        The report, which is also written to ``<work_dir>/report/<model>``.

    Raises:
        UserError: Unknown model, a work dir that holds a run with other settings, bad data.
    """
    known = sorted(path.stem for path in (options.configs / 'origin').glob('*.py'))
    if model not in known:
        raise UserError(f'unknown model {model!r}: {adjust.closest(model, known)}')
    routed = not {'op', 'mtkd'}.isdisjoint(stages)
    steps = [
        step
        for step in recipe(options.variant)
        if step.stage in stages or (step.stage == 'routing' and routed)
    ]
    steps = [step for step in steps if tests or step.action != 'test']
    configs = [step_config(step, model, options) for step in steps]
    # All settings and all data, before the first hours are spent.
    prepared = {
        step: prepare_training(cfg) for step, cfg in zip(steps, configs) if step.action == 'train'
    }
    for cfg in [cfg for step, cfg in zip(steps, configs) if step.action == 'test'][:1]:
        open_test_data(cfg)
    report_dir = options.work_dir / 'report' / model
    for number, (step, cfg) in enumerate(zip(steps, configs), 1):
        _announce(f'[{number}/{len(steps)}] {step}: {_summary(step, cfg)}')
        if step in prepared:
            run_training(prepared[step], resume=True, terse=True)
            if not options.keep_checkpoints and is_main_process():
                drop_checkpoints(Path(cfg.work_dir))
        elif step.action == 'validate':
            _find_routing(step, model, options)
        else:
            show_dir = options.show_dir / step.strategy if options.show_dir else None
            _test_once(cfg, report_dir / f'{step.strategy}.csv', show_dir)
    report = collect_report(model, options.work_dir)
    if is_main_process():
        report.write(report_dir)
        _write_curves(model, options.work_dir, report_dir / CURVES)
    barrier()
    return report


def step_config(step: Step, model: str, options: RecipeOptions) -> Config:
    """The shipped config of a step, adjusted."""
    cfg = adjust.load_config(
        options.configs / ('origin' if step.stage == 'routing' else step.stage) / f'{model}.py'
    )
    adjust.merge_options(
        cfg, {_place_of_option(cfg, key): value for key, value in options.cfg_options.items()}
    )
    adjust.set_machine(cfg, options.device, options.launcher)
    if options.data_root is not None or options.dataset_type is not None:
        adjust.set_data(cfg, options.data_root, options.dataset_type)
    if options.image_size is not None:
        adjust.set_image_size(cfg, options.image_size)
    if options.crop_size is not None:
        adjust.set_crop_size(cfg, options.crop_size)
    adjust.set_loaders(cfg, options.batch_size, options.num_workers)
    if step.variant.thresholds != DEFAULT_THRESHOLDS:
        adjust.set_thresholds(cfg, step.variant.thresholds)
    if step.variant.routing != 'car':
        cfg.model.routing = step.variant.routing
    if step.range is not None:
        adjust.set_partition(cfg, step.range)
    adjust.set_checkpoints(cfg, options.work_dir)
    if step.stage == 'partition' and options.specialists_from == 'origin':
        cfg.load_from = str(Step('origin', 'train').place(model, options.work_dir) / BEST)
    iters = options.iters
    if step.stage == 'partition':
        iters = options.specialist_iters or iters
    elif step.stage in ('continued', 'mtkd'):
        iters = options.student_iters or (max(1, iters // 2) if iters else None)
    if step.stage == 'mtkd' and options.loss_weight is not None:
        cfg.model.distill_loss.loss_weight = options.loss_weight
    if iters is not None:
        adjust.set_iters(cfg, iters)
    if options.val_interval is not None:
        adjust.set_val_interval(cfg, options.val_interval)
    if options.lr is not None:
        cfg.optim_wrapper.optimizer.lr = options.lr
    if options.seed is not None:
        cfg.randomness.seed = options.seed
    if options.amp:
        adjust.set_amp(cfg)
    cfg.work_dir = str(step.place(model, options.work_dir))
    return cfg


def _place_of_option(cfg: Config, key: str) -> str:
    """Where an entry of the origin's config is in a config derived from it."""
    for path in ('model', 'train_dataloader.dataset', 'val_dataloader.dataset'):
        if key == path or key.startswith(f'{path}.'):
            node = cfg._cfg_dict
            for part in path.split('.'):
                node = node[part]
            for wrapped in ('student', 'origin', 'dataset'):
                if isinstance(node.get(wrapped), dict):
                    return f'{path}.{wrapped}{key.removeprefix(path)}'
    return key


def _summary(step: Step, cfg: Config) -> str:
    if step.action != 'train':
        return cfg.work_dir
    warmup = next(
        (scheduler.end for scheduler in cfg.param_scheduler if scheduler.type == 'LinearLR'), 0
    )
    epochs = cfg.train_cfg.get('max_epochs')
    length = f'{epochs} epochs' if epochs else f'{cfg.train_cfg.max_iters} iterations'
    unit = 'epochs' if epochs and cfg.train_cfg.get('val_by_epoch', True) else 'iterations'
    schedule = f'{length}, warm-up {warmup}, validation every {cfg.train_cfg.val_interval} {unit}'
    return f'{schedule}, in {cfg.work_dir}'


def _find_routing(step: Step, model: str, options: RecipeOptions) -> None:
    """Test the origin and every specialist on the whole validation split; who scores best where
    serves there."""
    place, partition = step.place(model, options.work_dir), step.variant.partition
    tables = {}
    for name in (ORIGIN, *partition.names):
        source = (
            Step(ORIGIN, 'train')
            if name == ORIGIN
            else Step('partition', 'train', name, step.variant)
        )
        weights = source.place(model, options.work_dir) / BEST
        tables[name] = validation_table(step_config(step, model, options), place / name, weights)
    if is_main_process():
        calibrate_routing(tables, partition).save(place / ROUTING)
    barrier()


def validation_table(cfg: Config, place: Path, weights: Path) -> ImageTable:
    """Test on the validation split, unless it has been done before.

    Args:
        cfg: Config of a step.
        place: Folder for logs and the record; the per-image table goes beside it, ``<place>.json``.
        weights: What to test; a cascade brings its own.

    Returns:
        The per-image table.

    Raises:
        UserError: No validation split, or no weights.
    """
    adjust.set_test_data_to_validation(cfg)
    cfg.work_dir = str(place)
    table = place.with_name(f'{place.name}.json')
    _test_once(cfg, table, weights=weights)
    return load_table(table)


def _test_once(
    cfg: Config, table: Path, show_dir: Path | None = None, weights: Path | None = None
) -> None:
    """Test, unless these weights, by default those of the work dir, have been tested like this
    before."""
    if is_tested(cfg, table, weights) and (show_dir is None or show_dir.is_dir()):
        return
    record_path = Path(cfg.work_dir) / TEST_RECORD
    stamp = _test_stamp(cfg, weights)
    start = time.monotonic()
    tested = None if adjust.is_cascade(cfg) else weights or Path(cfg.work_dir) / BEST
    cfg.work_dir = str(Path(cfg.work_dir) / 'test')
    metrics = run_test(cfg, tested, out=table, show_dir=show_dir, terse=True)
    if is_main_process():
        write_json(
            record_path, dict(stamp=stamp, metrics=metrics, seconds=time.monotonic() - start)
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
    record = read_json(Path(cfg.work_dir) / TEST_RECORD)
    return _test_stamp(cfg, weights) == (record or {}).get('stamp') and table.is_file()


def _test_stamp(cfg: Config, weights: Path | None) -> dict[str, Any]:
    own = [weights or Path(cfg.work_dir) / BEST]
    files = (
        [Path(path) for path in adjust.starting_weights(cfg).values()]
        if adjust.is_cascade(cfg)
        else own
    )
    for path in files:
        adjust.check_exists(path, str(path))
    test = {key: cfg.get(key) for key in ('model', 'test_dataloader', 'test_evaluator')}
    return dict(
        test=repr(test),
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
    for path in (*place.glob('iter_*.pth'), place / 'last_checkpoint'):
        path.unlink(missing_ok=True)


def _write_curves(model: str, work_dir: Path, path: Path) -> None:
    """The validation curves of all trainings, in one table."""
    steps = [
        step
        for variant in variants_of(model, work_dir)
        for step in recipe(variant)
        if step.action == 'train'
    ]
    rows = [
        dict(strategy=step.strategy, range=step.range or '', iter=point['iter'], mIoU=point['mIoU'])
        for step in dict.fromkeys(steps)
        for point in read_curve(step.place(model, work_dir) / 'curve.csv')
    ]
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, ('strategy', 'range', 'iter', 'mIoU'), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def collect_report(model: str, work_dir: Path) -> Report:
    """What the stages' records say: the metrics of every test and the time of every step, of every
    variant that is there."""
    report = Report(model)
    for variant in variants_of(model, work_dir):
        for step in recipe(variant):
            record = (
                read_json(
                    step.place(model, work_dir)
                    / ('run.json' if step.action == 'train' else TEST_RECORD)
                )
                or {}
            )
            if 'seconds' in record:
                report.seconds[str(step)] = record['seconds']
                if step.stage == 'partition':
                    report.ranges[step.strategy] = str(variant.partition)
            if 'metrics' in record:
                report.metrics[step.strategy] = record['metrics']
    return report


def variants_of(model: str, work_dir: Path) -> list[Variant]:
    """The default, and the variants that have files under ``work_dir``."""
    found = set()
    for place in work_dir.glob(f'*@*/{model}'):
        with suppress(UserError):  # folders that are none of the recipe's
            found.add(parse_strategy(place.parent.name, STAGES)[1])
    return [Variant(), *sorted(found, key=str)]


def _announce(text: str) -> None:
    if is_main_process():
        print(text, flush=True)
