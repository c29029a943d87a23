"""Lists of pairs, what one failure does to the rest, and batches that were killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.jobs import Cluster
from mtkd_cd.inference.batch import BatchOptions, ModelSource, read_results, run_batch
from mtkd_cd.inference.inferencer import ChangeInferencer
from mtkd_cd.inference.pair_lists import read_pairs, stacked_bands

from .conftest import Difference, model_of

rasterio = pytest.importorskip('rasterio')


@dataclass(frozen=True)
class Toy:
    """A model that another process can make, and that counts its calls."""

    name: str = 'toy'
    seconds: float = 0.0

    def open(self) -> ChangeInferencer:
        time_of, wait = time.sleep, self.seconds

        class Slow(Difference):
            def probability(self, pairs):
                time_of(wait)
                return super().probability(pairs)

        return ChangeInferencer(model_of(Slow()), device='cpu')

    def identity(self, inferencer) -> str:
        return self.name


@pytest.fixture
def listed(write_raster, scene, tmp_path):
    """``listed(n)``: a CSV file of n pairs of georeferenced rasters."""

    def make(count: int) -> Path:
        lines = ['a,b']
        for index in range(count):
            a, b = scene(64, 80, seed=index)
            write_raster(f'a{index}.tif', a)
            write_raster(f'b{index}.tif', b)
            lines.append(f'a{index}.tif,b{index}.tif')
        path = tmp_path / 'pairs.csv'
        path.write_text('\n'.join(lines) + '\n')
        return path

    return make


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob('[!.]*.tif'))}


def table_of(folder: Path) -> list[dict[str, str]]:
    return [{**row, 'seconds': ''} for row in read_results(folder / 'results.csv')]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob('*') if '.part' in path.name]


def test_paths_of_a_csv_are_relative_to_it_and_output_names_come_from_a_or_out(tmp_path):
    path = tmp_path / 'lists' / 'pairs.csv'
    path.parent.mkdir()
    path.write_text(
        'a,b,out,mask,date_a,label\nx/one.tif,y/1.tif,,,,\n/vsimem/two.tif,2.tif,town/second,'
        'm.tif,2018-03-01,l.tif\n\n'
    )
    first, second = read_pairs(path)
    assert first.a == (str(tmp_path / 'lists/x/one.tif'),)
    assert (first.name, first.out, first.mask, first.label) == ('one', 'one.tif', None, None)
    assert second.a == ('/vsimem/two.tif',)
    assert (second.name, second.out) == ('town/second', 'town/second.tif')
    assert (second.mask, second.date_a) == (str(tmp_path / 'lists/m.tif'), '2018-03-01')


def test_list_of_a_spreadsheet_is_read_in_its_own_separators(tmp_path):
    path = tmp_path / 'pairs.csv'
    path.write_bytes('a;b;out\r\n1,5 m.tif; 2.tif;x\r\n;;\r\n'.encode('utf-8-sig'))
    (task,) = read_pairs(path)
    assert [Path(task.a[0]).name, Path(task.b[0]).name, task.out] == ['1,5 m.tif', '2.tif', 'x.tif']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a,c\n1,2\n', 'the columns a and b'),
        ('a,b,lable\n1,2,3\n', "did you mean 'label'"),
        ('a,b\n1\n', 'line 2: 2 cells'),
        ('a,b\n\n1,2\n1,2,3\n', 'line 4: 2 cells'),
        ('a,b,a\n1,2,3\n', "names the column 'a' twice"),
        ('a,b\n1,\n', 'both needed'),
        ('a,b\n', 'holds no pair'),
        ('a,b\nx/1.tif,b\ny/1.tif,b\n', 'name the outputs in a column out'),
        ('a,b,out\n1,2,../3.tif\n', 'outside of the output folder'),
        ('a,b,out\n1,2,/tmp/3.tif\n', 'outside of the output folder'),
    ],
)
def test_list_that_is_no_good_is_refused(tmp_path, text, message):
    path = tmp_path / 'pairs.csv'
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_pairs(path)


def test_folders_are_paired_by_stem_with_their_labels(tmp_path):
    for name in ('A/1.png', 'B/1.jpg', 'A/2.tif', 'B/2.tif', 'label/1.gpkg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    one, two = read_pairs(tmp_path)
    assert (one.name, Path(one.b[0]).name, Path(one.label).name) == ('1', '1.jpg', '1.gpkg')
    assert (two.out, two.label) == ('2.tif', None)
    (tmp_path / 'B/2.tif').unlink()
    with pytest.raises(UserError, match=r'2\.tif'):
        read_pairs(tmp_path)


def test_pairs_equal_single_predictions_and_one_failure_does_not_stop_the_rest(
    listed, tmp_path, inferencer_of
):
    path = listed(3)
    (tmp_path / 'b1.tif').write_bytes(b'no raster')
    out = tmp_path / 'out'
    results = run_batch(Toy(), read_pairs(path), out)
    assert [row['status'] for row in results.rows.values()] == ['done', 'failed', 'done']
    assert 'not a raster' in results.rows['a1']['error']
    assert not (out / 'a1.tif').exists()
    inferencer = inferencer_of(Difference())
    for name in ('0', '2'):
        single = inferencer.predict_raster(
            tmp_path / f'a{name}.tif',
            tmp_path / f'b{name}.tif',
            tmp_path / 'single.tif',
            overwrite=True,
        )
        with rasterio.open(out / f'a{name}.tif') as batch, rasterio.open(single.change) as alone:
            changed = batch.read(1)
            assert np.array_equal(changed, alone.read(1))
        (row,) = [row for row in read_results(out / 'results.csv') if row['name'] == f'a{name}']
        assert float(row['car']) == (changed == 1).mean() == single.car
        assert float(row['area_m2']) == pytest.approx((changed == 1).sum() * 100, rel=1e-2)
        assert float(row['seconds']) > 0
    assert leftovers(out) == []


def test_cells_that_a_spreadsheet_would_run_are_made_harmless(tmp_path):
    path = tmp_path / 'pairs.csv'
    path.write_text('a,b,out\n=1+1.tif,@x.tif,=cmd.tif\n')
    run_batch(Toy(), read_pairs(path), tmp_path / 'out')
    with open(tmp_path / 'out' / 'results.csv', newline='') as file:
        (row,) = csv.DictReader(file)
    assert (row['status'], row['name'], row['out']) == ('failed', "'=cmd", "'=cmd.tif")
    assert all(not value.startswith(('=', '+', '-', '@')) for value in row.values())
    assert read_results(tmp_path / 'out' / 'results.csv')[0]['name'] == '=cmd'


def test_table_that_a_spreadsheet_saved_is_read(tmp_path):
    path = tmp_path / 'results.csv'
    text = 'name;status;car;out;label;\r\nt 1;done;0,25;t 1.tif;l.tif;\r\n;;;;;\r\n'
    path.write_bytes(text.encode('utf-8-sig'))
    (row,) = read_results(path)
    assert (row['name'], row['status'], row['out']) == ('t 1', 'done', 't 1.tif')


def test_existing_outputs_are_refused_kept_or_replaced_as_told(listed, tmp_path):
    path, out = listed(2), tmp_path / 'out'
    tasks = read_pairs(path)
    run_batch(Toy(), tasks, out)
    before, table = bytes_of(out), table_of(out)
    times = [file.stat().st_mtime_ns for file in sorted(out.glob('*.tif'))]
    with pytest.raises(UserError, match='2 of the outputs already'):
        run_batch(Toy(), tasks, out)
    resume = BatchOptions(resume=True)
    (out / 'results.csv').unlink()
    run_batch(Toy(), tasks, out, resume)
    assert [file.stat().st_mtime_ns for file in sorted(out.glob('*.tif'))] == times
    assert table_of(out) == table  # made of the outputs' tags and pixels
    run_batch(Toy(), tasks, out, BatchOptions(overwrite=True))
    assert bytes_of(out) == before
    assert [file.stat().st_mtime_ns for file in sorted(out.glob('*.tif'))] != times


def test_table_of_the_user_or_of_other_pairs_is_not_written_over(listed, tmp_path):
    path, out = listed(2), tmp_path / 'out'
    out.mkdir()
    (out / 'results.csv').write_text('plot,yield\n3,4\n')
    with pytest.raises(UserError, match=r'results\.csv is no table of mtkd-cd predict --pairs'):
        run_batch(Toy(), read_pairs(path), out)
    assert (out / 'results.csv').read_text() == 'plot,yield\n3,4\n'
    (out / 'results.csv').unlink()
    first, second = ([task] for task in read_pairs(path))
    run_batch(Toy(), first, out)
    before = table_of(out)
    with pytest.raises(UserError, match=r'tells of 1 other pairs \(a0\), which would be lost'):
        run_batch(Toy(), second, out)
    assert table_of(out) == before
    run_batch(Toy(), second, out, BatchOptions(overwrite=True))
    assert [row['name'] for row in table_of(out)] == ['a1']


@pytest.mark.parametrize('what', ['input', 'mask'])
def test_resume_does_not_take_outputs_of_another_run(listed, tmp_path, what):
    path, out = listed(2), tmp_path / 'out'
    tasks = read_pairs(path)
    run_batch(Toy(), tasks, out)
    if what == 'input':
        os.utime(tmp_path / 'a0.tif', ns=(0, 0))
        os.utime(tmp_path / 'a1.tif', ns=(0, 0))
    else:
        tasks = [replace(task, mask=str(tmp_path / 'a0.tif'), name=task.name) for task in tasks]
    results = run_batch(Toy(), tasks, out, BatchOptions(resume=True))
    assert [row['status'] for row in results.rows.values()] == ['failed'] * 2
    assert '--overwrite' in results.rows['a0']['error']
    if what == 'mask':
        return  # every pixel of it is left out
    results = run_batch(Toy(), tasks, out, BatchOptions(resume=True, overwrite=True))
    assert [row['status'] for row in results.rows.values()] == ['done'] * 2


@pytest.mark.parametrize(
    ('source', 'raster', 'difference'),
    [
        (Toy('other'), dict(threshold=0.25), r'model: "toy" there, "other" now'),
        (Toy(), dict(threshold=0.5), r'threshold: 0\.25 there, 0\.5 now'),
        (Toy(), {}, r'threshold: 0\.25 there, not given now'),
        (
            Toy(),
            dict(threshold=0.25, bands=(3, 2, 1)),
            r'bands: not given there, "\(3, 2, 1\)" now',
        ),
    ],
)
def test_resume_with_other_options_is_refused_once_and_touches_nothing(
    listed, tmp_path, source, raster, difference
):
    tasks, out = read_pairs(listed(3)), tmp_path / 'out'
    made_with = dict(threshold=0.25, nodata=float('nan'), bands=None)
    raster = dict(raster, nodata=float('nan'))
    run_batch(Toy(), tasks[:2], out, BatchOptions(made_with))
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    with pytest.raises(UserError, match=rf'2 maps made with other .*\): {difference}\. Go on'):
        run_batch(source, tasks, out, BatchOptions(raster, resume=True))
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == before
    results = run_batch(Toy(), tasks, out, BatchOptions(made_with, resume=True))
    assert [row['status'] for row in results.rows.values()] == ['done'] * 3
    assert {path: path.stat().st_mtime_ns for path in before if path.suffix == '.tif'}.items() <= (
        before.items()
    )
    options = BatchOptions(raster, resume=True, overwrite=True)
    results = run_batch(source, tasks, out, options)
    assert [row['status'] for row in results.rows.values()] == ['done'] * 3


def test_resume_predicts_again_where_a_file_beside_the_map_is_missing(listed, tmp_path):
    tasks, out = read_pairs(listed(2)), tmp_path / 'out'
    options = BatchOptions(probability='{name}_p.tif', vector='{name}.gpkg', resume=True)
    run_batch(Toy(), tasks, out, options)
    before = bytes_of(out)
    (out / 'a1_p.tif').unlink()
    (out / 'a0.gpkg').unlink()
    run_batch(Toy(), tasks, out, options)
    assert bytes_of(out) == before
    assert (out / 'a0.gpkg').exists()
    with pytest.raises(UserError, match='name of its own'):
        BatchOptions(vector='all.gpkg')


def test_pictures_carry_their_tags_in_png_too(tmp_path):
    import cv2

    rng = np.random.default_rng(0)
    for name in ('A', 'B'):
        (tmp_path / name).mkdir()
        cv2.imwrite(
            str(tmp_path / name / '1.png'), rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)
        )
    (task,) = read_pairs(tmp_path)
    task, out = replace(task, out='1.png'), tmp_path / 'out'
    run_batch(Toy(), [task], out)
    before = (out / '1.png').stat().st_mtime_ns
    mask = cv2.imread(str(out / '1.png'), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) <= {0, 255}
    results = run_batch(Toy(), [task], out, BatchOptions(resume=True))
    assert (out / '1.png').stat().st_mtime_ns == before
    assert results.rows['1']['car'] == (mask > 0).mean()


def test_area_of_a_picture_that_is_kept_stays_in_the_table(listed, tmp_path):
    """The pair has a place on the ground, its PNG has none."""
    (task,) = read_pairs(listed(1))
    task, out = replace(task, out='map.png'), tmp_path / 'out'
    run_batch(Toy(), [task], out)
    before = table_of(out)
    assert float(before[0]['area_m2']) > 0
    run_batch(Toy(), [task], out, BatchOptions(resume=True))
    assert table_of(out) == before


def test_killed_batch_is_resumed_to_the_same_bytes(listed, tmp_path):
    tasks = read_pairs(listed(6))
    run_batch(Toy(), tasks, tmp_path / 'whole')
    out = tmp_path / 'out'
    child = os.fork()
    if child == 0:
        try:
            run_batch(Toy(seconds=0.15), tasks, out)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 60
    while len(list(out.glob('[!.]*.tif'))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # into the third pair
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    finished = bytes_of(out)
    assert 2 <= len(finished) < 6
    assert finished.items() <= bytes_of(tmp_path / 'whole').items()  # none is half of one
    (out / f'.a0.{child}.b.part.tif').write_bytes(b'')  # killed right after the rename
    run_batch(Toy(), tasks, out, BatchOptions(resume=True))
    assert bytes_of(out) == bytes_of(tmp_path / 'whole')
    assert table_of(out) == table_of(tmp_path / 'whole')
    assert leftovers(out) == []


def test_shards_write_what_one_process_does(listed, tmp_path):
    tasks = read_pairs(listed(5))
    run_batch(Toy(), tasks, tmp_path / 'whole')
    out = tmp_path / 'out'
    cluster = Cluster(tmp_path / 'jobs', 'debug')
    seen: list[str] = []
    run_batch(
        Toy(), tasks, out, cluster=cluster, shards=2, finished=lambda row: seen.append(row['name'])
    )
    assert sorted(seen) == [task.name for task in tasks]
    assert bytes_of(out) == bytes_of(tmp_path / 'whole')
    assert table_of(out) == table_of(tmp_path / 'whole')


@pytest.fixture
def stac(write_raster, scene, tmp_path):
    """Two items with an asset per band, and what ``a`` and ``b`` are in one file each."""
    pystac = pytest.importorskip('pystac')
    dates = scene(64, 80)
    items = []
    for name, bands, day in zip('ab', dates, (1, 2)):
        write_raster(f'{name}.tif', bands)
        item = pystac.Item(
            f'scene_{name}', None, None, datetime(2020, day, 3, 10, tzinfo=timezone.utc), {}
        )
        for color, band in zip(('red', 'green', 'blue'), bands):
            write_raster(f'{name}_{color}.tif', band[None])
            item.add_asset(color, pystac.Asset(f'./{name}_{color}.tif'))
        path = tmp_path / f'{name}.json'
        path.write_text(json.dumps(item.to_dict(include_self_link=False)))
        items.append(path)
    return items


def test_stac_items_give_the_map_of_the_stacked_files(stac, tmp_path, inferencer_of):
    pystac = pytest.importorskip('pystac')
    listing = tmp_path / 'items.json'
    listing.write_text(json.dumps([['a.json', 'b.json']]))
    (task,) = read_pairs(listing)
    assert (task.name, task.date_a) == ('scene_a_scene_b', '2020-01-03T10:00:00Z')
    out = tmp_path / 'out'
    run_batch(Toy(), [task], out, BatchOptions(items=True, probability='{name}_p.tif'))
    single = inferencer_of(Difference()).predict_raster(
        tmp_path / 'a.tif', tmp_path / 'b.tif', tmp_path / 'single.tif'
    )
    with rasterio.open(out / task.out) as batch, rasterio.open(single.change) as alone:
        assert np.array_equal(batch.read(1), alone.read(1))
        bounds, crs = alone.bounds, alone.crs
    item = pystac.Item.from_file(str(out / 'scene_a_scene_b.json'))
    assert item.common_metadata.start_datetime.isoformat() == '2020-01-03T10:00:00+00:00'
    assert item.properties['mtkd_cd:car'] == single.car
    assert item.properties['proj:code'] == 'EPSG:32632'
    assert item.bbox == pytest.approx(rasterio.warp.transform_bounds(crs, 'EPSG:4326', *bounds))
    assert Path(item.assets['change'].get_absolute_href()) == out / task.out
    assert item.assets['probability'].media_type == pystac.MediaType.GEOTIFF
    assert len(item.get_links('derived_from')) == 2


def test_stac_collection_and_chosen_assets(stac, tmp_path):
    features = [json.loads(path.read_text()) for path in stac]
    listing = tmp_path / 'items.json'
    listing.write_text(json.dumps(dict(type='FeatureCollection', features=features)))
    (task,) = read_pairs(listing, ['blue', 'red'])
    assert [Path(file).name for file in task.b] == ['b_blue.tif', 'b_red.tif']
    assert Path(task.b[0]).is_file()
    with pytest.raises(UserError, match="no asset 'nir'; it has red, green, blue"):
        read_pairs(listing, ['nir'])
    listing.write_text(json.dumps(dict(type='FeatureCollection', features=features[:1])))
    with pytest.raises(UserError, match='two per pair'):
        read_pairs(listing)


def test_stacked_bands_keep_nodata_and_refuse_another_place(write_raster, tmp_path):
    rng = np.random.default_rng(0)
    bands = rng.integers(0, 1000, (2, 20, 30)).astype(np.uint16)
    files = [str(write_raster(f'{i}.tif', band[None], nodata=7)) for i, band in enumerate(bands)]
    with rasterio.open(stacked_bands(files, tmp_path / 'x.vrt')) as stacked:
        assert np.array_equal(stacked.read(), bands)
        assert stacked.nodatavals == (7.0, 7.0)
    elsewhere = str(write_raster('far.tif', bands[:1], origin=(0.0, 0.0)))
    with pytest.raises(UserError, match='bands of one image'):
        stacked_bands([files[0], elsewhere], tmp_path / 'x.vrt')


def test_stac_item_without_dates_is_an_error_before_anything_is_predicted(listed, tmp_path):
    pytest.importorskip('pystac')
    results = run_batch(Toy(), read_pairs(listed(1)), tmp_path / 'out', BatchOptions(items=True))
    assert 'columns date_a and date_b' in results.rows['a0']['error']
    assert bytes_of(tmp_path / 'out') == {}


def test_command_tells_by_its_exit_code_how_it_went(listed, tmp_path, tool, fc_ef):
    path, out = listed(2), tmp_path / 'out'
    argv = ['predict', '--pairs', path, '-o', out, *fc_ef]
    assert tool(*argv)[0] == 0
    (tmp_path / 'b1.tif').write_bytes(b'')
    code, said = tool(*argv, '--resume', '--overwrite')
    assert (code, 'failed: a1' in said) == (1, True)
    code, said = tool('predict', '--pairs', tmp_path / 'none.csv', '-o', out, *fc_ef)
    assert (code, 'does not exist' in said) == (2, True)
    code, said = tool('predict', 'a.tif', 'b.tif', '--resume', '-o', out, *fc_ef)
    assert (code, '--pairs' in said) == (2, True)


@pytest.fixture
def fc_ef(tmp_path) -> list[str]:
    """Arguments of a small model with random weights."""
    from mtkd_cd.inference.predictor import init_model
    from tests.conftest import TINY

    options = dict(option.split('=') for option in TINY)
    torch.manual_seed(0)
    detector = init_model(
        'configs/origin/fc_ef.py',
        device='cpu',
        cfg_options={key: int(value) for key, value in options.items()},
    )
    torch.save(dict(state_dict=detector.state_dict()), tmp_path / 'weights.pth')
    return [
        '-m', 'configs/origin/fc_ef.py', '--weights', str(tmp_path / 'weights.pth'),
        '--device', 'cpu', '--cfg-options', *TINY,
    ]  # fmt: skip


def test_maps_of_a_config_that_takes_its_input_otherwise_are_of_another_model(fc_ef):
    def identity(**options: object) -> str:
        small = {key: int(value) for key, value in (option.split('=') for option in fc_ef[7:])}
        source = ModelSource(fc_ef[1], fc_ef[3], 'cpu', cfg_options={**small, **options})
        return source.identity(source.open())

    data = 'test_dataloader.dataset'
    others = (
        {f'{data}.radiometry': 'linear(low=0, high=100)'},
        {f'{data}.bands': [3, 2, 1]},
        {'train_dataloader.dataset.pipeline.3.crop_size': (64, 64)},  # the window
    )
    assert len({identity(), identity(), *(identity(**other) for other in others)}) == 4


@pytest.mark.slow
def test_killed_command_and_killed_shard_are_resumed_to_the_same_bytes(listed, tmp_path, fc_ef):
    path = listed(8)

    def command(out: str, *more: str) -> list[str]:
        return [
            sys.executable, '-m', 'mtkd_cd', 'predict', '--pairs', str(path),
            '-o', str(tmp_path / out), *more, *fc_ef,
        ]  # fmt: skip

    def wait_for(out: str, count: int) -> None:
        deadline = time.monotonic() + 300
        while len(list((tmp_path / out).glob('[!.]*.tif'))) < count and time.monotonic() < deadline:
            time.sleep(0.005)

    subprocess.run(command('whole'), check=True)
    whole = bytes_of(tmp_path / 'whole')
    process = subprocess.Popen(command('killed'))
    wait_for('killed', 2)
    process.kill()
    process.wait()
    finished = bytes_of(tmp_path / 'killed')
    assert finished.items() <= whole.items()
    subprocess.run(command('killed', '--resume'), check=True)
    assert bytes_of(tmp_path / 'killed') == whole
    assert table_of(tmp_path / 'killed') == table_of(tmp_path / 'whole')

    process = subprocess.Popen(
        command('shards', '--jobs', '2', '--threads', '1'), stdout=subprocess.PIPE, text=True
    )
    wait_for('shards', 1)
    _kill_one_of(tmp_path / 'shards' / '.mtkd_cd_batch')
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0
    assert 'is started again' in said
    assert bytes_of(tmp_path / 'shards') == whole
    assert table_of(tmp_path / 'shards') == table_of(tmp_path / 'whole')
    for out in ('killed', 'shards'):
        assert leftovers(tmp_path / out) == []


def _kill_one_of(folder: Path) -> None:
    """Kill a shard, found by the folder that its command line names."""
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            words = path.read_bytes().decode(errors='replace')
        except OSError:
            continue
        if str(folder) in words and '_submit' in words:
            os.kill(int(path.parent.name), signal.SIGKILL)
            return
    pytest.fail('no shard is running')


def test_maps_of_another_precision_are_not_kept(listed, tmp_path, tool, fc_ef):
    argv = ['predict', '--pairs', listed(1), '-o', tmp_path / 'out']
    assert tool(*argv, *fc_ef)[0] == 0
    assert tool(*argv, '--resume', '--precision', 'float32', *fc_ef)[0] == 0
    before = bytes_of(tmp_path / 'out')
    code, said = tool(*argv, '--resume', '--precision', 'bfloat16', *fc_ef)
    assert code == 2
    assert ':bfloat16" now' in said
    assert bytes_of(tmp_path / 'out') == before
    options = ('--resume', '--overwrite', '--precision', 'bfloat16')
    assert tool(*argv, *options, *fc_ef)[0] == 0
    with rasterio.open(tmp_path / 'out' / 'a0.tif') as file:
        assert file.tags()['MTKD_CD_PRECISION'] == 'bfloat16'
