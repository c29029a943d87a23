"""The bridge to albumentations, with a stand-in for the library."""

import sys
from types import ModuleType

import numpy as np
import pytest

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.transforms import MultiImgAlbu


@pytest.fixture
def library(monkeypatch):
    module = ModuleType('albumentations')
    module.__version__ = '0'

    class Crop:
        def __init__(self, height):
            self.height = height

        def __call__(self, arrays):
            return {name: array[: self.height] for name, array in arrays.items()}

    class Compose:
        def __init__(self, transforms, additional_targets=None):
            self.transforms = transforms

        def __call__(self, arrays=None, **named):
            arrays = arrays or named
            for transform in self.transforms:
                arrays = transform(arrays)
            return arrays

    module.Crop, module.Compose, module.Sequential = Crop, Compose, Compose
    monkeypatch.setitem(sys.modules, 'albumentations', module)


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'albumentations', None)
    with pytest.raises(UserError, match='pip install albumentations'):
        MultiImgAlbu([])


@pytest.mark.usefixtures('library')
def test_both_dates_and_the_label_go_through_one_call(results):
    pair = results(20, 30)
    nested = [{'type': 'Sequential', 'transforms': [{'type': 'Crop', 'height': 12}]}]
    found = MultiImgAlbu(nested, update_pad_shape=True)(dict(pair))
    np.testing.assert_array_equal(found['img'], [image[:12] for image in pair['img']])
    np.testing.assert_array_equal(found['gt_seg_map'], pair['gt_seg_map'][:12])
    assert found['img_shape'] == found['pad_shape'] == (12, 30)


@pytest.mark.usefixtures('library')
def test_unknown_transforms_are_named():
    with pytest.raises(UserError, match="'NoSuchThing'"):
        MultiImgAlbu([{'type': 'NoSuchThing'}])
