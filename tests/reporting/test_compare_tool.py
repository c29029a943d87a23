"""tools/analysis/compare.py as its users call it: what it writes, and what it refuses."""

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mtkd_cd.cli.common import run_tool
from mtkd_cd.core.files import OutputFolder
from mtkd_cd.data.synthetic import make_dataset
from mtkd_cd.evaluation import ImageTable, confusion_counts, load_table

MAIN = runpy.run_path(str(Path(__file__).parents[2] / 'tools/analysis/compare.py'))['main']
SCREENS = {'phone': 390, 'desktop': 1280}


def compare(*argv: object) -> None:
    MAIN([*map(str, argv), '--resamples', '200'])


class Page(HTMLParser):
    """What a page refers to, what it shows, and whether its elements are nested as they should
    be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.images: list[dict] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.references += [
            attributes[name]
            for name in ('src', 'href', 'srcset', 'data', 'poster')
            if name in attributes
        ]
        self.ids += [attributes['id']] if 'id' in attributes else []
        if tag == 'img':
            self.images.append(attributes)
        if tag not in ('img', 'meta', 'br'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope='module')
def report(runs_of_three_strategies, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('report') / 'out'
    compare(runs_of_three_strategies, '--out', out, '--reference', 'op')
    return out


def test_report_needs_nothing_but_itself(report):
    html = (report / 'report.html').read_text()
    page = Page(html)
    assert page.open == []
    assert all(reference.startswith(('#', 'data:image/')) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith('#')} <= set(
        page.ids
    )
    assert not re.search(r'<script|<link|@import|url\(', html)
    assert len(page.images) == len(list((report / 'figures').glob('*.svg')))
    assert all(image['alt'] for image in page.images)


def test_every_table_and_figure_is_written_in_each_form(report):
    tables = {path.stem for path in (report / 'tables').glob('*.csv')}
    assert tables == {path.stem for path in (report / 'tables').glob('*.tex')}
    assert tables == {
        *(
            'scores',
            'teachers',
            'models',
            'classes',
            'differences_origin',
            'differences_op',
            'car_quantiles',
            'car_ranges',
            'cascades',
            'images',
        ),
        *('cascade_fc_ef_op', 'cascade_my_net_op'),
    }
    figures = {path.stem for path in (report / 'figures').glob('*.svg')}
    assert not list((report / 'figures').glob('*.png'))
    assert {
        'overview',
        'differences_origin',
        'car_quantiles_fc_ef',
        'car_ranges_my_net',
        'car_distribution',
        'cascade_scatter_fc_ef_op',
    } <= figures
    markdown = (report / 'report.md').read_text()
    assert all(f'figures/{name}.svg' in markdown for name in figures)


def test_figures_are_written_as_png_where_that_is_asked_for(runs_of_three_strategies, tmp_path):
    out = tmp_path / 'out'

    compare(runs_of_three_strategies, '--out', out, '--png')
    pictures = {path.stem: cv2.imread(str(path)) for path in (out / 'figures').glob('*.png')}
    assert pictures.keys() == {path.stem for path in (out / 'figures').glob('*.svg')}
    assert all(picture.std() > 0 for picture in pictures.values())
    markdown = (out / 'report.md').read_text()
    assert all(f'figures/{name}.png' in markdown for name in pictures)

    compare(runs_of_three_strategies, '--out', out)
    assert not list((out / 'figures').glob('*.png'))


def test_scores_in_the_csv_are_those_of_the_tables(report, runs_of_three_strategies):
    with open(report / 'tables/scores.csv') as file:
        rows = {(row['model'], row['strategy']): row for row in csv.DictReader(file)}
    means = {
        strategy: [
            load_table(
                runs_of_three_strategies / f'seed{seed}/report/fc_ef/{strategy}.csv'
            ).means()['mIoU']
            for seed in (0, 1)
        ]
        for strategy in ('origin', 'mtkd')
    }
    row = rows['fc_ef', 'mtkd']
    assert float(row['mIoU']) == pytest.approx(np.mean(means['mtkd']))
    assert float(row['mIoU_deviation_over_seeds']) == pytest.approx(np.std(means['mtkd'], ddof=1))
    assert float(row['mIoU_difference']) == pytest.approx(
        np.mean(means['mtkd']) - np.mean(means['origin'])
    )
    assert (row['seeds'], row['mIoU_published_JL1-CD']) == ('0 1', '61.87')
    assert rows['my_net', 'mtkd']['mIoU_published_JL1-CD'] == ''


def test_published_figures_of_another_data_set_are_called_so(report):
    markdown = (report / 'report.md').read_text()
    assert 'the test set of JL1-CD, another data set than the one evaluated here' in markdown
    assert '57.08' in markdown


def test_same_input_gives_the_same_bytes(report, runs_of_three_strategies, tmp_path):
    compare(runs_of_three_strategies, '--out', tmp_path / 'again', '--reference', 'op')
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob('*.*')}
        for root in (report, tmp_path / 'again')
    )
    assert first == second


def test_reports_to_one_folder_are_written_in_turn(save, tmp_path, monkeypatch):
    others = []
    clear = OutputFolder.clear

    def clear_beside_another(output):
        code = 'import sys; from mtkd_cd.core.locks import alone; alone(sys.argv[1]).__enter__()'
        command = [sys.executable, '-c', code, str(output.folder / '.report.lock')]
        others.append(subprocess.run(command, capture_output=True, text=True).stderr)
        clear(output)

    monkeypatch.setattr(OutputFolder, 'clear', clear_beside_another)
    compare(save('fc_ef/origin.json'), '--out', tmp_path / 'out')
    assert len(others) == 1
    assert f'process {os.getpid()} is at work on' in others[0]
    assert not (tmp_path / 'out' / '.report.lock').exists()


def test_single_run_is_reported_without_differences(save, tmp_path):
    compare(save('fc_ef/origin.json'), '--out', tmp_path / 'out', '--dataset', 'JL1-CD')
    markdown = (tmp_path / 'out/report.md').read_text()
    assert '1 run · 1 model · 1 strategy · 8 images' in markdown
    assert 'published on the test set of JL1-CD (' in markdown
    assert not list((tmp_path / 'out').rglob('differences*'))


@pytest.fixture
def pictured(tmp_path) -> dict[str, Path]:
    """A small data set, two runs on it, and their predictions as pictures."""
    make_dataset(tmp_path / 'data', num_train=12, num_test=4, size=64, seed=0)
    labels = sorted((tmp_path / 'data/test/label').glob('*.png'))
    rng = np.random.default_rng(0)
    for strategy, share in (('origin', 0.2), ('mtkd', 0.05)):
        counts = []
        for path in labels:
            label = np.asarray(Image.open(path)) // 255
            prediction = np.where(rng.random(label.shape) < share, 1 - label, label)
            counts.append(confusion_counts(prediction, label))
            folder = tmp_path / 'pictures' / strategy / 'prediction'
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 * prediction).astype(np.uint8)).save(folder / path.name)
        files = [path.name for path in labels]
        ImageTable(files, np.stack(counts), [None] * 4, [None] * 4).save(
            tmp_path / f'runs/net/{strategy}.csv'
        )
    return {name: tmp_path / name for name in ('data', 'pictures', 'runs')}


def test_images_that_moved_most_are_shown_with_their_predictions(pictured, tmp_path):
    out = tmp_path / 'out'
    compare(
        pictured['runs'],
        '--out',
        out,
        '--data-root',
        pictured['data'],
        '--show-dirs',
        pictured['pictures'],
        '--num-images',
        2,
    )
    page = Page((out / 'report.html').read_text())
    tiles = [
        image['alt'].split(' of ')[0]
        for image in page.images
        if ' of ' in image['alt'] and image['alt'].endswith('.png')
    ]
    assert (
        tiles == ['A', 'B', 'label', 'origin', 'MTKD'] * 2
    )  # all four gained, the two that gained most are shown


def test_folders_of_images_without_labels_do_as_well(pictured, tmp_path):
    test = pictured['data'] / 'test'
    compare(
        pictured['runs'],
        '--out',
        tmp_path / 'out',
        '--images',
        test / 'A',
        test / 'B',
        '--num-images',
        1,
    )
    page = Page((tmp_path / 'out/report.html').read_text())
    assert [image['alt'][0] for image in page.images if image['alt'].endswith('.png')] == ['A', 'B']


def refused(capsys, *argv: object) -> str:
    with pytest.raises(SystemExit) as exit_info:
        run_tool(MAIN, [*map(str, argv)])
    assert exit_info.value.code == 2
    return capsys.readouterr().err


def test_unreadable_image_is_named(pictured, tmp_path, capsys):
    broken = sorted((pictured['data'] / 'test/A').glob('*.png'))[0]
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / 'data/test/A').rename(tmp_path / 'A')
    message = refused(
        capsys,
        pictured['runs'],
        '--out',
        tmp_path / 'out',
        '--images',
        tmp_path / 'A',
        tmp_path / 'data/test/B',
    )
    assert f'{tmp_path / "A" / broken.name} cannot be read as an image' in message


def test_pictures_of_another_data_set_are_refused(pictured, save, tmp_path, capsys):
    message = refused(
        capsys, save('fc_ef/origin.csv'), '--out', tmp_path / 'out', '--data-root', pictured['data']
    )
    assert 'the pictures lack 8 of the 8 evaluated images, for instance 0.png' in message


def test_show_dirs_that_stand_for_no_run_are_refused(pictured, tmp_path, capsys):
    argv = (
        pictured['runs'],
        '--out',
        tmp_path / 'out',
        '--data-root',
        pictured['data'],
        '--show-dirs',
    )
    assert 'stands for none of the runs net/origin, net/mtkd' in refused(
        capsys, *argv, f'other={pictured["pictures"]}'
    )
    assert 'does not exist' in refused(capsys, *argv, 'nowhere')


def test_nothing_is_written_when_runs_cannot_be_compared(save, tmp_path, capsys):
    message = refused(
        capsys,
        save('m/origin.csv'),
        save('m/op.csv', files=[f'x{i}' for i in range(8)]),
        '--out',
        tmp_path / 'out',
    )
    assert 'the runs are over different images' in message
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('chromium') is None, reason='needs chromium')
@pytest.mark.parametrize('screen', SCREENS)
def test_report_opens_from_disk_in_a_browser(pictured, tmp_path, screen):
    compare(
        pictured['runs'],
        '--out',
        tmp_path / 'out',
        '--data-root',
        pictured['data'],
        '--show-dirs',
        pictured['pictures'],
    )
    width = SCREENS[screen]
    # A frame of the screen's width, since headless windows are at least 500 pixels wide; the probe
    # writes down what was laid out.
    (tmp_path / 'probe.html').write_text(
        f"""<iframe id="f" src="file://{tmp_path}/out/report.html"
          style="width:{width}px;height:900px"></iframe><script>
        window.onload = () => {{ const page = document.getElementById('f').contentDocument;
        const images = [...page.images];
        document.title = JSON.stringify({{
        wide: page.documentElement.scrollWidth, images: images.length,
        drawn: images.filter(image => image.complete && image.naturalWidth > 0).length,
        fitting: images.filter(image => image.getBoundingClientRect().right <= {width}).length,
        requests: document.getElementById('f').contentWindow.performance
          .getEntriesByType('resource')
          .filter(entry => !entry.name.startsWith('data:')).length}}) }}</script>"""
    )
    flags = (
        '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run '
        '--disable-background-networking --disable-component-update'
    )
    command = [
        'chromium',
        *flags.split(),
        '--disable-sync',
        '--allow-file-access-from-files',
        f'--user-data-dir={tmp_path / "profile"}',
    ]
    dump = subprocess.run(
        [
            *command,
            '--dump-dom',
            f'--window-size={max(width, 500) + 50},1000',
            f'file://{tmp_path}/probe.html',
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'<title>(\{.*?\})</title>', dump.stdout)
    assert found, dump.stderr[-2000:]
    layout = json.loads(found[1])
    assert layout['images'] == len(Page((tmp_path / 'out/report.html').read_text()).images) > 10
    assert layout['drawn'] == layout['fitting'] == layout['images']
    assert layout['wide'] <= width
    assert layout['requests'] == 0
