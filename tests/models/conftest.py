"""What the model tests share: building from our configs, and weights and inputs that any
implementation can rebuild."""

import copy
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

import mtkd_cd  # noqa: F401
from mtkd_cd.registry import MODELS

# What makes the largest models small enough to train for a step; the parts and their connections
# stay.
_SHALLOW = dict(
    ban_vitl14_mitb2=dict(
        encoder_resolution=dict(size=(42, 56)),
        image_encoder=dict(
            img_size=(42, 56), embed_dims=32, num_layers=4, num_heads=4, out_indices=(1, 2, 3)
        ),
        decode_head=dict(
            ban_cfg=dict(
                clip_channels=32,
                side_enc_cfg=dict(init_cfg=None, embed_dims=8, num_layers=[1, 1, 1, 1]),
            ),
            ban_dec_cfg=dict(in_channels=[8, 16, 40, 64]),
        ),
    ),
    ttp_vitsam_l=dict(
        backbone=dict(
            encoder_cfg=dict(
                arch=dict(
                    _delete_=True,
                    embed_dims=32,
                    num_layers=3,
                    num_heads=4,
                    feedforward_channels=64,
                    global_attn_indexes=(2,),
                ),
                img_size=(64, 96),
                window_size=3,
            )
        ),
        decode_head=dict(out_size=(16, 16)),
    ),
)
_CONFIGS = Path(__file__).parents[2] / 'configs' / '_base_' / 'models'


@pytest.fixture(autouse=True)
def _our_scope_and_seed():
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        yield


@pytest.fixture
def model_config() -> Callable[..., ConfigDict]:
    """``configs/_base_/models/NAME.py`` without preprocessor and pretrained weights, with changes
    of the model's entries.

    ``shallow``: with few and narrow layers, if the model has hundreds of millions of parameters.
    """

    def config_of(name: str, shallow: bool = False, **changes) -> ConfigDict:
        config = Config.fromfile(_CONFIGS / f'{name}.py')
        if shallow:
            config.merge_from_dict(dict(model=copy.deepcopy(_SHALLOW.get(name, {}))))
        config.merge_from_dict(
            dict(model={'data_preprocessor': None, 'pretrained': None, **changes})
        )
        return config.model

    return config_of


@pytest.fixture
def build_model(model_config) -> Callable[..., nn.Module]:
    """Build what ``model_config`` gives."""

    def build(name: str, shallow: bool = False, **changes) -> nn.Module:
        return MODELS.build(model_config(name, shallow, **changes))

    return build


@pytest.fixture
def seed_weights() -> Callable[[nn.Module, int], None]:
    """Fill a model with numbers that depend on the names of its parameters alone."""

    def seed(model: nn.Module, salt: int = 0) -> None:
        for key, value in model.state_dict().items():
            if not value.is_floating_point():
                value.zero_()
                continue
            noise = np.random.default_rng(zlib.crc32(key.encode()) + salt).standard_normal(
                tuple(value.shape), dtype=np.float32
            )
            if key.endswith('running_var'):
                noise = 1 + 0.1 * np.abs(noise)
            elif not key.endswith('.weight'):
                noise = 0.05 * noise
            elif noise.ndim >= 2:
                noise = noise * np.float32(np.sqrt(2 / np.prod(noise.shape[1:])))
            else:
                noise = 1 + 0.05 * noise
            value.copy_(torch.from_numpy(np.asarray(noise)))

    return seed


@pytest.fixture
def make_pairs() -> Callable[..., tuple[torch.Tensor, list[SegDataSample]]]:
    """(N, 6, size, size) normalised pairs, and samples with labels that hold 0, 1 and the ignored
    255."""

    def make(batch: int, size: int, seed: int = 7) -> tuple[torch.Tensor, list[SegDataSample]]:
        inputs = np.random.default_rng(seed).standard_normal(
            (batch, 6, size, size), dtype=np.float32
        )
        samples = []
        for i in range(batch):
            label = torch.zeros((1, size, size), dtype=torch.int64)
            side = size // (2 + i)
            label[:, 4 : 4 + side, 8 : 8 + side] = 1
            label[:, -6:] = 255
            sample = SegDataSample(
                metainfo=dict(
                    ori_shape=(size, size), img_shape=(size, size), pad_shape=(size, size)
                )
            )
            samples.append(sample.set_data(dict(gt_sem_seg=PixelData(data=label))) or sample)
        return torch.from_numpy(inputs), samples

    return make
