"""What tools/test.py prints and leaves."""

import json
import os
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from mtkd_cd.cli.common import run_tool
from mtkd_cd.engine.config import load_config
from mtkd_cd.evaluation import load_table
from mtkd_cd.registry import MODELS

REPO = Path(__file__).parents[2]
SHRUNK = {
    'model.backbone.base_channel': 4,
    'model.decode_head.in_channels': 4,
    'model.decode_head.channels': 4,
}


@pytest.fixture
def run_test_tool(train_argv, tmp_path, capfd):
    """Tests an untrained fc_ef in ``<tmp_path>/work``; gives the exit code and the standard
    output."""
    config = REPO / 'configs' / 'origin' / 'fc_ef.py'
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        model = MODELS.build(load_config(config, SHRUNK).model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'weights.pth')

    def run(*flags, options=()):
        MMLogger._instance_dict.clear()
        capfd.readouterr()
        first, *others = train_argv('origin', *flags, options=options)
        with pytest.raises(SystemExit) as exit_info:
            run_tool(
                runpy.run_path(str(REPO / 'tools' / 'test.py'))['main'],
                [first, str(tmp_path / 'weights.pth'), *others],
            )
        return exit_info.value.code, capfd.readouterr().out

    return run


def test_the_table_of_each_image_is_kept_and_named_without_being_asked_for(run_test_tool, tmp_path):
    code, out = run_test_tool()
    assert code == 0
    table = load_table(tmp_path / 'work' / 'per_image.json')
    assert len(table) == 7
    assert out.rstrip().endswith(f'per-image table: {tmp_path}/work/per_image.json')
    stored = json.loads((tmp_path / 'work' / 'per_image.json').read_text())
    first = next(line for line in out.splitlines() if 'per-image mean' in line)
    assert f'{sum(row["mIoU"] for row in stored["images"]) / 7:.2f}' in first.split()
    assert 'pooled' in out


def test_out_gets_the_same_rows_in_the_wanted_format(run_test_tool, tmp_path):
    code, out = run_test_tool(
        '--out', tmp_path / 'scores.csv', options=('test_evaluator.num_quantiles=2',)
    )
    assert code == 0
    assert (
        load_table(tmp_path / 'scores.csv').rows()
        == load_table(tmp_path / 'work' / 'per_image.json').rows()
    )
    assert f'per-image table: {tmp_path}/scores.csv' in out
    assert '| q2 ' in out
    assert '| q3 ' not in out


def test_a_table_of_another_kind_is_refused_before_the_test(run_test_tool, tmp_path):
    assert run_test_tool('--out', tmp_path / 'scores.xlsx')[0] == 2
    assert not (tmp_path / 'work').exists()


def test_another_metric_prints_what_it_does_beside_the_table(run_test_tool, tmp_path):
    code, _ = run_test_tool(options=('test_evaluator.type=mmseg.IoUMetric', 'log_level=INFO'))
    assert code == 0
    log = next((tmp_path / 'work').rglob('*.log')).read_text()
    assert 'per class results' in log
    # The table of each image is there whatever else is measured.
    assert (tmp_path / 'work' / 'per_image.json').is_file()


@pytest.mark.parametrize('flags', [(), ('--tta',)])
def test_precision_reaches_the_layers_and_the_table(run_test_tool, tmp_path, convolved, flags):
    path = tmp_path / 'work' / 'per_image.json'
    assert run_test_tool(*flags)[0] == 0
    assert convolved == {torch.float32}
    assert 'precision' not in path.read_text()
    for more, options in ((('--precision', 'bfloat16'), ()), ((), ('precision=bfloat16',))):
        convolved.clear()
        assert run_test_tool(*flags, *more, options=(*options, 'log_level=INFO'))[0] == 0
        assert torch.bfloat16 in convolved
        assert load_table(path).provenance.precision == 'bfloat16'
        logs = sorted((tmp_path / 'work').rglob('*.log'))
        assert 'The network computes in bfloat16' in logs[-1].read_text()
    # What is asked for goes before what the config says.
    convolved.clear()
    assert run_test_tool(*flags, '--precision', 'float32', options=('precision=bfloat16',))[0] == 0
    assert convolved == {torch.float32}
    assert load_table(path).provenance.precision is None


def test_an_unknown_precision_is_refused(run_test_tool, capfd):
    assert run_test_tool(options=('precision=half',))[0] == 2


def _test_in_one_of_several(argv, folder):
    """Run the tool as torchrun starts it; leave the types that its convolutions gave."""
    rank = str(torch.distributed.get_rank())
    os.environ.update(TORCHELASTIC_RUN_ID='test', LOCAL_RANK=rank)
    found = set()
    register_module_forward_hook(
        lambda module, args, output: (
            found.add(str(output.dtype)) if isinstance(module, nn.Conv2d) else None
        )
    )
    runpy.run_path(str(REPO / 'tools' / 'test.py'))['main'](argv)
    (folder / rank).write_text(' '.join(found))


@pytest.mark.parametrize('flags', [(), ('--tta',)])
def test_processes_that_share_a_test_take_the_precision_too(
    run_test_tool, train_argv, tmp_path, in_two_processes, flags
):
    flags = (*flags, '--precision', 'bfloat16')
    assert run_test_tool(*flags)[0] == 0
    alone = load_table(tmp_path / 'work' / 'per_image.json')
    argv = train_argv('origin', *flags, '--launcher', 'pytorch', '--device', 'cpu')
    argv[1:1] = [str(tmp_path / 'weights.pth')]
    argv[argv.index('--work-dir') + 1] = str(tmp_path / 'shared')
    in_two_processes(_test_in_one_of_several, argv, tmp_path)
    for rank in '01':
        assert 'bfloat16' in (tmp_path / rank).read_text()
    shared = load_table(tmp_path / 'shared' / 'per_image.json')
    assert shared.rows() == alone.rows()
    assert shared.provenance.precision == 'bfloat16'
