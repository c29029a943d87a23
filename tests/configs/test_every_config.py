"""Every config does its work: each model goes through the whole recipe on tiny scenes, one training
step per run, one test image."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mtkd_cd.data.synthetic import make_dataset
from mtkd_cd.recipe.options import RecipeOptions
from mtkd_cd.recipe.run import run_recipe

CONFIGS = Path(__file__).parents[2] / 'configs'
NAMES = sorted(path.stem for path in (CONFIGS / 'origin').glob('*.py'))
UNSERIALIZED = {
    f'{split}_dataloader.dataset.serialize_data': False for split in ('train', 'val', 'test')
}  # which collects garbage
# The models of hundreds of millions of parameters with few and narrow layers.
SHALLOW = {
    'ban_vitl14_mitb2': {
        'model.encoder_resolution.size': (42, 42),
        'model.image_encoder.img_size': (42, 42),
        'model.image_encoder.embed_dims': 32,
        'model.image_encoder.num_layers': 4,
        'model.image_encoder.num_heads': 4,
        'model.image_encoder.out_indices': (1, 2, 3),
        'model.decode_head.ban_cfg.clip_channels': 32,
        'model.decode_head.ban_cfg.side_enc_cfg.init_cfg': None,
        'model.decode_head.ban_cfg.side_enc_cfg.embed_dims': 8,
        'model.decode_head.ban_cfg.side_enc_cfg.num_layers': [1, 1, 1, 1],
        'model.decode_head.ban_dec_cfg.in_channels': [8, 16, 40, 64],
    },
    'ttp_vitsam_l': {
        'model.backbone.encoder_cfg.arch': dict(
            _delete_=True,
            embed_dims=32,
            num_layers=3,
            num_heads=4,
            feedforward_channels=64,
            global_attn_indexes=(2,),
        ),
        'model.backbone.encoder_cfg.img_size': (64, 64),
        'model.backbone.encoder_cfg.window_size': 3,
        'model.decode_head.out_size': (16, 16),
    },
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('scenes') / 'data'
    make_dataset(root, num_train=6, num_val=1, num_test=1, size=64, seed=0)
    return root


@pytest.mark.slow  # fc_ef goes through the recipe in tests/recipe, fast
@pytest.mark.parametrize('name', NAMES)
def test_recipe_runs(name, scenes, tmp_path):
    # Two pairs a step: some networks normalise 1 x 1 maps over the batch.
    options = RecipeOptions(
        configs=CONFIGS,
        work_dir=tmp_path,
        data_root=scenes,
        iters=1,
        student_iters=1,
        image_size=64,
        batch_size=2,
        num_workers=0,
        device='cpu',
        cfg_options={'model.pretrained': None, **UNSERIALIZED, **SHALLOW.get(name, {})},
    )
    report = run_recipe(name, options)
    assert {strategy.text for strategy in report.metrics} == {'origin', 'op', 'mtkd'}
    assert all(
        math.isfinite(value) for metrics in report.metrics.values() for value in metrics.values()
    )
    places = [
        f'origin/{name}',
        *(f'partition/{name}/{range_name}' for range_name in ('small', 'medium', 'large')),
        f'mtkd/{name}',
    ]
    states = [
        torch.load(tmp_path / place / 'best.pth', weights_only=True)['state_dict']
        for place in places
    ]
    assert (
        len({tuple((key, tuple(value.shape)) for key, value in state.items()) for state in states})
        == 1
    )
    parameters = [
        torch.cat([value.flatten().double() for value in state.values()]) for state in states
    ]
    assert all(not torch.equal(first, second) for first, second in pairwise(parameters))
