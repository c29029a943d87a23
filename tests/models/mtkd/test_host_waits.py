"""Where a step would make the host wait for an accelerator: seen without one, on torch's ``meta``
device, whose tensors have no numbers to read."""

import traceback
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mtkd_cd  # noqa: F401  (registers)
from mtkd_cd.registry import MODELS

_CONFIGS = Path(__file__).parents[3] / 'configs' / '_base_' / 'models'
_READ = ('aten::_local_scalar_dense', 'aten::is_nonzero', 'aten::equal')
_SIZED_BY_NUMBERS = ('aten::nonzero', 'aten::masked_select', 'aten::_unique2')
_HOOKS = ('__torch_dispatch__', '__torch_function__')
_SIDE = 64


class _Reads(TorchDispatchMode):
    """Notes reads of a device's numbers, results whose size depends on them, and what mixes tensors
    of the host with those of the device."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        on_device, on_host = _by_place((args, kwargs))
        if on_device and name in (*_READ, *_SIZED_BY_NUMBERS):
            self.found.append(f'{name} {_place()}')
            if name in _READ:
                return 1
        masks = [one for one in on_device[1:] if one.dtype in (torch.bool, torch.uint8)]
        if name == 'aten::index' and masks:
            self.found.append(f'a mask for an index {_place()}')
            return on_device[0].new_empty((1,))
        result = func(*args, **(kwargs or {}))
        made_on_device, made_on_host = _by_place(result)
        if (on_device or made_on_device) and (on_host or made_on_host):
            self.found.append(f'{name} between host and device {_place()}')
        return result


class _Copies(TorchFunctionMode):
    """Notes tensors that are made on the device from numbers of Python."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func in (torch.tensor, torch.as_tensor) and 'cpu' not in str(
            kwargs.get('device') or 'cpu'
        )
        made |= func is torch.Tensor.new_tensor and args[0].device.type == 'meta'
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            made |= args[0].device.type == 'meta' and any(isinstance(i, list) for i in index)
        if made:
            self.found.append(f'{func.__name__} of numbers {_place()}')
        return func(*args, **kwargs)


def _by_place(values):
    """(tensors of the device, those of the host); a number in a tensor of its own is handed to a
    kernel as an argument, and no copy."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    on_device = [one for one in tensors if one.device.type == 'meta']
    return on_device, [one for one in tensors if one.device.type == 'cpu' and one.dim() > 0]


def _place():
    frames = [
        frame
        for frame in traceback.extract_stack()
        if '/torch/' not in frame.filename and frame.name not in ('_place', *_HOOKS)
    ]
    return f'{Path(frames[-1].filename).name}:{frames[-1].lineno}'


def _batch(pairs=4):
    samples = []
    for i in range(pairs):
        label = torch.zeros((1, _SIDE, _SIDE), dtype=torch.long, device='meta')
        sample = SegDataSample(gt_sem_seg=PixelData(data=label))
        shape = (_SIDE, _SIDE)
        car = (0.02, 0.1, 0.5)[i % 3]
        sample.set_metainfo(dict(car=car, ori_shape=shape, img_shape=shape, pad_shape=shape))
        samples.append(sample)
    images = torch.zeros((pairs, 6, _SIDE, _SIDE), dtype=torch.uint8, device='meta')
    return dict(inputs=list(images), data_samples=samples)


@pytest.fixture
def distiller():
    def build(name, **options):
        config = Config.fromfile(_CONFIGS / f'{name}.py')
        config.merge_from_dict(dict(model=dict(pretrained=None)))
        with DefaultScope.overwrite_default_scope('mtkd_cd'):
            model = MODELS.build(
                dict(type='MultiTeacherDistiller', student=config.model, **options)
            )
            model.teachers  # noqa: B018  (builds them)
        model = model.to('meta').train()
        model.data_preprocessor._device = torch.device('meta')
        return model

    return build


def _waits(step):
    found = []
    with _Copies(found), _Reads(found):
        step()
    return found


def test_counts_what_waits():
    mask = torch.ones(3, device='meta') > 0
    on_device = torch.zeros(3, device='meta')
    assert len(_waits(lambda: on_device[mask])) == 1
    assert len(_waits(lambda: on_device[[0, 2]])) == 1
    assert len(_waits(lambda: on_device + on_device.new_tensor([1.0, 2.0, 3.0]))) == 1
    assert len(_waits(lambda: bool(on_device.sum() > 0))) == 1
    assert not _waits(lambda: on_device * 2 + on_device[1:2] + torch.tensor(1.0))


@pytest.mark.parametrize(
    'name', ['changer_mitb0', 'fc_siam_diff', pytest.param('bit_r18', marks=pytest.mark.slow)]
)  # of tinycd, mmseg's loss waits
def test_a_training_step_never_waits(distiller, name):
    model = distiller(name)

    def step():
        data = model.data_preprocessor(_batch(), True)
        losses = model.loss(**data)
        total, _ = model.parse_losses(losses)
        total.backward()

    assert _waits(step) == []


def test_a_test_step_never_waits(distiller):
    model = distiller('changer_mitb0').eval()

    def step():
        with torch.no_grad():
            model.test_step(_batch())

    assert _waits(step) == []
