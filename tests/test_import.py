import subprocess
import sys


def run(code):
    return subprocess.run(
        [sys.executable, '-W', 'default', '-c', code], capture_output=True, text=True, check=False
    )


def test_import_registers_and_needs_neither_torchvision_nor_compiled_ops():
    """Both are made unimportable first."""
    result = run(
        'import sys\n'
        "sys.modules['torchvision'] = None\n"
        "sys.modules['mmcv._ext'] = None\n"
        'import mtkd_cd\n'
        'from mtkd_cd.registry import MODELS, DATASETS, METRICS\n'
        "assert all(MODELS.get(name) for name in ('MultiTeacherDistiller', 'OriginPartitionCascade', 'Changer', 'FC_EF', 'FCNHead'))\n"
        "assert DATASETS.get('CARPartitionDataset') and METRICS.get('PerImageChangeMetric')\n"
        "assert not any(name.startswith('mmcv.ops') and module for name, module in sys.modules.items())\n"
    )
    assert result.returncode == 0, result.stderr


def test_import_prints_nothing():
    result = run(
        'import warnings; warnings.filterwarnings("ignore", category=DeprecationWarning); import '
        'mtkd_cd'
    )
    assert (result.stdout, result.stderr) == ('', '')
