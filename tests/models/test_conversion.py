"""Published weights in foreign layouts, written by the tests, against the networks that they must
load into."""

import os
import runpy
import shlex
from collections import OrderedDict
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.core.errors import UserError
from mtkd_cd.evaluation.metric import PerImageChangeMetric
from mtkd_cd.models.conversion import LAYOUTS, convert_weights
from mtkd_cd.registry import MODELS

_TOOL = Path(__file__).parents[2] / 'tools' / 'convert_weights.py'
_AUTHORS_CLASSIFIER = dict(classifier_channels=(16, 8), classifier_act=False)


def _refilled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        key: torch.randn_like(value) if value.is_floating_point() else value + 5
        for key, value in weights.items()
    }


def _assert_equal(loaded: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    state = loaded.state_dict()
    assert [key for key, value in weights.items() if not torch.equal(state[key], value)] == []


@pytest.mark.parametrize('release', ['levir', 'whu'])
def test_authors_tinycd_loads_strictly(release, build_model, tmp_path):
    model = build_model('tinycd', backbone=_AUTHORS_CLASSIFIER)
    weights = _refilled(model.state_dict())
    original = OrderedDict()
    for key, value in weights.items():
        key = key.removeprefix('backbone.')
        if release == 'whu' and key.startswith('_mixing_mask.2.'):
            key = key.replace('_mixing_mask.2.', '_mixing_mask.2._mixing.')
        original[key] = value
    assert len(original) == 279
    torch.save(original, tmp_path / 'model_weights.pth')
    assert convert_weights(tmp_path / 'model_weights.pth', tmp_path / 'tinycd.pth') == 'tinycd'
    load_weights(model, tmp_path / 'tinycd.pth')
    _assert_equal(model, weights)


def test_authors_tinycd_is_refused_by_open_cds_classifier(build_model, tmp_path):
    original = {
        k.removeprefix('backbone.'): v
        for k, v in build_model('tinycd', backbone=_AUTHORS_CLASSIFIER).state_dict().items()
    }
    torch.save(original, tmp_path / 'model_weights.pth')
    convert_weights(tmp_path / 'model_weights.pth', tmp_path / 'tinycd.pth')
    with pytest.raises(UserError, match=r'another model.*_classify\._linears\.2'):
        load_weights(build_model('tinycd'), tmp_path / 'tinycd.pth')


def _clip_encoder(**changes) -> nn.Module:
    settings = dict(
        img_size=(28, 28),
        patch_size=14,
        patch_pad=0,
        embed_dims=16,
        num_layers=2,
        num_heads=2,
        out_indices=(0, 1),
    )
    settings.update(
        patch_bias=False,
        pre_norm=True,
        output_cls_token=True,
        norm_cfg=dict(type='LN', eps=1e-5),
        frozen_exclude=[],
    )
    return MODELS.build(
        dict(
            type='mtkd_cd.VisionTransformer',
            act_cfg=dict(type='mmseg.QuickGELU'),
            **settings | changes,
        )
    )


def _in_openais_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Layer by layer, as the specification's table has it."""
    named = {
        'visual.class_embedding': weights['cls_token'][0, 0],
        'visual.positional_embedding': weights['pos_embed'][0],
        'visual.conv1.weight': weights['patch_embed.projection.weight'],
        'visual.ln_post.weight': torch.ones(16),
        'visual.ln_post.bias': torch.ones(16),
        'visual.proj': torch.ones(16, 8),
        'logit_scale': torch.tensor(4.6),
        'transformer.resblocks.0.ln_1.weight': torch.ones(8),
        'token_embedding.weight': torch.ones(9, 8),
    }
    for part in ('weight', 'bias'):
        named[f'visual.ln_pre.{part}'] = weights[f'ln_pre.{part}']
        for i in range(2):
            theirs, ours = f'visual.transformer.resblocks.{i}', f'layers.{i}'
            named[f'{theirs}.ln_1.{part}'] = weights[f'{ours}.ln1.{part}']
            named[f'{theirs}.ln_2.{part}'] = weights[f'{ours}.ln2.{part}']
            named[f'{theirs}.attn.in_proj_{part}'] = weights[f'{ours}.attn.attn.in_proj_{part}']
            named[f'{theirs}.attn.out_proj.{part}'] = weights[f'{ours}.attn.attn.out_proj.{part}']
            named[f'{theirs}.mlp.c_fc.{part}'] = weights[f'{ours}.ffn.layers.0.0.{part}']
            named[f'{theirs}.mlp.c_proj.{part}'] = weights[f'{ours}.ffn.layers.1.{part}']
    return named


def test_openais_clip_loads_strictly_in_single_precision(tmp_path):
    encoder = _clip_encoder()
    weights = {key: value.half().float() for key, value in _refilled(encoder.state_dict()).items()}
    torch.save(
        {key: value.half() for key, value in _in_openais_names(weights).items()},
        tmp_path / 'ViT.pt',
    )
    assert convert_weights(tmp_path / 'ViT.pt', tmp_path / 'clip.pth') == 'clip'
    converted = torch.load(tmp_path / 'clip.pth', weights_only=True)
    assert {value.dtype for value in converted.values()} == {torch.float32}
    encoder.load_state_dict(
        {key.removeprefix('image_encoder.'): value for key, value in converted.items()}, strict=True
    )
    _assert_equal(encoder, weights)


def test_converted_clip_initialises_an_encoder_of_fewer_layers(tmp_path):
    weights = _refilled(_clip_encoder().state_dict())
    torch.save(_in_openais_names(weights), tmp_path / 'ViT.pt')
    convert_weights(tmp_path / 'ViT.pt', tmp_path / 'clip.pth')
    shallow = _clip_encoder(
        num_layers=1,
        out_indices=(0,),
        init_cfg=dict(type='Pretrained_Part', checkpoint=str(tmp_path / 'clip.pth')),
    )
    shallow.init_weights()
    _assert_equal(
        shallow, {key: value for key, value in weights.items() if not key.startswith('layers.1.')}
    )


def _sam_encoder(**changes) -> nn.Module:
    arch = dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32, global_attn_indexes=(1,)
    )
    settings = dict(arch=arch, img_size=64, patch_size=16, out_channels=8, window_size=3)
    return MODELS.build(dict(type='mtkd_cd.ViTSAM_Custom', **settings | changes))


def _in_segment_anythings_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {
        'image_encoder.pos_embed': weights['pos_embed'],
        'prompt_encoder.not_a_point_embed.weight': torch.ones(1, 8),
        'mask_decoder.iou_token.weight': torch.ones(1, 8),
    }
    for i in range(2):
        theirs, ours = f'image_encoder.blocks.{i}', f'layers.{i}'
        for part in ('weight', 'bias'):
            named[f'{theirs}.norm1.{part}'] = weights[f'{ours}.ln1.{part}']
            named[f'{theirs}.norm2.{part}'] = weights[f'{ours}.ln2.{part}']
            named[f'{theirs}.attn.qkv.{part}'] = weights[f'{ours}.attn.qkv.{part}']
            named[f'{theirs}.attn.proj.{part}'] = weights[f'{ours}.attn.proj.{part}']
            named[f'{theirs}.mlp.lin1.{part}'] = weights[f'{ours}.ffn.layers.0.0.{part}']
            named[f'{theirs}.mlp.lin2.{part}'] = weights[f'{ours}.ffn.layers.1.{part}']
        for table in ('rel_pos_h', 'rel_pos_w'):
            named[f'{theirs}.attn.{table}'] = weights[f'{ours}.attn.{table}']
    for part in ('weight', 'bias'):
        named[f'image_encoder.patch_embed.proj.{part}'] = weights[f'patch_embed.projection.{part}']
        for i in (1, 3):
            named[f'image_encoder.neck.{i}.{part}'] = weights[f'channel_reduction.{i}.{part}']
    for i in (0, 2):
        named[f'image_encoder.neck.{i}.weight'] = weights[f'channel_reduction.{i}.weight']
    return named


def test_segment_anything_loads_strictly(tmp_path):
    encoder = _sam_encoder()
    weights = _refilled(encoder.state_dict())
    torch.save(_in_segment_anythings_names(weights), tmp_path / 'sam_vit.pth')
    assert convert_weights(tmp_path / 'sam_vit.pth', tmp_path / 'sam.pth') == 'sam'
    converted = torch.load(tmp_path / 'sam.pth', weights_only=True)['state_dict']
    encoder.load_state_dict(
        {key.removeprefix('backbone.'): value for key, value in converted.items()}, strict=True
    )
    _assert_equal(encoder, weights)


def test_converted_sam_initialises_ttps_tuned_backbone(tmp_path):
    weights = _refilled(_sam_encoder().state_dict())
    torch.save(_in_segment_anythings_names(weights), tmp_path / 'sam_vit.pth')
    convert_weights(tmp_path / 'sam_vit.pth', tmp_path / 'sam.pth')
    arch = dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32, global_attn_indexes=(1,)
    )
    layers = dict(type='TimeFusionTransformerEncoderLayer')
    encoder_cfg = dict(
        type='ViTSAM_Custom',
        arch=arch,
        img_size=64,
        out_channels=8,
        window_size=3,
        layer_cfgs=layers,
    )
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'sam.pth'))
    turner = MODELS.build(
        dict(
            type='VisionTransformerTurner',
            encoder_cfg=encoder_cfg,
            peft_cfg=dict(r=2),
            init_cfg=init_cfg,
        )
    )
    turner.init_weights()
    renamed = {key.replace('.qkv.', '.qkv.base_layer.'): value for key, value in weights.items()}
    _assert_equal(turner.encoder, renamed)


@pytest.mark.parametrize('layout', [None, 'clip'])
def test_file_of_no_known_layout_is_refused_and_nothing_is_written(layout, build_model, tmp_path):
    torch.save(build_model('fc_ef').state_dict(), tmp_path / 'fc_ef.pth')
    with pytest.raises(
        UserError, match=r'fc_ef\.pth cannot be converted: its tensors are backbone\..*clip: OpenAI'
    ):
        convert_weights(tmp_path / 'fc_ef.pth', tmp_path / 'out.pth', layout)
    assert [path.name for path in tmp_path.iterdir()] == ['fc_ef.pth']


def test_torchscript_archive_is_refused_with_the_command_that_takes_its_weights_out(tmp_path):
    class Visual(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = nn.Linear(2, 3)

        def forward(self, x):
            return self.visual(x)

    archive = tmp_path / 'ViT-L-14.pt'
    torch.jit.trace(Visual(), torch.ones(1, 2)).save(archive)
    with pytest.raises(UserError, match='TorchScript archive') as error:
        convert_weights(archive, tmp_path / 'clip.pth')
    command = str(error.value).split('python -c "')[1].split('"')[0]
    exec(command)
    weights = torch.load(tmp_path / 'ViT-L-14.weights.pth', weights_only=True)
    assert list(weights) == ['visual.weight', 'visual.bias']


def test_file_with_code_is_refused(tmp_path):
    torch.save({'visual.conv1.weight': nn.Linear(1, 1)}, tmp_path / 'evil.pth')
    with pytest.raises(UserError, match='pickled objects'):
        convert_weights(tmp_path / 'evil.pth', tmp_path / 'out.pth')


def test_tool_converts_and_prints_how_to_use_the_file(build_model, tmp_path, capsys):
    original = {
        k.removeprefix('backbone.'): v
        for k, v in build_model('tinycd', backbone=_AUTHORS_CLASSIFIER).state_dict().items()
    }
    torch.save(original, tmp_path / 'model_weights.pth')
    main = runpy.run_path(str(_TOOL))['main']
    main([str(tmp_path / 'model_weights.pth'), str(tmp_path / 'tinycd.pth')])
    assert f'mtkd-cd test configs/origin/tinycd.py {tmp_path}/tinycd.pth' in capsys.readouterr().out
    with pytest.raises(UserError, match='cannot be converted'):  # the new file is in our layout
        main([str(tmp_path / 'tinycd.pth'), str(tmp_path / 'again.pth')])


@pytest.fixture
def authors_tinycd(build_model, tmp_path):
    """The published network, trained on LEVIR-CD."""
    folder = os.environ.get('MTKD_CD_DATA')
    if not folder:
        pytest.skip('MTKD_CD_DATA is not set')
    convert_weights(Path(folder, 'weights', 'tinycd_levir_best.pth'), tmp_path / 'tinycd.pth')
    model = build_model('tinycd', backbone=_AUTHORS_CLASSIFIER).eval()
    load_weights(model, tmp_path / 'tinycd.pth')
    return model, Path(folder)


@pytest.mark.realdata
def test_published_tinycd_gives_the_authors_logits(authors_tinycd, make_pairs):
    model, _ = authors_tinycd
    with torch.no_grad():
        logits = model(make_pairs(2, 128)[0], mode='tensor')
    assert (float(logits.mean()), float(logits.std())) == pytest.approx(
        (-15.126816, 3.562299), rel=1e-4
    )
    assert [float(logits[0, 0, i, i]) for i in (0, 40, 100)] == pytest.approx(
        [-5.338622, -17.046672, -11.655197], rel=1e-4
    )


@pytest.mark.realdata
def test_published_tinycd_finds_the_buildings_of_levir_cd(authors_tinycd):
    model, folder = authors_tinycd
    mean, std = [123.675, 116.28, 103.53] * 2, [58.395, 57.12, 57.375] * 2
    prepare = MODELS.build(
        dict(
            type='DualInputSegDataPreProcessor',
            mean=mean,
            std=std,
            bgr_to_rgb=True,
            test_cfg=dict(size_divisor=32),
        )
    )
    metric = PerImageChangeMetric()
    root = folder / 'levir_samples'
    files = sorted(path.name for path in (root / 'A').iterdir())
    for file in files:
        dates = [
            torch.from_numpy(cv2.imread(str(root / date / file))).permute(2, 0, 1) for date in 'AB'
        ]
        label = torch.from_numpy(
            cv2.imread(str(root / 'label' / file), cv2.IMREAD_GRAYSCALE) >= 128
        ).long()
        sample = SegDataSample(
            gt_sem_seg=PixelData(data=label[None]),
            metainfo=dict(ori_shape=(256, 256), img_shape=(256, 256)),
        )
        data = prepare(dict(inputs=[torch.cat(dates)], data_samples=[sample]), False)
        with torch.no_grad():
            metric.process(
                None, [prediction.to_dict() for prediction in model(**data, mode='predict')]
            )
    with DefaultScope.overwrite_default_scope('mtkd_cd'):
        scores = metric.evaluate(len(files))
    assert len(files) == 11
    assert scores['pooled_Fscore_changed'] == pytest.approx(92.77, abs=0.2)
    assert scores['mIoU'] == pytest.approx(88.35, abs=0.2)


def test_command_to_use_a_converted_detector_sets_what_the_config_knows():
    layout = LAYOUTS['tinycd']
    command = shlex.split(layout.use.format(path='new.pth'))
    assert command[:4] == ['mtkd-cd', 'test', 'configs/origin/tinycd.py', 'new.pth']
    options = command[command.index('--cfg-options') + 1 :]
    assert [option.partition('=')[0] for option in options] == list(layout.options)
