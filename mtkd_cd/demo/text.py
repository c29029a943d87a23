"""What the page says, as HTML without scripts."""

import html

from mtkd_cd.demo.prediction import MOST_POLYGONS, Counts
from mtkd_cd.demo.served import Served

_HECTARE = 10_000.0


def header(served: Served) -> str:
    """What the page is for, and with which model."""
    facts = [f'Model: <b>{html.escape(served.name)}</b>']
    card = served.inferencer.card
    if card.gsd_m:
        facts.append(f'{card.gsd_m:g} m per pixel')
    if served.data:
        facts.append(f'data: {html.escape(served.data)}')
    if served.licence:
        facts.append(f'weights: {html.escape(served.licence)}')
    return (
        '<h1>What changed between two images?</h1>'
        '<p>Give two images of one place, taken at two dates. '
        'They go to this server only, which removes them after an hour.</p>'
        f'<p class="model">{" · ".join(facts)}</p>'
    )


def facts(counts: Counts, served: Served) -> str:
    """What has changed at a threshold, and how good the model was there on validation."""
    share = 100 * counts.changed / max(counts.valid, 1)
    cells = [
        ('Changed', f'{share:.2f} %', f'{counts.changed:,} of {counts.valid:,} pixels'),
        ('Area', *_area(counts)),
        ('Polygons', f'{counts.polygons:,}', _polygons(counts)),
    ]
    scores = served.scores(counts.threshold)
    if scores is None:
        cells.append(('Precision, recall', 'not known', 'the model came without validation'))
    else:
        on = f'on {served.images:,} validation images'
        cells.append(('Precision', f'{100 * scores[0]:.1f} %', on))
        cells.append(('Recall', f'{100 * scores[1]:.1f} %', on))
    boxes = (
        f'<div class="fact" data-fact="{name}"><span>{name}</span><b>{value}</b>'
        f'<small>{detail}</small></div>'
        for name, value, detail in cells
    )
    return f'<div class="facts">{"".join(boxes)}</div>'


def _polygons(counts: Counts) -> str:
    if counts.polygons > MOST_POLYGONS:
        return f'above {MOST_POLYGONS:,} they are not saved: move the threshold'
    return 'areas that touch count as one'


def _area(counts: Counts) -> tuple[str, str]:
    area = counts.area_m2
    if area is None:
        return f'{counts.changed:,} px', 'no georeference, so no m²'
    if area >= _HECTARE:
        return f'{area / _HECTARE:,.2f} ha', f'{area:,.0f} m², on the ellipsoid'
    return f'{area:,.0f} m²', 'on the ellipsoid'


def problem(message: str) -> str:
    """An error as a sentence."""
    sentence = message.strip().replace('\n', ' ')
    sentence = sentence[:1].upper() + sentence[1:]
    end = '' if sentence.endswith(('.', '!', '?')) else '.'
    return f'<div class="problem" role="alert">{html.escape(sentence)}{end}</div>'


def remarks(notes: list[str]) -> str:
    """Warnings of a prediction."""
    items = ''.join(f'<li>{html.escape(note)}</li>' for note in notes)
    return f'<ul class="remarks">{items}</ul>' if notes else ''
