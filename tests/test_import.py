"""What importing costs, and that everything is registered all the same."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

benchmark = runpy.run_path(str(Path(__file__).parents[1] / 'benchmarks/import_time.py'))

# What tools for tables and labels must not wait for.
HEAVY = ('torch', 'mmcv', 'mmseg', 'transformers')


def run(code):
    return subprocess.run(
        [sys.executable, '-W', 'default', '-c', code], capture_output=True, text=True, check=False
    )


def modules_after(code):
    result = run(f'{code}\nimport sys; print(*sys.modules)')
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_everything_is_found_without_torchvision_compiled_ops_and_transformers():
    """All three are made unimportable, or watched, first; mmengine's root registries get nothing
    but the name of the package, as from a config of another scope with ``custom_imports``."""
    result = run(
        'import sys\n'
        "sys.modules['torchvision'] = None\n"
        "sys.modules['mmcv._ext'] = None\n"
        'import mtkd_cd\n'
        'from mmengine.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS, TRANSFORMS\n'
        "for registry, names in ((MODELS, ('MultiTeacherDistiller', 'OriginPartitionCascade', "
        "'Changer', 'FC_EF', 'LN2d', 'BCLLoss', 'TinyFPN', 'DualInputSegDataPreProcessor')), "
        "(DATASETS, ('CARPartitionDataset', 'SYSU_CD_Dataset')), "
        "(METRICS, ('PerImageChangeMetric',)), (HOOKS, ('ChangeBoardHook', 'BestWeightsHook')), "
        "(LOOPS, ('ReplayableIterLoop',)), (TRANSFORMS, ('MultiImgRandomCrop',))):\n"
        '    for name in names:\n'
        "        assert registry.get(f'mtkd_cd.{name}').__name__ == name\n"
        'from mmengine.registry import DefaultScope\n'
        "with DefaultScope.overwrite_default_scope('mtkd_cd'):\n"
        '    with MODELS.switch_scope_and_registry(None) as ours:\n'
        "        assert ours.get('UPerHead').__module__.startswith('mmseg.')\n"
        "        assert ours.get('FC_EF') and ours.get('Nothing') is None\n"
        "assert not {'transformers', 'sympy', 'matplotlib', 'scipy.ndimage'} & set(sys.modules)\n"
        "assert not any(name.startswith('mmcv.ops') and module "
        'for name, module in sys.modules.items())\n'
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ''


def test_importing_the_package_imports_and_prints_nothing():
    code = 'import sys; before = len(sys.modules); import mtkd_cd; print(len(sys.modules) - before)'
    result = run(code)
    assert result.stderr == ''
    assert int(result.stdout) <= 6


def test_parts_for_tables_and_labels_import_neither_torch_nor_mmseg():
    parts = (
        'apis',
        'registry',
        'core.car',
        'core.files',
        'data.labels',
        'data.pairs',
        'data.layout',
        'data.car_index',
        'data.synthetic',
        'evaluation.image_table',
        'evaluation.scores',
        'evaluation.statistics',
        'evaluation.masks',
        'analysis.check',
        'analysis.car_stats',
        'reporting.comparison',
        'reporting.build',
    )
    found = modules_after('import ' + ', '.join(f'mtkd_cd.{part}' for part in parts))
    assert found.isdisjoint(HEAVY)


@pytest.mark.slow
def test_model_that_is_imported_by_its_module_leaves_transformers_out():
    found = modules_after('import mtkd_cd.models.mtkd.cascade')
    assert 'mmengine.optim.optimizer.builder' in found
    assert 'transformers' not in found


def test_help_of_every_command_imports_neither_torch_nor_mmseg_nor_matplotlib():
    found = modules_after(
        'import contextlib, io\n'
        'from mtkd_cd.cli.main import COMMANDS, main\n'
        'for name in COMMANDS:\n'
        '    with contextlib.redirect_stdout(io.StringIO()) as said:\n'
        "        with contextlib.suppress(SystemExit): main([name, '--help'])\n"
        "    assert said.getvalue().startswith(f'usage: mtkd-cd {name} '), said.getvalue()\n"
    )
    assert found.isdisjoint({*HEAVY, 'matplotlib'})


def test_comparison_without_images_imports_nothing_that_builds_configs_or_reads_images(tmp_path):
    statement = benchmark['whole_commands'](tmp_path)['mtkd-cd compare']
    found = modules_after(f'import contextlib\nwith contextlib.suppress(SystemExit): {statement}')
    assert (tmp_path / 'compare/report.html').is_file()
    assert found.isdisjoint({*HEAVY, 'mmengine', 'cv2'})


@pytest.mark.slow
def test_commands_that_need_no_model_stay_light(tmp_path):
    commands = benchmark['whole_commands'](tmp_path)
    assert 'mtkd-cd compare --data-root' in commands
    code = ['import contextlib, sys']
    for statement in commands.values():
        code += ['with contextlib.suppress(SystemExit):', f'    {statement}']
    found = modules_after('\n'.join([*code, 'print()']))
    assert (tmp_path / 'cars.png').is_file()
    assert 'data:image/jpeg' in (tmp_path / 'compare/report.html').read_text()
    assert found.isdisjoint({*HEAVY, 'mmengine'})


def test_a_prediction_imports_no_compiler_of_torch():
    """torch._dynamo takes longer to import than a prediction of a small model takes."""
    found = modules_after(
        'import torch\n'
        'from mtkd_cd.apis import get_config, init_model\n'
        'from mtkd_cd.models.prepare import Prepared\n'
        "prepared = Prepared(init_model(get_config('fc_ef'), device='cpu')).detector\n"
        'assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in prepared.modules())\n'
        'prepared.predict(torch.zeros(1, 6, 64, 64))\n'
    )
    assert 'mtkd_cd.models.prepare' in found
    assert 'torch._dynamo' not in found


def test_the_benchmark_of_imports_measures_no_command_that_fails():
    with pytest.raises(SystemExit, match='failed: import sys'):
        benchmark['cost']("import sys; sys.exit('no such folder')")
