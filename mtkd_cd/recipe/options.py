# ruff: noqa: RUF009  (`option` makes a dataclass field)
"""The options of the recipe: one dataclass, from whose fields the command lines are made.

A field of :class:`RecipeOptions` made with :func:`option` is an option of every tool that runs the
recipe, and a setting of an experiment. Its name, type, default and help text stand nowhere else;
:mod:`mtkd_cd.cli.options` makes the arguments of the fields.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtkd_cd.core.car import DEFAULT_THRESHOLDS
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.precision import PRECISIONS, WHEN_IT_PAYS
from mtkd_cd.core.strategy import MATCHES, TEACHINGS, WORK_DIRS, Layout, Strategy

# Kinds of the strategies that make up the paper's recipe.
PAPER_KINDS = ('origin', 'partition', 'op', 'mtkd')
SPECIALISTS_FROM = ('config', 'origin')


def option(
    help: str,
    default: Any = None,
    *,
    least: int | None = None,
    choices: Sequence[str] = (),
    also: Sequence[str] = (),
    of: str = 'run',
) -> Any:
    """A field that is an option of the command line.

    Args:
        help: Its line in ``--help``.
        default: Its default; ``None`` leaves a config's own value.
        least: Its smallest value.
        choices: Its values.
        also: Further spellings.
        of: What it says something about: ``run``, each run of an experiment too; ``strategy``, the
            variant; ``call``, this call alone.
    """
    made = {'default_factory': dict} if isinstance(default, Mapping) else {'default': default}
    metadata = dict(help=help, least=least, choices=choices, also=also, of=of)
    return field(**made, metadata=metadata)


@dataclass(frozen=True)
class RecipeOptions:
    """What may differ from the shipped configs, the same for all strategies.

    ``configs`` is the folder with ``origin/<model>.py``; ``None`` leaves a config's own value. All
    changes are made to the origin's config, from which the strategies derive theirs.

    Raises:
        UserError: A value that is not among the choices, a bad threshold.
    """

    configs: Path
    work_dir: Path = option(
        'strategies keep their files in <work dir>/<strategy>/<model>, tables and report are in '
        '<work dir>/report/<model>',
        Path(WORK_DIRS),
        of='call',
    )
    data_root: Path | None = option(
        'folder with train/ and test/ (and val/, else a tenth of train is held out)'
    )
    dataset_type: str | None = option(
        "registered data set class, default: the config's, JL1_CD_Dataset"
    )
    bands: str | None = option(
        "bands that the model takes, from 1, red, green and blue first: '4,3,2,8'"
    )
    radiometry: str | None = option(
        "how values become 0..255, for other than 8-bit images: 'linear(low=0, high=3000)'"
    )
    image_size: int | None = option('resize images to this side', least=1)
    crop_size: int | None = option(
        'side of training crops and, unless images are resized, of test windows', least=1
    )
    iters: int | None = option('iterations of the origin and of each specialist', least=1)
    specialist_iters: int | None = option(
        'iterations of each specialist, default: --iters', least=1
    )
    specialists_from: str = option(
        "what specialists start from: the config's initial weights, as in the paper, or the "
        "origin's, where there are no pretrained weights and too few images of a range",
        'config',
        choices=SPECIALISTS_FROM,
    )
    student_iters: int | None = option(
        'iterations of the student and of `continued`, default: half of --iters', least=1
    )
    batch_size: int | None = option('pairs per step and process', least=1)
    num_workers: int | None = option('loader processes', least=0)
    val_interval: int | None = option('iterations between validations', least=1)
    thresholds: Sequence[float] | None = option(
        'CAR thresholds between the specialists; 0.1 alone makes two teachers', of='strategy'
    )
    routing: str = option(
        'how an image finds its specialist: by its CAR, by validation scores; a student alone by '
        "the origin always, by the cascade's choice, by the best teacher on the image",
        'car',
        choices=TEACHINGS,
        of='strategy',
    )
    teachers: str | None = option(
        "another model, whose finished detectors teach the student in place of the model's own",
        of='strategy',
    )
    match: str = option(
        "what of the teacher's change map the student matches: the raw map as in the paper, "
        'probabilities, log-odds; other than the raw map counts fully, whatever lambda is',
        'mse',
        choices=MATCHES,
        of='strategy',
    )
    folds: int | None = option(
        'train so many specialists of each range, each without one part of the pairs, and let them '
        'teach the part that they have not seen',
        least=2,
        of='strategy',
    )
    seed: int | None = option('seed of every run', of='call')
    lr: float | None = option('learning rate')
    loss_weight: float | None = option(
        "weight of the distillation loss, the paper's lambda", also=('--lambda',)
    )
    amp: bool = option('mixed precision: float16 on a GPU, bfloat16 on the CPU', False)
    compile: bool = option(
        "torch.compile of every training's features and head, the student's teachers included: "
        'minutes first, then faster steps',
        False,
    )
    cache: str = option(
        'where to keep decoded images, for all loader processes',
        'none',
        choices=('none', 'ram', 'disk'),
    )
    accumulate: int | None = option(
        'batches whose gradients are added up before each step of the optimiser', least=1
    )
    checkpoint_activations: bool = option(
        'less memory, more time: compute transformer layers again in the backward pass', False
    )
    teacher_precision: str | None = option(
        f"in what a student's teachers compute, default: float32; {WHEN_IT_PAYS}",
        choices=PRECISIONS,
    )
    device: str = option('where to run', 'auto', choices=('auto', 'cpu', 'cuda'))
    launcher: str = option(
        'how processes were started',
        'none',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        of='call',
    )
    show_dir: Path | None = option(
        'write pictures of each test image to <strategy>/ here', of='call'
    )
    tta: bool = option(
        "average over views of each test pair: the config's tta_pipeline, else mirrored both ways",
        False,
    )
    tables: str = option(
        'format of the per-image tables; json holds model, strategy and seed too',
        'json',
        choices=('json', 'csv'),
    )
    bundle: bool = option(
        'leave the student as a bundle beside its weights, one file to predict with', True
    )
    keep_checkpoints: bool = option(
        'keep the checkpoints that a finished training could be resumed from', True
    )
    cfg_options: Mapping[str, Any] = option("override entries of the origin's config", {})

    def __post_init__(self) -> None:
        for one in option_fields():
            value, choices = getattr(self, one.name), one.metadata['choices']
            if choices and value not in (*choices, one.default):
                raise UserError(f'{one.name}={value!r}: choose one of {", ".join(choices)}')
            least = one.metadata['least']
            if least is not None and value is not None and not _counts(value, least):
                raise UserError(f'{one.name}={value!r}: a whole number from {least} up is needed')
        self.strategy('mtkd')

    def strategy(self, kind: str) -> Strategy:
        """The strategy of this kind in the variant that the options ask for."""
        given = self.thresholds or DEFAULT_THRESHOLDS
        thresholds = (given,) if isinstance(given, (int, float)) else tuple(given)
        teachers = self.teachers or ''
        name = Path(teachers).stem if teachers.endswith('.py') else teachers
        return Strategy(kind, thresholds, self.routing, name, self.match, self.folds or 0)

    def layout(self, model: str) -> Layout:
        """Where the files of a model are."""
        return Layout(model, Path(self.work_dir))


def _counts(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def option_fields(*scopes: str) -> Iterator[dataclasses.Field]:
    """The fields that are options; with ``scopes``, those that say something about one of them."""
    for one in dataclasses.fields(RecipeOptions):
        if one.metadata and (not scopes or one.metadata['of'] in scopes):
            yield one
