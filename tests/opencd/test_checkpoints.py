"""Files of Open-CD's step 3, which hold a student and its teachers."""

import pytest
import torch
from mmengine.config import Config

from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.files import CONFIGS
from mtkd_cd.opencd.checkpoints import convert_distilled
from mtkd_cd.registry import MODELS

PREFIXES = dict(small='teacher_s.', medium='teacher_m.', large='teacher_l.')


@pytest.fixture
def step_3(tmp_path):
    """Four detectors of different weights, and the file that Open-CD would save of them."""
    cfg = Config.fromfile(CONFIGS / 'origin' / 'fc_ef.py').model
    detectors, state_dict = {}, {}
    for seed, name in enumerate(['student', *PREFIXES]):
        torch.manual_seed(seed)
        detectors[name] = MODELS.build(cfg).eval()
        prefix = PREFIXES.get(name, '')
        state_dict |= {prefix + key: value for key, value in detectors[name].state_dict().items()}
    path = tmp_path / 'iter_100000.pth'
    torch.save(dict(meta=dict(iter=100000), state_dict=state_dict), path)
    return path, detectors


def test_every_detector_of_the_file_computes_what_it_did(step_3, tmp_path):
    path, detectors = step_3
    files = convert_distilled(path, tmp_path / 'parts')
    assert set(files) == set(detectors)
    inputs = torch.rand(1, 6, 32, 32)
    for name, detector in detectors.items():
        other = MODELS.build(Config.fromfile(CONFIGS / 'origin' / 'fc_ef.py').model).eval()
        load_weights(other, files[name])
        with torch.no_grad():
            assert torch.equal(other(inputs, mode='tensor'), detector(inputs, mode='tensor'))


def test_file_loaded_directly_gives_its_student_and_says_so(step_3):
    path, detectors = step_3
    other = MODELS.build(Config.fromfile(CONFIGS / 'origin' / 'fc_ef.py').model)
    load_weights(other, path)
    wanted = detectors['student'].state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in other.state_dict().items())


def test_file_without_teachers_is_refused(tmp_path):
    path = tmp_path / 'plain.pth'
    torch.save(dict(state_dict={'a.weight': torch.ones(1)}), path)
    with pytest.raises(UserError, match='holds no teachers'):
        convert_distilled(path, tmp_path)


def test_tool_writes_the_parts_and_says_how_to_use_them(step_3, tool, tmp_path):
    path, _ = step_3
    assert tool('convert_weights', path, tmp_path / 'parts')[0] == 0
    written = sorted(file.name for file in (tmp_path / 'parts').glob('*.pth'))
    assert written == ['large.pth', 'medium.pth', 'small.pth', 'student.pth']
