"""The page itself, of Gradio's parts. Imported where Gradio is installed."""

import logging
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import os_error_message
from mtkd_cd.demo import text
from mtkd_cd.demo.examples import Example
from mtkd_cd.demo.prediction import Choices, Prediction, predict
from mtkd_cd.demo.served import Served
from mtkd_cd.demo.sessions import KEPT_SECONDS, SWEEP_SECONDS, Sessions
from mtkd_cd.demo.uploads import Limits, check_upload

CSS = Path(__file__).with_name('page.css')
_GSD = {
    'refuse another scale': None,
    'keep: predict as it is': 'keep',
    "model: resample to the model's": 'model',
}
_FILES = ('change', 'probability', 'polygons')
_logger = logging.getLogger(__name__)


def theme() -> gr.themes.Base:
    """Gradio's plain theme in the system's fonts: nothing is fetched."""
    fonts = ('system-ui', '-apple-system', 'Segoe UI', 'sans-serif')
    return gr.themes.Default(font=fonts, font_mono=('ui-monospace', 'Consolas', 'monospace'))


class Handlers:
    """What the page's buttons do, as values for its parts.

    Args:
        served: The model.
        sessions: Predictions that are kept.
        limits: What is too large.
    """

    def __init__(self, served: Served, sessions: Sessions, limits: Limits) -> None:
        self.served = served
        self.sessions = sessions
        self.limits = limits

    def predict(self, visitor: str, a: str | None, b: str | None, choices: Choices) -> Prediction:
        """Predict two uploads, and keep the prediction for the visitor."""
        folder = self.sessions.new_folder()
        try:
            prediction = predict(self.served.inferencer, a, b, folder, self.limits, choices)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.sessions.keep(visitor, prediction)
        return prediction


def problem_of(error: Exception) -> str:
    """What to say of an error; what is no mistake of the user's goes to the log."""
    if isinstance(error, UserError):
        return str(error)
    message = os_error_message(error)
    if message is None:
        _logger.error('the page failed', exc_info=error)
        if isinstance(error, MemoryError):
            return 'the server has too little memory for these images: cut them'
        return 'something went wrong in the program itself; the log of the server says what'
    return message


def build_page(
    served: Served, sessions: Sessions, limits: Limits, examples: list[Example]
) -> gr.Blocks:
    """The page.

    Args:
        served: The model.
        sessions: Predictions that are kept.
        limits: What is too large.
        examples: Pairs to try.
    """
    handlers = Handlers(served, sessions, limits)
    megabytes, pixels = limits.file_bytes / 1e6, limits.pixels / 1e6
    with gr.Blocks(
        title='mtkd-cd: what changed?',
        analytics_enabled=False,
        delete_cache=(SWEEP_SECONDS, KEPT_SECONDS),
    ) as page:
        gr.HTML(text.header(served), elem_classes='intro', padding=False)
        with gr.Row():
            kind = 'PNG, JPEG or GeoTIFF'
            a = gr.File(
                label=f'Image A, before ({kind})', height=128, min_width=260, elem_id='image-a'
            )
            b = gr.File(
                label=f'Image B, after ({kind})', height=128, min_width=260, elem_id='image-b'
            )
        gallery = gr.Gallery(
            [(str(example.thumbnail), example.title) for example in examples],
            label='Or a made-up example, A beside B',
            columns=3,
            height='auto',
            allow_preview=False,
            interactive=False,
            visible=bool(examples),
            elem_id='examples',
            buttons=[],
        )
        with gr.Accordion('Options', open=False):
            gr.Markdown(
                f'Files of up to {megabytes:g} MB and {pixels:g} million pixels. '
                'The names in brackets are those of `mtkd-cd predict`.'
            )
            with gr.Row():
                gsd = gr.Dropdown(
                    list(_GSD),
                    value=next(iter(_GSD)),
                    label='Ground sample distance (--gsd)',
                )
                stretch = gr.Textbox(
                    label='Values to 0..255 (--stretch)', placeholder='percentile(2, 98)'
                )
                bands = gr.Textbox(label='Bands (--bands)', placeholder='3,2,1')
            with gr.Row():
                coregister = gr.Checkbox(label='Take out the shift of B (--coregister)')
                aligned = gr.Checkbox(label='Equal pixels are equal places (--assume-aligned)')
        button = gr.Button('Predict', variant='primary', elem_id='predict')
        problem = gr.HTML(visible=False, elem_id='problem', padding=False)
        with gr.Column(visible=False, elem_id='results') as results:
            with gr.Row():
                before_after = _slider('A | B', 'before-after', 50)
                after_change = _slider('B | change', 'after-change', 25)
            threshold = gr.Slider(
                0,
                1,
                value=served.inferencer.card.threshold,
                step=0.01,
                label='Threshold on the probability of change',
                elem_id='threshold',
            )
            facts = gr.HTML(elem_id='facts', padding=False)
            with gr.Row():
                change_file = _download('Save map', 'get-change')
                probability_file = _download('Save probability', 'get-probability')
                polygons_file = _download('Save polygons', 'get-polygons')
            remarks = gr.HTML(elem_id='remarks', padding=False)
        downloads = [change_file, probability_file, polygons_file]
        shown = [before_after, after_change, facts, remarks]

        def on_predict(
            a: str | None,
            b: str | None,
            gsd: str,
            stretch: str,
            bands: str,
            coregister: bool,
            aligned: bool,
            threshold: float,
            request: gr.Request,
        ) -> dict[Any, Any]:
            choices = Choices(_GSD[gsd], stretch or '', bands or '', coregister, aligned)
            try:
                found = handlers.predict(_visitor(request), a, b, choices)
                return {
                    problem: gr.HTML(visible=False),
                    results: gr.Column(visible=True),
                    before_after: found.shown,
                    after_change: (found.shown[1], found.overlay(threshold)),
                    facts: text.facts(found.counts(threshold), served),
                    remarks: text.remarks(found.notes),
                    **{one: gr.DownloadButton(interactive=False) for one in downloads},
                }
            except Exception as error:
                return {
                    problem: gr.HTML(text.problem(problem_of(error)), visible=True),
                    results: gr.Column(visible=False),
                }

        def on_threshold(threshold: float, request: gr.Request) -> dict[Any, Any]:
            try:
                found = sessions.get(_visitor(request))
                return {
                    problem: gr.HTML(visible=False),
                    after_change: (found.shown[1], found.overlay(threshold)),
                    facts: text.facts(found.counts(threshold), served),
                    **{one: gr.DownloadButton(interactive=False) for one in downloads},
                }
            except Exception as error:
                return {problem: gr.HTML(text.problem(problem_of(error)), visible=True)}

        def on_files(threshold: float, request: gr.Request) -> dict[Any, Any]:
            try:
                written = sessions.get(_visitor(request)).write(threshold)
                return {
                    part: gr.DownloadButton(value=str(written[name]), interactive=True)
                    for part, name in zip(downloads, _FILES)
                    if name in written
                }
            except UserError:
                return {one: gr.DownloadButton(interactive=False) for one in downloads}
            except Exception as error:
                return {problem: gr.HTML(text.problem(problem_of(error)), visible=True)}

        def on_upload(a: str | None, b: str | None) -> gr.HTML:
            """Say at once what is wrong with a file."""
            try:
                for path, date in ((a, 'A'), (b, 'B')):
                    if path is not None:
                        check_upload(path, date, limits)
            except Exception as error:
                return gr.HTML(text.problem(problem_of(error)), visible=True)
            return gr.HTML(visible=False)

        def on_example(event: gr.SelectData) -> list[str]:
            example = examples[event.index]
            return [str(example.a), str(example.b)]

        # Gradio's queue closes its stream when an event ends. A prediction that joins the queue at
        # that moment is computed, and its result never arrives. So only predictions use the queue.
        hidden = dict(api_visibility='private', show_progress='hidden', queue=False)
        predicted = button.click(
            on_predict,
            [a, b, gsd, stretch, bands, coregister, aligned, threshold],
            [problem, results, *shown, *downloads],
            api_visibility='private',
            show_progress_on=[button],
            concurrency_limit=1,
            concurrency_id='network',
        )
        files = dict(inputs=[threshold], outputs=[problem, *downloads], **hidden)
        predicted.then(on_files, **files)
        threshold.input(
            on_threshold,
            [threshold],
            [problem, after_change, facts, *downloads],
            trigger_mode='always_last',
            **hidden,
        ).then(on_files, trigger_mode='always_last', **files)
        for part in (a, b):
            part.change(on_upload, [a, b], problem, **hidden)
        gallery.select(on_example, None, [a, b], **hidden)
        page.unload(_unload(sessions))
        _add_interface(handlers)
    return page


def _slider(label: str, name: str, position: int) -> gr.ImageSlider:
    return gr.ImageSlider(
        label=label,
        format='png',
        interactive=False,
        elem_id=name,
        slider_position=position,
        buttons=['fullscreen'],
        max_height=620,
        min_width=300,
    )


def _download(label: str, name: str) -> gr.DownloadButton:
    return gr.DownloadButton(label, elem_id=name, interactive=False, min_width=90, size='md')


def _visitor(request: gr.Request) -> str:
    return request.session_hash or uuid.uuid4().hex


def _unload(sessions: Sessions) -> Callable[[gr.Request], None]:
    def unload(request: gr.Request) -> None:
        if request.session_hash:
            sessions.close(request.session_hash)

    return unload


def _add_interface(handlers: Handlers) -> None:
    """The same over HTTP: ``/predict`` with two files and a threshold."""
    served = handlers.served
    with gr.Column(visible=False):
        parts = [gr.File(label=name) for name in ('a', 'b')]
        threshold = gr.Number(label='threshold', value=served.inferencer.card.threshold)
        outputs = [
            gr.JSON(label='counts'),
            *(gr.File(label=name) for name in _FILES),
        ]

        def interface(
            a: str | None, b: str | None, threshold: float | None, request: gr.Request
        ) -> list[Any]:
            cut = served.inferencer.card.threshold if threshold is None else threshold
            try:
                found = handlers.predict(_visitor(request), a, b, Choices())
                scores = served.scores(cut) or (None, None)
                counts = dict(
                    found.counts(cut).__dict__,
                    precision=scores[0],
                    recall=scores[1],
                    warnings=found.notes,
                )
                written = found.write(cut)
                return [counts, *(str(written[n]) if n in written else None for n in _FILES)]
            except Exception as error:
                raise gr.Error(problem_of(error), print_exception=False) from None

        gr.Button('predict').click(
            interface,
            [*parts, threshold],
            outputs,
            api_name='predict',
            concurrency_limit=1,
            concurrency_id='network',
        )
