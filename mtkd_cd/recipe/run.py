"""The machine that works through the steps of the recipe and leaves results, report and bundle."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.registry import DefaultScope

from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.locks import alone
from mtkd_cd.core.strategy import BEST, Layout, Strategy, of_each_fold, training_command
from mtkd_cd.engine.config import check_exists, innermost_data, is_type
from mtkd_cd.engine.open_data import open_test_data
from mtkd_cd.engine.record import check_settings, read_record, settings_of
from mtkd_cd.engine.schedule import schedulers_of
from mtkd_cd.engine.training import prepare_training, run_training
from mtkd_cd.models.mtkd.building import build_detector
from mtkd_cd.models.mtkd.calibration import calibrate_routing
from mtkd_cd.models.mtkd.routing import ORIGIN
from mtkd_cd.recipe.collect import collect_results, write_curves
from mtkd_cd.recipe.configs import model_name, step_config, teachers_config
from mtkd_cd.recipe.options import PAPER_KINDS, RecipeOptions
from mtkd_cd.recipe.results import RecipeResults
from mtkd_cd.recipe.steps import ROUTING, Step, announce, recipe
from mtkd_cd.recipe.testing import run_test_once, validation_table
from mtkd_cd.reporting.summaries import recipe_markdown


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
            announce(f'[{number}/{len(steps)}] {step}: {_summary(step, cfg)}')
            if step in prepared:
                run_training(prepared[step], resume=True, terse=True)
                if not options.keep_checkpoints and is_main_process():
                    drop_checkpoints(Path(cfg.work_dir))
            elif step.action == 'validate':
                _find_routing(step, model, options)
            else:
                show_dir = options.show_dir / step.strategy.text if options.show_dir else None
                run_test_once(
                    cfg, layout.table(step.strategy, options.tables), step.strategy, show_dir
                )
                if step.strategy.kind == 'mtkd' and options.bundle and is_main_process():
                    _bundle_student(step, model, options)
        results = collect_results(layout)
        if is_main_process():
            results.write(layout.report)
            with atomic_write(layout.report / 'report.md') as file:
                file.write(recipe_markdown(results))
            write_curves(layout)
        barrier()
        return results


def _check_start_of_folds(options: RecipeOptions) -> None:
    """Refuse specialists of folds that have seen all images through the weights they start from."""
    if options.strategy('partition').folds and options.specialists_from == 'origin':
        raise UserError(
            f'folds={options.folds} and specialists_from=origin: the origin has seen the fold that '
            'its specialists are not to see; use --specialists-from config'
        )


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
    cfg = teachers_config(options)
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


def _summary(step: Step, cfg: Config) -> str:
    if step.action != 'train':
        return cfg.work_dir
    warmups = (one for one in schedulers_of(cfg) if is_type(one, 'LinearLR'))
    warmup = next((one.get('end', 0) for one in warmups), 0)
    epochs = cfg.train_cfg.get('max_epochs')
    length = f'{epochs} epochs' if epochs else f'{cfg.train_cfg.max_iters} iterations'
    unit = 'epochs' if epochs and cfg.train_cfg.get('val_by_epoch', True) else 'iterations'
    schedule = f'{length}, warm-up {warmup}'
    if interval := cfg.get('val_dataloader') and cfg.train_cfg.get('val_interval'):
        schedule += f', validation every {interval} {unit}'
    return f'{schedule}, in {cfg.work_dir}'


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
        announce(f'no bundle of the student: {error}')
    else:
        announce(f'bundle of the student: {path}')


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
