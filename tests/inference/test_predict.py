"""The command: its outputs, its exit codes, and what it says where."""

import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch

from mtkd_cd.apis import ChangeInferencer, init_model
from mtkd_cd.cli import predict as command
from mtkd_cd.core.checkpoint import save_checkpoint
from mtkd_cd.engine.config import load_config

CONFIG = Path(__file__).parents[2] / 'configs' / 'origin' / 'fc_ef.py'
TINY = {
    'model.backbone.base_channel': 4,
    'model.decode_head.in_channels': 4,
    'model.decode_head.channels': 4,
}


@pytest.fixture
def model(tmp_path) -> list[str]:
    """Arguments that name a tiny model of random weights."""
    torch.manual_seed(0)
    detector = init_model(load_config(CONFIG, TINY), device='cpu')
    save_checkpoint(dict(state_dict=detector.state_dict()), tmp_path / 'w.pth')
    options = [f'{key}={value}' for key, value in TINY.items()]
    return [
        *('-m', str(CONFIG), '--weights', str(tmp_path / 'w.pth')),
        *('--device', 'cpu', '--window', '64', '--cfg-options', *options),
    ]


@pytest.fixture
def files(write_raster, scene) -> tuple[Path, Path]:
    a, b = scene(100, 150)
    return write_raster('a.tif', a), write_raster('b.tif', b)


def test_map_equals_that_of_python(tool, model, files, tmp_path, read):
    code, error = tool(
        'predict', *files, '-o', tmp_path / 'o.tif', '--probability', tmp_path / 'p.tif', *model
    )
    assert (code, error) == (0, '')
    inferencer = ChangeInferencer(CONFIG, tmp_path / 'w.pth', device='cpu', cfg_options=TINY)
    inferencer.predict_raster(*files, tmp_path / 'q.tif', window=64)
    assert (read(tmp_path / 'o.tif') == read(tmp_path / 'q.tif')).all()
    with rasterio.open(tmp_path / 'p.tif') as file:
        assert file.scales == (0.004,)


def test_second_run_refuses_and_overwrite_replaces(tool, model, files, tmp_path):
    argv = ['predict', *files, '-o', tmp_path / 'o.tif', *model]
    assert tool(*argv)[0] == 0
    before = (tmp_path / 'o.tif').stat().st_mtime_ns
    code, error = tool(*argv)
    assert code == 2
    assert error.startswith('error: change ')
    assert 'exists: give another name or --overwrite' in error
    assert (tmp_path / 'o.tif').stat().st_mtime_ns == before
    assert tool(*argv[:-1], argv[-1], '--overwrite')[0] == 0
    assert (tmp_path / 'o.tif').stat().st_mtime_ns > before


def test_dry_run_reports_and_writes_nothing(model, files, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    command.main([*map(str, files), '-o', str(tmp_path / 'o.tif'), '--dry-run', *model])
    text = capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before
    for part in (
        'grid: 150 x 100, EPSG:32632',
        'windows: 6 of 64 x 64, overlap 16',
        'memory: ',
        'disk: ',
        'stretch: identity',
        "ground sample distance: 10 x 10 m, the model's unknown",
        'shift of B: ',
    ):
        assert part in text


def test_progress_is_for_terminals_only(model, files, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    argv = [*map(str, files), '-o', str(tmp_path / 'o.tif'), '--overwrite', *model]
    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, 'stderr', stream)
        command.main(argv)
        assert ('Mpixel/s' in stream.getvalue()) == shown
    assert '100.0 %' in stream.getvalue()


def test_pictures(tool, model, scene, tmp_path):
    a, b = scene(90, 70)
    for name, date in (('a', a), ('b', b)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), date.transpose(1, 2, 0)[:, :, ::-1])
    code, _ = tool(
        'predict', tmp_path / 'a.png', tmp_path / 'b.png', '-o', tmp_path / 'o.png', *model
    )
    assert code == 0
    assert cv2.imread(str(tmp_path / 'o.png'), cv2.IMREAD_UNCHANGED).shape == (90, 70)


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (['--bands', '3;2'], 'whole numbers with commas'),
        (['--overlap', 'half'], '25% or a number of pixels'),
        (['--overlap', '125%'], '0% to 87.5%'),
        (['--overlap', '99%'], "'99%': 0% to 87.5%"),
        (['--overlap', 'nan%'], '0% to 87.5%'),
        (['--window', '0'], '0 is below 1'),
    ],
)
def test_usage_errors_exit_with_2(model, files, tmp_path, options, expected, capsys):
    with pytest.raises(SystemExit) as error:
        command.main([*map(str, files), '-o', str(tmp_path / 'o.tif'), *model, *options])
    assert error.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'about'), [(['--min-area', '5'], 'vector'), (['--mask-values', '3'], 'mask')]
)
def test_option_without_effect_is_refused(tool, model, files, tmp_path, options, about):
    code, error = tool('predict', *files, '-o', tmp_path / 'o.tif', *model, *options)
    assert (code, f'{options[0]} is about --{about}, which is not given' in error) == (2, True)
    assert not (tmp_path / 'o.tif').exists()


def test_options_reach_the_prediction(tool, model, write_raster, tmp_path):
    values = np.random.default_rng(0).integers(0, 3000, (5, 70, 70)).astype(np.uint16)
    files = write_raster('a.tif', values), write_raster('b.tif', values[:, ::-1].copy())
    code, error = tool(
        'predict',
        *files,
        *('-o', tmp_path / 'o.tif', '--bands', '4,3,2', '--stretch', 'linear(low=0, high=3000)'),
        *('--overlap', '50%', '--threshold', '0.4', '--offset-b', '-10'),
        *('--bbox', 500_000, 4_799_500, 500_600, 4_800_000),
        *model,
    )
    assert (code, error) == (0, '')
    with rasterio.open(tmp_path / 'o.tif') as file:
        tags = file.tags()
        assert file.shape == (50, 60)
    assert (tags['MTKD_CD_THRESHOLD'], tags['MTKD_CD_OVERLAP']) == ('0.4', '32')
    assert json.loads(tags['MTKD_CD_STRETCH'])['high'] == 3000


def test_precision_reaches_the_layers_and_the_tags(tool, model, files, tmp_path, convolved):
    def run(name, *options):
        convolved.clear()
        argv = (*files, '-o', tmp_path / f'{name}.tif', *options)
        probability = ('--probability', tmp_path / f'{name}_p.tif', '--prob-dtype', 'float32')
        assert tool('predict', *argv, *probability, *model) == (0, '')
        found = []
        for path in (tmp_path / f'{name}.tif', tmp_path / f'{name}_p.tif'):
            with rasterio.open(path) as file:
                found.append((file.tags(), file.read(1)))
        assert found[0][0].get('MTKD_CD_PRECISION') == found[1][0].get('MTKD_CD_PRECISION')
        return found[1]

    tags, exact = run('plain')
    assert convolved == {torch.float32}
    assert 'MTKD_CD_PRECISION' not in tags
    same_tags, same = run('same', '--precision', 'float32')
    assert (same == exact).all()
    assert same_tags == tags
    tags, rounded = run('low', '--precision', 'bfloat16')
    assert torch.bfloat16 in convolved
    assert tags['MTKD_CD_PRECISION'] == 'bfloat16'
    assert 0 < np.abs(rounded - exact).max() < 0.02


def test_dry_run_tells_the_precision(model, files, tmp_path, capsys):
    out = ('-o', str(tmp_path / 'o.tif'), '--dry-run')
    command.main([*map(str, files), *out, '--precision', 'bfloat16', *model])
    assert 'on cpu in bfloat16, threshold' in capsys.readouterr().out
