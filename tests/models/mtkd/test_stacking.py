"""Teachers of one architecture asked together say what they say one after the other."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.mtkd import stacking
from mtkd_cd.models.mtkd.stacking import TOLERANCE, Asking
from mtkd_cd.models.prepare import Prepared
from mtkd_cd.registry import MODELS

_CONFIGS = Path(__file__).parents[3] / 'configs' / '_base_' / 'models'
_SIDE = 32
# Of the batch's images three are small, one is medium, one is large.
_CARS = (0.01, 0.5, 0.02, 0.1, 0.015)


def _model(name):
    config = Config.fromfile(_CONFIGS / f'{name}.py')
    config.merge_from_dict(dict(model=dict(pretrained=None, data_preprocessor=None)))
    config.model.decode_head.dropout_ratio = 0
    return config.model


def _distiller(student, **options):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        return MODELS.build(dict(type='MultiTeacherDistiller', student=student, **options))


def _make_different(teachers):
    generator = torch.Generator().manual_seed(3)
    for teacher in teachers.values():
        for name, tensor in teacher.state_dict().items():
            if 'running_var' in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(0.05 * noise * (tensor.std() if tensor.numel() > 1 else 1))


def _batch():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(len(_CARS), 6, _SIDE, _SIDE, generator=generator)
    samples = []
    for car in _CARS:
        label = (torch.rand(1, _SIDE, _SIDE, generator=generator) < car).long()
        sample = SegDataSample(gt_sem_seg=PixelData(data=label))
        shape = (_SIDE, _SIDE)
        sample.set_metainfo(dict(car=car, ori_shape=shape, img_shape=shape, pad_shape=shape))
        samples.append(sample)
    return inputs, samples


def _answers(distiller):
    distiller.teachers  # noqa: B018  (are loaded first)
    return {
        tuple(lesson.positions): lesson.change_maps
        for lesson in distiller.distillation.begin(*_batch(), [])()
    }


@pytest.mark.parametrize('name', ['fc_siam_diff', 'changer_mitb0'])
def test_stacked_teachers_say_the_same(name):
    distiller = _distiller(_model(name))
    _make_different(distiller.teachers)
    one_by_one = _answers(distiller)
    teachers = distiller.distillation.teachers
    teachers._ask = Asking('stacked')
    modes = []
    for prepared in teachers._prepared.values():
        layers = prepared.detector.modules()
        next(layer for layer in layers if isinstance(layer, nn.Conv2d)).register_forward_pre_hook(
            lambda *_: modes.append(torch.is_inference_mode_enabled())
        )
    _answers(distiller)  # the first batch is asked both ways
    assert len(modes) > 3
    assert all(modes)  # of either way, for layers choose between two orders by it
    forwards = []
    for prepared in teachers._prepared.values():
        prepared.detector.forward = lambda *_, **__: forwards.append(1)
    together = _answers(distiller)
    assert not forwards
    assert set(together) == set(one_by_one) == {(0, 2, 4), (1,), (3,)}
    for positions, maps in one_by_one.items():
        for one, other in zip(maps, together[positions], strict=True):
            assert one.shape == other.shape
            assert (one - other).abs().max() <= TOLERANCE * one.abs().max()
    # Two of the three.
    pair = [('large', _batch()[0][:2]), ('small', _batch()[0][2:])]
    found = teachers.all_change_maps(pair)
    teachers._prepared = {n: Prepared(d) for n, d in teachers.detectors.items()}
    teachers._ask = Asking('grouped')
    for maps, (teacher, inputs) in zip(found, pair, strict=True):
        torch.testing.assert_close(maps, teachers.change_maps(teacher, inputs), rtol=0, atol=1e-4)


def test_mixed_precision_is_no_reason_to_refuse():
    """One after the other, teachers round there by a hundred times the tolerance; stacked, they
    compute in full precision."""
    distiller = _distiller(_model('fc_ef'))
    _make_different(distiller.teachers)
    exact = _answers(distiller)
    teachers = distiller.distillation.teachers
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rounded = _answers(distiller)
        teachers._ask = Asking('stacked')
        _answers(distiller)
        together = _answers(distiller)
    assert teachers._ask._stack is not None
    for positions, (map_,) in exact.items():
        limit = TOLERANCE * map_.abs().max()
        assert (map_ - rounded[positions][0]).abs().max() > 10 * limit
        assert (map_ - together[positions][0]).abs().max() <= limit


def test_the_student_learns_the_same():
    gradients = []
    for batching in ('grouped', 'stacked'):
        distiller = _distiller(
            _model('fc_ef'),
            teacher_batching=batching,
            distill_loss=dict(type='ChangeMapMSELoss', loss_weight=1.0),
        ).train()
        _make_different(distiller.teachers)
        distiller.train()
        for module in distiller.modules():
            if 'Dropout' in type(module).__name__:
                module.p = 0.0
        for _ in range(2):  # the second batch is asked in the chosen way alone
            distiller.zero_grad()
            inputs, samples = _batch()
            losses = distiller.loss(inputs, copy.deepcopy(samples))
            total, logged = distiller.parse_losses(losses)
            total.backward()
        assert logged['loss_distill'] > 0
        gradients.append(torch.cat([p.grad.flatten() for p in distiller.parameters()]))
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-5 * gradients[0].abs().max()


@pytest.mark.parametrize('is_faster', [False, True])
def test_auto_takes_the_faster_way_and_says_so(is_faster, monkeypatch, caplog):
    monkeypatch.setattr(stacking, 'faster', lambda *_: (is_faster, 0.002, 0.001))
    said = []
    monkeypatch.setattr(stacking, 'print_log', lambda text, **_: said.append(text))
    distiller = _distiller(_model('fc_ef'), teacher_batching='auto')
    _answers(distiller)
    way = 'stacked' if is_faster else 'grouped'
    assert said == [f"teacher_batching='{way}': 2.0 ms one after the other, 1.0 ms stacked"]
    assert distiller.distillation.teachers._ask._batching == way
    again = copy.deepcopy(distiller)
    _answers(again)
    assert len(said) == 1


def test_measures_which_of_two_calls_is_faster():
    slow = torch.randn(600, 600)
    is_faster, first, second = stacking.faster(lambda: slow @ slow @ slow, lambda: None)
    assert is_faster
    assert first > second


def test_teachers_of_several_architectures_are_asked_one_after_the_other(monkeypatch):
    said = []
    monkeypatch.setattr(stacking, 'print_log', lambda text, **_: said.append(text))
    options = dict(teachers=dict(small=_model('fc_siam_conc')))
    distiller = _distiller(_model('fc_ef'), teacher_batching='auto', **options)
    assert len(_answers(distiller)) == 3
    assert 'not of one architecture' in said[0]
    distiller = _distiller(_model('fc_ef'), teacher_batching='stacked', **options)
    with pytest.raises(UserError, match=r"not of one architecture.*'grouped'"):
        _answers(distiller)


@pytest.mark.parametrize('mixed', [False, True])
def test_wrong_results_are_never_taken(monkeypatch, mixed):
    monkeypatch.setattr(
        stacking.Stack,
        'change_maps',
        lambda self, questions: [(torch.zeros(len(i), 2, _SIDE, _SIDE),) for _, i in questions],
    )
    distiller = _distiller(_model('fc_ef'), teacher_batching='stacked')
    with (
        torch.autocast('cpu', dtype=torch.bfloat16, enabled=mixed),
        pytest.raises(UserError, match='differ by'),
    ):
        _answers(distiller)


def test_unknown_way_is_refused():
    with pytest.raises(UserError, match='teacher_batching'):
        _distiller(_model('fc_ef'), teacher_batching='together')
