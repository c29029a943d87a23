"""The whole recipe for one model: origin, specialists, O-P test, student, test, one table. Call it again after an interruption."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import is_main_process

from mtkd_cd.workflow.cli import add_machine_arguments, add_run_arguments, at_least, run_tool
from mtkd_cd.workflow.stages import OPTIONAL_STAGES, STAGES, RecipeOptions, run_recipe
from mtkd_cd.workflow.variant import ROUTINGS


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe; without options, as in the paper."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', help='name of a benchmark model, for instance changer_mitb0')
    parser.add_argument('--data-root', help='folder with train/ and test/ (and val/, else a tenth of train is held out)')
    parser.add_argument('--dataset-type', help='registered data set class, default JL1_CD_Dataset')
    parser.add_argument('--stages', nargs='+', choices=(*STAGES, *OPTIONAL_STAGES), default=STAGES)
    parser.add_argument('--iters', type=at_least(1), help='iterations of the origin and of each specialist')
    parser.add_argument('--student-iters', type=at_least(1), help='iterations of the student and of `continued`, default: half of --iters')
    parser.add_argument('--image-size', type=at_least(1), help='side of training crops and test images')
    parser.add_argument('--batch-size', type=at_least(1), help='pairs per step and process')
    parser.add_argument('--num-workers', type=at_least(0), help='loader processes')
    parser.add_argument('--val-interval', type=at_least(1), help='iterations between validations')
    parser.add_argument('--thresholds', nargs='+', type=float, help='CAR thresholds; 0.1 alone makes two teachers')
    parser.add_argument('--routing', choices=ROUTINGS, default='car', help='how an image finds its specialist')
    parser.add_argument('--seed', type=int)
    parser.add_argument('--lr', type=float, help='learning rate')
    parser.add_argument('--loss-weight', '--lambda', type=float, help="weight of the distillation loss, the paper's lambda")
    parser.add_argument('--amp', action='store_true', help='mixed precision: float16 on a GPU, bfloat16 on the CPU')
    parser.add_argument('--show-dir', type=Path, help='write pictures of each test image to origin/, op/ and mtkd/ here')
    add_run_arguments(parser)
    add_machine_arguments(parser)
    parser.set_defaults(work_dir='work_dirs')
    args = parser.parse_args(argv)

    options = RecipeOptions(
        configs=Path(__file__).resolve().parents[1] / 'configs',
        work_dir=Path(args.work_dir),
        **{
            name: getattr(args, name)
            for name in (
                *('data_root', 'dataset_type', 'iters', 'student_iters', 'image_size', 'batch_size', 'num_workers', 'val_interval'),
                *('thresholds', 'routing', 'seed', 'lr', 'loss_weight', 'amp', 'device', 'launcher', 'show_dir', 'cfg_options'),
            )
        },
    )
    report = run_recipe(args.model, options, args.stages)
    if is_main_process():
        print(f'\n{report.as_markdown()}\nwritten to {options.work_dir / "report" / args.model}')


if __name__ == '__main__':
    run_tool(main)
