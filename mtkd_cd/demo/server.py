"""Serves the page: one process, nothing fetched from elsewhere, temporary files removed."""

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.demo.examples import make_examples
from mtkd_cd.demo.served import Served
from mtkd_cd.demo.sessions import KEPT_SECONDS, SWEEP_SECONDS, Sessions
from mtkd_cd.demo.uploads import Limits

# What the browser may load: what this server sends, and nothing else.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:"
)
_PURPOSE = 'the page'
# Files that are larger than the limit by this factor are cut off while they arrive, with Gradio's
# message; smaller ones are refused by the page's own check, with ours.
_UPLOADED = 4


class PageServer:
    """The page on an address.

    Args:
        served: Opens the model, given a folder for temporary files.
        host: To listen on.
        port: To listen on; 0: any that is free.
        limits: What is too large.

    Raises:
        UserError: An extra is missing, or the address cannot be had.
    """

    def __init__(
        self,
        served: Callable[[Path], Served] | Served,
        host: str = '127.0.0.1',
        port: int = 7860,
        limits: Limits | None = None,
    ) -> None:
        os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read when Gradio is imported
        os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')
        require('gradio', 'demo', _PURPOSE)
        require('rasterio', 'geo', _PURPOSE)
        require('pyogrio', 'geo', _PURPOSE)
        self.limits = limits or Limits()
        self._closing = ExitStack()
        self._thread: threading.Thread | None = None
        try:
            self._socket = self._closing.enter_context(_listen(host, port))
            self.host, self.port = host, self._socket.getsockname()[1]
            self.folder = Path(
                self._closing.enter_context(tempfile.TemporaryDirectory(prefix='mtkd-cd-demo-'))
            )
            self.served = served if isinstance(served, Served) else served(self.folder)
            self.sessions = Sessions(self.folder)
            self._server = self._make_server()
        except BaseException:
            self._closing.close()
            raise

    @property
    def url(self) -> str:
        """Where the page is, for a browser on this machine."""
        host = '127.0.0.1' if self.host in ('0.0.0.0', '::', '') else self.host
        return f'http://[{host}]:{self.port}' if ':' in host else f'http://{host}:{self.port}'

    def run(self) -> None:
        """Serve until the process is told to end (Ctrl-C, SIGTERM); then remove what is left."""
        if threading.current_thread() is threading.main_thread():
            # uvicorn sends itself the signal again when it has ended, which must not kill us here.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        ended = threading.Event()
        threading.Thread(target=self._sweep, args=(ended,), daemon=True).start()
        logger = logging.getLogger('uvicorn.error')
        logger.addFilter(self._still_serving)
        with self._closing:
            try:
                with suppress(KeyboardInterrupt):
                    self._server.run(sockets=[self._socket])
            finally:
                ended.set()
                logger.removeFilter(self._still_serving)

    def _still_serving(self, record: logging.LogRecord) -> bool:
        """Pages that are open when the server ends are no error."""
        return not self._server.should_exit

    def _sweep(self, ended: threading.Event) -> None:
        while not ended.wait(SWEEP_SECONDS):
            self.sessions.sweep(KEPT_SECONDS)

    def start(self) -> 'PageServer':
        """Serve in a thread, for tests and notebooks; :meth:`stop` ends it."""
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End what :meth:`start` began."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(30)

    def _make_server(self) -> Any:
        # Gradio asks for its folder when parts are made and when files arrive.
        os.environ['GRADIO_TEMP_DIR'] = str(self.folder / 'files')
        gradio = require('gradio', 'demo', _PURPOSE)
        uvicorn = require('uvicorn', 'demo', _PURPOSE)
        fastapi = require('fastapi', 'demo', _PURPOSE)
        from mtkd_cd.demo.page import CSS, build_page, theme

        examples = make_examples(self.served.inferencer.card, self.folder / 'examples')
        page = build_page(self.served, self.sessions, self.limits, examples)
        app = gradio.mount_gradio_app(
            fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
            page,
            path='/',
            server_name=self.host,
            server_port=self.port,
            max_file_size=_UPLOADED * self.limits.file_bytes,
            allowed_paths=[str(self.folder)],
            show_error=True,
            footer_links=['api'],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            theme=theme(),
            head=f'<style>\n{CSS.read_text()}</style>',  # as `css` it would lose its reach
        )
        config = uvicorn.Config(_with_policy(app), log_level='warning', timeout_graceful_shutdown=1)
        return uvicorn.Server(config)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port that is taken is found before a model is loaded."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, 'strerror', None) or error
        raise UserError(
            f'{host}:{port} cannot be listened on ({reason}): choose another --port (0 takes any '
            'that is free) or --host'
        ) from None
    return bound


def _with_policy(app: Any) -> Any:
    """The application, whose answers forbid the browser to load from elsewhere."""
    headers = [
        (b'content-security-policy', _POLICY.encode()),
        (b'referrer-policy', b'no-referrer'),
        (b'x-content-type-options', b'nosniff'),
    ]

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message['type'] == 'http.response.start':
                message = {**message, 'headers': [*message.get('headers', []), *headers]}
            await send(message)

        await app(scope, receive, with_headers if scope['type'] == 'http' else send)

    return wrapped
