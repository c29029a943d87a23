"""What the golden numbers of TinyCD do not show."""

import pytest
import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.backbones import TinyCD
from mtkd_cd.models.backbones.tinycd import MBConv, MixingBlock, UpMask


def _trunk_file(model: TinyCD, path) -> dict[str, torch.Tensor]:
    """A checkpoint in torchvision's layout, with layers that TinyCD has no use for."""
    names = [
        key.replace('_backbone.', 'features.', 1)
        for key in model.state_dict()
        if key.startswith('_backbone.')
    ]
    weights = {
        name: torch.rand_like(value.float())
        for name, value in zip(names, model.state_dict().values())
    }
    torch.save(
        weights | {'features.8.0.weight': torch.zeros(1), 'classifier.1.weight': torch.zeros(1)},
        path,
    )
    return weights


def test_trunk_takes_published_weights(tmp_path):
    torch.manual_seed(0)
    model = TinyCD(3, pretrained=str(tmp_path / 'b4.pth'))
    weights = _trunk_file(model, tmp_path / 'b4.pth')
    fresh = model._up[0]._convolution[0].weight.clone()
    model.init_weights()
    assert torch.equal(
        model._backbone[2][1].block[2].fc1.weight, weights['features.2.1.block.2.fc1.weight']
    )
    for name, value in weights.items():
        if not name.endswith('num_batches_tracked'):
            assert torch.equal(
                model.state_dict()[name.replace('features.', '_backbone.', 1)], value
            ), name
    assert torch.equal(model._up[0]._convolution[0].weight, fresh)


def test_published_weights_of_another_network_are_refused(tmp_path):
    model = TinyCD(3, pretrained=str(tmp_path / 'other.pth'))
    weights = _trunk_file(model, tmp_path / 'other.pth')
    weights['features.1.0.block.0.0.weight'] = torch.zeros(32, 1, 3, 3)
    torch.save(weights, tmp_path / 'other.pth')
    with pytest.raises(
        UserError,
        match=(
            r'other\.pth.*not those of TinyCD: 1 of '
            r'214.*features\.1\.0\.block\.0\.0\.weight.*efficientnet_b4'
        ),
    ):
        model.init_weights()


def test_open_cds_config_without_network_says_how_to_do_without_weights(
    build_model, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    monkeypatch.setattr(TinyCD, 'weights_url', 'http://127.0.0.1:9/b4.pth')
    with pytest.raises(UserError, match=r'model\.backbone\.pretrained=False'):
        build_model('tinycd', backbone=dict(pretrained=True)).init_weights()
    build_model('tinycd').init_weights()


def test_blocks_are_dropped_more_often_the_deeper_they_are():
    blocks = [
        module for module in TinyCD(3, pretrained=False).modules() if isinstance(module, MBConv)
    ]
    residual = [block.drop_path.drop_prob for block in blocks if block.residual]
    assert residual == pytest.approx([0.00625, 0.01875, 0.025, 0.03125, 0.04375, 0.05, 0.05625])


def test_dropped_block_passes_its_input_on_and_the_others_are_scaled_up():
    torch.manual_seed(0)
    block = MBConv(8, 8, 6, 3, 1, drop_path=0.5).train()
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    x = torch.randn(32, 8, 4, 4)
    branch = (block(x) - x).detach()
    dropped = branch.flatten(1).abs().amax(1) == 0
    assert 4 < int(dropped.sum()) < 28
    torch.testing.assert_close(
        branch[~dropped], 2 * (block.eval()(x) - x)[~dropped].detach(), atol=1e-4, rtol=1e-4
    )


def test_every_date_has_its_own_batch_statistics_in_training():
    model = TinyCD(3, pretrained=False).train()
    model(*torch.randn(2, 2, 3, 32, 32))
    assert {
        int(value)
        for key, value in model.state_dict().items()
        if key.endswith('num_batches_tracked')
    } == {2}


def test_mask_weighs_the_enlarged_map():
    torch.manual_seed(0)
    up = UpMask(2, 3)
    up._convolution = torch.nn.Identity()
    ramp = torch.tensor([0.0, 3.0]).expand(1, 2, 2, 2)
    mask = torch.rand(1, 1, 4, 4)
    torch.testing.assert_close(
        up(ramp, mask), mask * torch.tensor([0.0, 1, 2, 3]).expand(1, 2, 4, 4)
    )


def test_prediction_mixes_dates_by_depthwise_convolutions(monkeypatch):
    block, dates = MixingBlock(6).double().eval(), torch.randn(2, 2, 6, 5, 7, dtype=torch.float64)
    joined = []
    convolve = torch.nn.Conv2d.forward
    monkeypatch.setattr(
        torch.nn.Conv2d, 'forward', lambda self, x: joined.append(1) or convolve(self, x)
    )
    with torch.no_grad():
        as_drawn = block(*dates)
        with torch.inference_mode():
            mixed = block(*dates)
        block.train()(*dates)
    torch.testing.assert_close(mixed, as_drawn)
    assert len(joined) == 2


def test_authors_classifier_ends_in_a_bare_convolution():
    layers = TinyCD(
        3, pretrained=False, classifier_channels=(16, 8), classifier_act=False
    )._classify.state_dict()
    assert list(layers['_linears.1.0.weight'].shape) == [8, 16, 1, 1]
    assert '_linears.2.0.weight' in layers
    assert '_linears.2.1.weight' not in layers


def test_frozen_trunk_does_not_train():
    model = TinyCD(3, pretrained=False, freeze_backbone=True)
    assert {name.split('.')[0] for name, p in model.named_parameters() if p.requires_grad} == {
        '_first_mix',
        '_mixing_mask',
        '_up',
        '_classify',
    }


@pytest.mark.parametrize('change', [dict(bkbn_name='efficientnet_b5'), dict(output_layer_bkbn='4')])
def test_other_trunks_are_refused(change):
    with pytest.raises(UserError, match='one trunk'):
        TinyCD(3, pretrained=False, **change)


def test_size_that_does_not_fit_names_the_one_that_does():
    with pytest.raises(UserError, match=r'250 x 190.*256 x 192'):
        TinyCD(3, pretrained=False)(*torch.zeros(2, 1, 3, 250, 190))
