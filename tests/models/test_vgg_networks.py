"""What the golden numbers of IFN and CGNet, the two that start from VGG16, do not show."""

import pytest
import torch
from mmseg.models.backbones import CGNet as MMSegCGNet

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.backbones import IFN, CGNet
from mtkd_cd.models.backbones.cgnet import ChangeGuide
from mtkd_cd.models.backbones.vgg import vgg16_features
from mtkd_cd.registry import MODELS


@pytest.mark.parametrize(
    ('network', 'with_bn', 'encoder'), [(IFN, False, 'encoder2'), (CGNet, True, '')]
)
def test_encoder_takes_published_weights(network, with_bn, encoder, tmp_path):
    published = {
        f'features.{key}': torch.rand_like(value.float())
        for key, value in vgg16_features(with_bn).state_dict().items()
    }
    published = {
        key: value for key, value in published.items() if not key.endswith('num_batches_tracked')
    }  # an old file
    torch.save(published | {'classifier.0.weight': torch.zeros(1)}, tmp_path / 'vgg.pth')
    model = network(pretrained=str(tmp_path / 'vgg.pth'))
    model.init_weights()
    own = model.state_dict()
    for key, value in published.items():
        index = int(key.split('.')[1])
        part = ['inc', 'down1', 'down2', 'down3', 'down4'][
            sum(index >= first for first in (6, 13, 23, 33))
        ]
        name = f'{encoder}.{key}' if encoder else key.replace('features', part)
        assert torch.equal(own[name], value), name


def test_weights_without_batch_norm_are_no_start_for_cgnet(tmp_path):
    torch.save(
        {f'features.{key}': value for key, value in vgg16_features().state_dict().items()},
        tmp_path / 'vgg16.pth',
    )
    with pytest.raises(UserError, match=r'vgg16\.pth are not those of CGNet.*vgg16_bn'):
        CGNet(pretrained=str(tmp_path / 'vgg16.pth')).init_weights()


def test_second_copy_of_ifns_encoder_counts():
    model = IFN(pretrained=False)
    weights = {
        key: torch.full_like(value, key.startswith('encoder2'))
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(weights)
    assert model.encoder1.features[0].weight.unique().tolist() == [1]


def test_ifn_trains_its_decoder_alone():
    model = IFN(pretrained=False)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 21280125 - (
        2 * 1024 * 128 + 2 * 1024 + 2 * 1536
    )
    assert all(
        name.startswith(('encoder1', 'ca1', 'bn_ca'))
        for name, p in model.named_parameters()
        if not p.requires_grad
    )


def test_dropout_of_ifn_closes_every_convolution_and_adds_no_keys():
    model = IFN(pretrained=False, use_dropout=True)
    assert (
        sum(isinstance(module, torch.nn.Dropout) and module.p == 0.6 for module in model.modules())
        == 14
    )
    assert list(model.state_dict()) == list(IFN(pretrained=False).state_dict())


def test_guide_strengthens_queries_keys_and_values():
    torch.manual_seed(0)
    layer, x = ChangeGuide(16), torch.randn(1, 16, 3, 4)
    torch.nn.init.constant_(layer.gamma, 0.5)
    guide = torch.randn(1, 1, 3, 4)
    query, key, value = (
        (conv(x) * (1 + guide.sigmoid()))[0].flatten(1)
        for conv in (layer.query_conv, layer.key_conv, layer.value_conv)
    )
    attended = value @ (key.T @ query).softmax(0)
    torch.testing.assert_close(layer(x, guide)[0], 0.5 * attended.view(16, 3, 4) + x[0])


def test_cgnets_batch_norm_learns_and_what_no_formula_uses_does_not_train():
    model = CGNet(pretrained=False).train()
    model(*torch.randn(2, 2, 3, 16, 32))
    counts = {
        key: int(value)
        for key, value in model.state_dict().items()
        if key.endswith('num_batches_tracked')
    }
    encoder = {count for key, count in counts.items() if key.startswith(('inc', 'down'))}
    assert (
        encoder,
        counts['conv_reduce_1.bn.num_batches_tracked'],
        counts['up_layer4.bn.num_batches_tracked'],
    ) == ({2}, 1, 0)
    assert {name.split('.')[0] for name, p in model.named_parameters() if not p.requires_grad} == {
        'up_layer2',
        'up_layer3',
        'up_layer4',
    }


def test_name_means_the_change_detector_here_and_mmsegs_with_its_prefix():
    assert MODELS.get('CGNet') is CGNet
    assert MODELS.get('mmseg.CGNet') is MMSegCGNet


@pytest.mark.parametrize('network', [IFN, CGNet])
def test_size_that_does_not_fit_names_the_one_that_does(network):
    with pytest.raises(UserError, match=f'{network.__name__}.*250 x 190.*256 x 192'):
        network(pretrained=False)(*torch.zeros(2, 1, 3, 250, 190))
