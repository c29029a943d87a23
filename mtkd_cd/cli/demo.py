"""Open a page for the browser: give two images, see and download what changed. Works without a
network."""

import argparse
from collections.abc import Sequence
from functools import partial

from mtkd_cd.cli.common import add_device_argument, at_least
from mtkd_cd.core.allocator import pass_over_imports


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until the process is told to end."""
    args = _parser().parse_args(argv)
    from mtkd_cd.core.extras import require

    require('gradio', 'demo', 'the page')  # before the model is opened

    from mtkd_cd.demo.served import open_served
    from mtkd_cd.demo.server import PageServer
    from mtkd_cd.demo.uploads import Limits

    server = PageServer(
        partial(open_served, args.model, device=args.device),
        host=args.host,
        port=args.port,
        limits=Limits(int(args.max_upload * 1e6), int(args.max_pixels * 1e6)),
    )
    pass_over_imports()
    print(f'{server.served.name} on {server.url} (Ctrl-C ends it)', flush=True)
    server.run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'model',
        nargs='?',
        help="a bundle, an exported network, or the TinyCD authors' .pth; default: the bundle that "
        '`make demo` leaves',
    )
    parser.add_argument(
        '--host', default='127.0.0.1', help='0.0.0.0: other machines may open the page, too'
    )
    parser.add_argument('--port', type=at_least(0), default=7860, help='0: any that is free')
    parser.add_argument(
        '--max-upload', type=_above_zero, default=100.0, metavar='MB', help='of one image'
    )
    parser.add_argument(
        '--max-pixels', type=_above_zero, default=16.0, metavar='MILLION', help='of one image'
    )
    add_device_argument(parser)
    return parser


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r}: a number above 0 is needed')
    return number
