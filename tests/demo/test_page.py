"""The page in a real browser. `make test-page` gives it an environment with Gradio and playwright;
the browser is Debian's Chromium."""

import json
import shutil
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mtkd_cd.demo.server import PageServer
from mtkd_cd.demo.uploads import Limits

from .conftest import Difference, difference, served_by

WHERE = 'is not installed here: `make test-page` runs this in an environment of its own'
pytest.importorskip('gradio', reason=f'Gradio {WHERE}')
playwright = pytest.importorskip('playwright.sync_api', reason=f'playwright {WHERE}')
pyogrio = pytest.importorskip('pyogrio')
rasterio = pytest.importorskip('rasterio')

CHROMIUM = shutil.which('chromium')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason='needs chromium'),
]
FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-background-networking',
    '--no-first-run',
    '--disable-sync',
)
PATIENCE = 120_000  # milliseconds: machines of tests are slow
LIMITS = Limits(file_bytes=400_000, pixels=100_000)


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope='module')
def network():
    return Difference()


@pytest.fixture(scope='module')
def server(network):
    started = PageServer(served_by(network), port=0, limits=LIMITS).start()
    yield started
    started.stop()
    assert not started.folder.exists()


@pytest.fixture
def page(browser, server):
    opened = browser.new_page(viewport=dict(width=1280, height=900))
    opened.set_default_timeout(PATIENCE)
    opened.requested = []
    opened.complaints = []
    opened.on('request', lambda request: opened.requested.append(request.url))
    opened.on('pageerror', lambda error: opened.complaints.append(str(error)))
    opened.on('console', lambda line: opened.complaints.append(line.text))
    opened.goto(server.url)
    opened.wait_for_selector('#predict')
    yield opened
    opened.close()


def upload(page, date: str, *path: Path, content: bytes = b'', name: str = '') -> None:
    """Put a file in, instead of what is there, and wait until it has arrived."""
    part = page.locator(f'#image-{date}')
    if part.locator('.file-preview').count():
        part.get_by_label('Clear').last.click()
    part.locator('input[type=file]').wait_for(state='attached')
    given = path[0] if path else dict(name=name, mimeType='image/png', buffer=content)
    part.locator('input[type=file]').set_input_files(given)
    part.get_by_label(path[0].name if path else name).wait_for()


def problem(page, part: str) -> str:
    """The sentence on the page, once it says this."""
    page.locator('#problem .problem', has_text=part).wait_for()
    return page.inner_text('#problem')


def fact(page, name: str) -> str:
    return page.locator(f'#facts [data-fact="{name}"] b').inner_text()


def wait_for_fact(page, name: str, value: str) -> None:
    page.locator(f'#facts [data-fact="{name}"] b', has_text=value).wait_for()


def wait_until_empty(server) -> None:
    """A page that was closed leaves no prediction behind."""
    end = time.monotonic() + PATIENCE / 1000
    while list(server.folder.glob('prediction-*')):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert len(server.sessions) == 0


def saved(page, name: str, folder: Path) -> Path:
    button = page.locator(f'#get-{name}')
    playwright.expect(button).to_be_enabled(timeout=PATIENCE)
    with page.expect_download() as download:
        button.click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_two_uploads_a_threshold_and_files(page, server, network, images, write_tif, tmp_path):
    before = network.calls
    a, b = (write_tif(f'{name}.tif', image) for name, image in zip('ab', images))
    upload(page, 'a', a)
    upload(page, 'b', b)
    page.click('#predict')
    probability = difference(*images)
    changed = probability > 0.4
    wait_for_fact(page, 'Changed', f'{100 * changed.mean():.2f} %')
    assert fact(page, 'Polygons') == str(ndimage.label(changed, np.ones((3, 3)))[1])
    assert fact(page, 'Precision') == '40.0 %'
    assert fact(page, 'Recall') == '60.0 %'
    for name in ('before-after', 'after-change'):
        assert page.locator(f'#{name} img').count() >= 2
    calls = network.calls
    assert calls > before

    slider = page.locator('#threshold input[type=range]')
    slider.focus()
    for _ in range(12):
        slider.press('ArrowLeft')
    changed = probability > 0.28
    regions = ndimage.label(changed, np.ones((3, 3)))[1]
    wait_for_fact(page, 'Precision', '28.0 %')
    assert fact(page, 'Changed') == f'{100 * changed.mean():.2f} %'
    assert fact(page, 'Polygons') == str(regions)

    polygons = saved(page, 'polygons', tmp_path)
    assert polygons.suffix == '.gpkg'
    meta, _, geometries, fields = pyogrio.raw.read(polygons)
    assert len(geometries) == regions
    assert '32632' in meta['crs']
    pixels = fields[list(meta['fields']).index('pixels')]
    assert pixels.sum() == changed.sum()
    with rasterio.open(saved(page, 'change', tmp_path)) as file:
        assert np.array_equal(file.read(1), changed)
        assert json.loads(file.tags()['MTKD_CD_THRESHOLD']) == 0.28
    with rasterio.open(saved(page, 'probability', tmp_path)) as file:
        assert np.allclose(file.read(1), probability, atol=1e-5)
    assert network.calls == calls

    elsewhere = [
        url for url in page.requested if not url.startswith((server.url, 'data:', 'blob:'))
    ]
    assert elsewhere == []
    assert not [line for line in page.complaints if 'Content Security Policy' in line]
    assert len(server.sessions) == 1
    page.close()
    wait_until_empty(server)


def test_bad_input_is_a_sentence(page, server, network, images, write_png, write_tif, tmp_path):
    a = write_png('a.png', images[0])
    before = network.calls
    page.click('#predict')
    problem(page, 'Image A is missing')
    upload(page, 'a', content=b'no image at all', name='notes.png')
    assert problem(page, 'notes.png').startswith('Image A (notes.png) is no image that this page')
    upload(page, 'a', content=b'\x89PNG\r\n\x1a\n' + bytes(LIMITS.file_bytes), name='large.png')
    problem(page, 'and this page takes at most 0.4 MB')
    upload(page, 'a', a)
    upload(page, 'b', write_png('b.png', np.zeros((400, 400, 3), np.uint8)))
    problem(page, '400 x 400 pixels, 0.16 million, and this page takes at most 0.1 million')
    upload(page, 'b', write_png('small.png', images[1][:-8]))
    page.locator('#problem').wait_for(state='hidden')
    page.click('#predict')
    problem(page, 'Image B (small.png) is 120 x 88 pixels, but image A (a.png) is 120 x 96')
    upload(page, 'b', write_tif('placed.tif', images[1]))
    page.locator('#problem').wait_for(state='hidden')
    page.click('#predict')
    text = problem(page, 'Image A (a.png) has no CRS, but image B (placed.tif) has EPSG:32632')
    assert str(server.folder) not in text
    assert 'Traceback' not in page.content()
    assert network.calls == before
    assert not list(server.folder.glob('prediction-*'))
    upload(page, 'b', write_png('good.png', images[1]))
    page.click('#predict')
    wait_for_fact(page, 'Changed', f'{100 * (difference(*images) > 0.4).mean():.2f} %')
    assert fact(page, 'Area').endswith('px')


def test_example_on_a_narrow_screen(browser, server):
    page = browser.new_page(viewport=dict(width=390, height=844))
    page.set_default_timeout(PATIENCE)
    page.goto(server.url)
    page.locator('#examples button').nth(1).click()
    page.locator('#image-b').get_by_label('example2_B.png').wait_for()
    page.click('#predict')
    page.locator('#facts .fact').first.wait_for()
    width = page.evaluate('document.documentElement.scrollWidth')
    assert width <= 390
    page.close()


def test_program_gets_the_same_over_http(server, network, images, write_tif):
    client_module = pytest.importorskip('gradio_client')
    client = client_module.Client(server.url, verbose=False)
    a, b = (write_tif(f'{name}.tif', image) for name, image in zip('ab', images))
    file = client_module.handle_file
    counts, change, probability, polygons = client.predict(
        file(a), file(b), 0.3, api_name='/predict'
    )
    changed = difference(*images) > 0.3
    assert counts['changed'] == changed.sum()
    assert counts['precision'] == pytest.approx(0.3)
    with rasterio.open(change) as found:
        assert np.array_equal(found.read(1), changed)
    assert Path(probability).suffix == '.tif'
    assert pyogrio.read_info(polygons)['features'] == counts['polygons']
    smaller = write_tif('b.tif', images[1][:-8], crs=None)
    with pytest.raises(Exception, match='has no CRS'):
        client.predict(file(a), file(smaller), 0.3, api_name='/predict')
    client.close()


def test_only_predictions_use_the_queue(server):
    """Gradio closes the queue's stream when an event ends. A prediction that joins at that moment
    is lost, and the button is dead until something else happens."""
    with urllib.request.urlopen(f'{server.url}/config') as answer:
        events = json.load(answer)['dependencies']
    queued = [event['targets'][0][1] for event in events if event['queue'] is not False]
    assert sorted(queued) == ['click', 'click', 'unload']  # the page's button and the interface
    assert len(events) > len(queued)
