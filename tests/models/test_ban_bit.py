"""BAN with a ResNet beside the foundation model and BIT's decoder, which no golden figures
cover."""

import pytest
import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.decode_heads import BAN_BITHead, BITHead
from mtkd_cd.models.decode_heads.ban import build_side_adapter_network

pytestmark = pytest.mark.filterwarnings('ignore:For binary segmentation:UserWarning')
_CE = dict(type='CrossEntropyLoss')


def _resnet(**changes) -> dict:
    return dict(
        type='mmseg.ResNetV1c',
        depth=18,
        base_channels=8,
        num_stages=3,
        strides=(1, 2, 1),
        dilations=(1, 1, 1),
        out_indices=(2,),
        **changes,
    )


def test_head_computes_what_bits_head_computes_of_the_stacked_dates():
    plain = BITHead(in_channels=8, num_classes=2, loss_decode=_CE).eval()
    head = BAN_BITHead(in_channels=8, loss_decode=_CE).eval()
    head.load_state_dict(plain.state_dict(), strict=True)
    date1, date2 = torch.randn(2, 1, 8, 6, 9)
    torch.testing.assert_close(head(date1, date2), plain([torch.cat((date1, date2), dim=1)]))
    assert head(date1, date2).shape == (1, 2, 48, 72)


def test_stages_between_the_bridges_are_the_resnets():
    branch = build_side_adapter_network(_resnet(), clip_channels=16, fusion_index=[1]).eval()
    encoder = branch.side_encoder
    image, foundation = torch.randn(2, 3, 64, 96), torch.randn(2, 16, 4, 4)
    before = encoder.layer2(encoder.layer1(encoder.maxpool(encoder.stem(image))))
    expected = encoder.layer3(branch.clip_attns[0](before, branch.conv_clips[0](foundation)))
    torch.testing.assert_close(branch([image, foundation]), expected)
    assert expected.shape == (2, 32, 8, 12)


def test_bridges_of_a_resnet_have_the_width_of_its_stages_and_one_two_and_four_heads():
    branch = build_side_adapter_network(
        _resnet(), clip_channels=[16, 24, 32], fusion_index=[0, 1, 2]
    )
    assert [bridge.attn.attn.num_heads for bridge in branch.clip_attns] == [1, 2, 4]
    assert [bridge.attn.attn.embed_dim for bridge in branch.clip_attns] == [8, 16, 32]
    assert [tuple(project[1].conv.weight.shape[:2]) for project in branch.conv_clips] == [
        (8, 16),
        (16, 24),
        (32, 32),
    ]


@pytest.mark.parametrize(
    ('side', 'found'),
    [
        (dict(type='mmseg.ResNetV1c', depth=50), 'mmseg.ResNetV1c of depth 50'),
        (dict(type='FC_EF', in_channels=6), 'FC_EF'),
    ],
)
def test_other_side_encoders_are_refused(side, found):
    with pytest.raises(
        UserError, match=rf'MixVisionTransformer or a ResNet of depth 18 or 34, found {found}'
    ):
        build_side_adapter_network(side)
