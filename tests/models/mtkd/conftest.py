"""A toy package with detectors of its own scope, as Open-CD has, and builders of configs, batches
and checkpoints for them."""

import importlib
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import mtkd_cd  # noqa: F401  (registers)

TOY_REGISTRY = """
    from mmengine.registry import MODELS as ROOT_MODELS, Registry

    MODELS = Registry('model', parent=ROOT_MODELS, scope='toycd', locations=['toycd'])
"""

TOY_MODELS = """
    from mmengine.structures import PixelData
    from mmseg.models.decode_heads import FCNHead
    from mmseg.models.segmentors import EncoderDecoder
    from torch import nn

    from toycd.registry import MODELS


    @MODELS.register_module()
    class ToyBackbone(nn.Module):
        # Batch norm and dropout: a teacher that is not in eval mode gives itself away.
        def __init__(self, stride=2, channels=8, in_channels=6):
            super().__init__()
            self.conv = nn.Conv2d(in_channels, channels, 3, stride, 1)
            self.bn = nn.BatchNorm2d(channels)
            self.drop = nn.Dropout2d(0.3)

        def forward(self, x):
            return (self.drop(self.bn(self.conv(x)).relu()),)


    @MODELS.register_module()
    class ToyHead(FCNHead):
        forwards = 0

        def forward(self, inputs):
            type(self).forwards += 1
            return super().forward(inputs)


    @MODELS.register_module()
    class TwoMapsHead(ToyHead):
        # Two change maps, one per order of the dates, as ChangeStar's head.
        def forward(self, inputs):
            change_map = super().forward(inputs)
            return change_map, change_map * 0.5 + 0.1

        def loss_by_feat(self, maps, data_samples):
            losses = {}
            for i, change_map in enumerate(maps):
                for key, value in super().loss_by_feat(change_map, data_samples).items():
                    losses[f'map{i}.{key}'] = value
            return losses

        def predict_by_feat(self, maps, metas):
            return super().predict_by_feat(maps[0], metas)


    @MODELS.register_module()
    class ToyDetector(EncoderDecoder):
        pass


    @MODELS.register_module()
    class SemanticHead(ToyHead):
        # The binary change map under a name, beside a map of classes, as heads of semantic change.
        def __init__(self, binary='seg_logits', **kwargs):
            super().__init__(**kwargs)
            self.binary = binary
            self.classes = nn.Conv2d(self.channels, 4, 1)

        def forward(self, inputs):
            features = self.dropout(self._forward_feature(inputs))
            return {'seg_logits_from': self.classes(features), self.binary: self.conv_seg(features)}

        def loss_by_feat(self, maps, data_samples):
            for sample in data_samples:
                sample.gt_sem_seg.data[:] = 1  # a detector that edits its labels
            return super().loss_by_feat(maps[self.binary], data_samples)

        def predict_by_feat(self, maps, metas):
            return super().predict_by_feat(maps[self.binary], metas)


    @MODELS.register_module()
    class SemanticDetector(EncoderDecoder):
        # Shifts the classes of its samples, in place, for the evaluator.
        def postprocess_result(self, seg_logits, data_samples=None):
            results = super().postprocess_result(seg_logits, data_samples)
            for sample in results:
                if 'gt_sem_seg_from' in sample:
                    sample.gt_sem_seg_from.data += 1
                sample.binary_map = sample.pred_sem_seg
            return results
"""


@pytest.fixture(scope='session')
def toycd(tmp_path_factory):
    """The toy package, importable; returns its folder."""
    root = tmp_path_factory.mktemp('toy')
    package = root / 'toycd'
    package.mkdir()
    (package / 'registry.py').write_text(textwrap.dedent(TOY_REGISTRY))
    (package / 'models.py').write_text(textwrap.dedent(TOY_MODELS))
    (package / '__init__.py').write_text('from toycd import models, registry\n')
    sys.path.insert(0, str(root))
    importlib.import_module('toycd')
    yield root
    sys.path.remove(str(root))


@pytest.fixture(autouse=True)
def our_scope(toycd):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        yield


def detector_config(
    head='ToyHead',
    out_channels=2,
    stride=2,
    channels=8,
    scope='toycd.',
    inner='',
    detector='ToyDetector',
    head_kwargs=None,
    **overrides,
):
    """A toy detector; ``scope`` prefixes its type and ``inner`` the types of its parts."""
    loss = dict(type='mmseg.CrossEntropyLoss', use_sigmoid=out_channels == 1)
    return dict(
        type=f'{scope}{detector}',
        backbone=dict(type=f'{inner}ToyBackbone', stride=stride, channels=channels),
        decode_head=dict(
            type=f'{inner}{head}',
            in_channels=channels,
            in_index=0,
            channels=channels,
            num_convs=1,
            concat_input=False,
            norm_cfg=dict(type='BN'),
            num_classes=2,
            out_channels=out_channels,
            threshold=0.5 if out_channels == 1 else None,
            dropout_ratio=0.1,
            loss_decode=loss,
            **(head_kwargs or {}),
        ),
        train_cfg={},
        test_cfg=dict(mode='whole'),
        **overrides,
    )


def label_with_car(car, size=20, ignored_rows=0):
    """(1, H, W) label whose first pixels, in reading order, are changed; the last rows ignored."""
    label = torch.zeros(size * size, dtype=torch.long)
    label[: round(car * size * size)] = 1
    label = label.view(1, size, size)
    if ignored_rows:
        label[:, -ignored_rows:] = 255
    return label


def make_samples(cars, size=20, stored=True, ignored_rows=0):
    samples = []
    for i, car in enumerate(cars):
        sample = SegDataSample(gt_sem_seg=PixelData(data=label_with_car(car, size, ignored_rows)))
        sample.set_metainfo(
            dict(
                img_path=[f'A/{i}.png', f'B/{i}.png'],
                ori_shape=(size, size),
                img_shape=(size, size),
                pad_shape=(size, size),
            )
        )
        if stored:
            sample.set_metainfo(dict(car=car))
        samples.append(sample)
    return samples


def seeded_state(module, seed):
    """Different weights and running statistics for every seed."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in module.state_dict().items():
        low = 0.5 if key.endswith('running_var') else -0.5
        state[key] = (
            torch.rand(value.shape, generator=generator) + low
            if value.is_floating_point()
            else value
        )
    return state


@pytest.fixture
def toy(tmp_path):
    """Builders: ``config``, ``samples``, ``label``, and ``checkpoints(names, configs)`` that writes
    a file of random weights per name."""
    from mtkd_cd.models.mtkd.building import build_detector

    def checkpoints(*names, config=None, configs=()):
        files = {}
        for seed, name in enumerate(names):
            detector = build_detector(dict(configs).get(name, config or detector_config()))
            files[name] = str(tmp_path / f'{name}.pth')
            torch.save(dict(state_dict=seeded_state(detector, seed)), files[name])
        return files

    return SimpleNamespace(
        config=detector_config, samples=make_samples, label=label_with_car, checkpoints=checkpoints
    )
