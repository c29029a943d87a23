"""Make a bundle, a trained model as one file; say what is in one; check that it computes here what
it did where it was made."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mtkd_cd.core.errors import UserError

_ACTIONS = ('create', 'inspect', 'verify')


def main(argv: Sequence[str] | None = None) -> None:
    """Run the action."""
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest='action', required=True, metavar='{create,inspect,verify}')
    create = actions.add_parser('create', help='from a config and its weights')
    _add_create_arguments(create)
    for action, text in zip(_ACTIONS[1:], ('print the card', 'replay the golden pair')):
        sub = actions.add_parser(action, help=text)
        sub.add_argument('bundle', metavar='FILE.mtkd')
    args = parser.parse_args(argv)
    dict(create=_create, inspect=_inspect, verify=_verify)[args.action](args)


def _add_create_arguments(parser: argparse.ArgumentParser) -> None:
    from mtkd_cd.cli.common import add_data_arguments, add_device_argument, add_run_arguments

    parser.add_argument('config', metavar='CONFIG', help='for instance configs/mtkd/tinycd.py')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        metavar='CHECKPOINT',
        help='weights, also a published TinyCD file; default: what the training left',
    )
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='FILE.mtkd')
    parser.add_argument('--name', help='name of the model; default: the name of the file')
    parser.add_argument('--data', default='', help='what it was trained on, a sentence')
    parser.add_argument('--licence', default='', help='licence of the weights')
    parser.add_argument('--notes', default='', help='anything else to know')
    parser.add_argument('--gsd', type=float, metavar='M', help='ground sample distance in metres')
    parser.add_argument(
        '--training-size', type=int, metavar='PIXELS', help='default: what the config crops to'
    )
    parser.add_argument('--threshold', type=float, help='instead of choosing it on validation')
    parser.add_argument(
        '--no-validation', action='store_true', help='threshold 0.5 and temperature 1'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace FILE.mtkd')
    add_device_argument(parser)
    add_data_arguments(parser)
    add_run_arguments(parser)


def _create(args: argparse.Namespace) -> None:
    from mtkd_cd.cli.common import apply_data_arguments
    from mtkd_cd.engine.config import load_config
    from mtkd_cd.inference.bundle import Facts, create_bundle

    if args.out.exists() and not args.overwrite:
        raise UserError(f'{args.out} exists: choose another name, or pass --overwrite')
    if args.gsd is not None and not args.gsd > 0:
        raise UserError(f'--gsd {args.gsd:g}: metres per pixel are above 0')
    cfg = load_config(args.config, args.cfg_options)
    apply_data_arguments(cfg, args)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    bundle = create_bundle(
        cfg,
        args.checkpoint,
        args.out,
        facts=Facts(args.data, args.licence, args.notes),
        name=args.name,
        gsd_m=args.gsd,
        training_size=args.training_size,
        threshold=args.threshold,
        validation=not args.no_validation,
        device=args.device,
        progress=_progress if sys.stderr.isatty() else None,
    )
    print(bundle.readme)
    print(f'written to {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)')


def _progress(done: int, total: int) -> None:
    print(f'\rvalidation {done} / {total}', end='\n' if done == total else '', file=sys.stderr)


def _inspect(args: argparse.Namespace) -> None:
    from mtkd_cd.inference.bundle import Bundle

    bundle = Bundle.open(args.bundle)
    description = dict(bundle.description)
    calibration = description.get('calibration')
    if calibration:
        curve = calibration['curve']
        description['calibration'] = dict(calibration, curve=f'{len(curve)} thresholds')
    print(json.dumps(description, indent=1))


def _verify(args: argparse.Namespace) -> None:
    from mtkd_cd.inference.bundle import verify_bundle

    difference = verify_bundle(args.bundle)
    print(f'{args.bundle}: every part has its hash, the golden pair differs by {difference:.1e}')
