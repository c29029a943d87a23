"""Counts of parameters and operations against the paper's and against arithmetic."""

from pathlib import Path

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import ConfigDict

from mtkd_cd.analysis.complexity import (
    build_without_weights,
    count_complexity,
    published_complexity,
)
from mtkd_cd.core.errors import UserError
from mtkd_cd.engine.config import load_config
from mtkd_cd.paper.published import published_models

CONFIGS = Path(__file__).parents[2] / 'configs'


def model_of(name: str, stage: str = 'origin') -> ConfigDict:
    return load_config(CONFIGS / stage / f'{name}.py').model


# Exported in over three seconds of CPU, the last two in thirteen.
LARGE = [
    'changeformer_mitb1',
    'tinycd',
    'hanet',
    'changer_mitb0',
    'changer_mitb1',
    'changer_s50',
    'lightcdnet_s',
    'ban_vitl14_mitb2',
    'ttp_vitsam_l',
]


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
        for name in published_models()
    ],
)
def test_counts_are_those_of_table_6(name):
    found, paper = count_complexity(model_of(name)), published_complexity(name)
    counted = (round(found.parameters, 3), round(found.flops, 3))
    assert counted == (paper.parameters, paper.flops)


def test_counts_of_shapes_are_those_of_a_real_run():
    """mmengine's own function on a model with weights; changer_r18 has convolutions, norms,
    resizing and sampling."""
    model = model_of('changer_r18')
    real = build_without_weights(model).to_empty(device='cpu').eval()
    result = get_model_complexity_info(
        real, inputs=torch.zeros(1, 6, 64, 96), show_table=False, show_arch=False
    )
    found = count_complexity(model, (64, 96))
    assert (found.parameters * 1e6, found.flops * 1e9) == pytest.approx(
        (result['params'], result['flops']), rel=1e-9
    )


def test_student_alone_is_counted():
    assert count_complexity(model_of('fc_ef', 'mtkd'), (64, 64)) == count_complexity(
        model_of('fc_ef'), (64, 64)
    )


def test_fully_convolutional_network_costs_in_proportion_to_pixels():
    small, large = (
        count_complexity(model_of('fc_siam_diff'), shape) for shape in ((32, 64), (64, 64))
    )
    assert large.flops == pytest.approx(2 * small.flops)


@pytest.mark.parametrize(
    ('name', 'shape', 'works'),
    [
        ('tinycd', (250, 190), 'pad to 256 x 192'),
        ('changestar_farseg_r18', (64, 48), 'multiples of 32'),
        ('changer_mitb0', (8, 40), '32 x 40'),
    ],
)
def test_size_that_the_network_cannot_take_is_answered_with_one_that_it_can(name, shape, works):
    with pytest.raises(UserError, match=works):
        count_complexity(model_of(name), shape)
