"""What all benchmark models have in common; their own numbers and parts are tested in the files of
their names.

The two models of hundreds of millions of parameters are built with few and narrow layers.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mtkd_cd.core.checkpoint import load_weights, save_checkpoint
from mtkd_cd.core.errors import UserError

_NAMES = sorted(
    path.stem for path in (Path(__file__).parents[2] / 'configs' / '_base_' / 'models').glob('*.py')
)
# Networks that take image sides in multiples of a number only.
_DIVISORS = dict(
    cgnet_vgg16=16, changestar_farseg_r18=32, hanet=8, ifn_vgg16=16, snunet_c16=16, tinycd=8
)
# Networks that normalise means over the image (1 x 1 maps) over the batch.
_NEED_TWO_PAIRS = {'changer_s50', 'changestar_upernet_r18', 'lightcdnet_s'}

# Seconds per test, so out of the fast part.
_LARGE = ('cgnet_vgg16', 'hanet', 'ifn_vgg16')


def _models(*slow: str) -> list:
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in _NAMES]


def _change_map(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        maps = model(inputs, mode='tensor')
    return maps if isinstance(maps, Tensor) else maps[-1]


def _predicted(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        (prediction,) = model.eval()(inputs, mode='predict')
    assert prediction.seg_logits.data.isfinite().all()
    return prediction.pred_sem_seg.data


def _loss(model: nn.Module, inputs: Tensor, samples: list) -> Tensor:
    return model.parse_losses(model(inputs, samples, mode='loss'))[0]


def _finite_gradients(model: nn.Module) -> bool:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return bool(gradients) and all(grad.isfinite().all() for grad in gradients)


def test_there_are_21():
    assert len(_NAMES) == 21


class TestEveryModel:
    @pytest.mark.parametrize('name', _models(*_LARGE))
    def test_whole_inference_at_an_odd_size_or_an_error_that_names_the_divisor(
        self, name, build_model
    ):
        model = build_model(name, shallow=True)
        height, width = 250, 190
        if name in _DIVISORS:
            divisor = _DIVISORS[name]
            with pytest.raises(
                UserError, match=rf'multiples of {divisor}\b.*size_divisor={divisor}\b'
            ):
                _predicted(model, torch.randn(1, 6, height, width))
            height, width = (math.ceil(side / divisor) * divisor for side in (height, width))
        assert _predicted(model, torch.randn(1, 6, height, width)).shape == (1, height, width)

    @pytest.mark.parametrize('name', _models())
    def test_smallest_images_are_taken_or_the_error_names_a_size_that_is(self, name, build_model):
        model = build_model(name, shallow=True)
        try:
            assert _predicted(model, torch.randn(1, 6, 8, 8)).shape == (1, 8, 8)
        except UserError as error:
            side = int(
                re.search(r'pad (?:them |the images )?to (?:multiples of )?(\d+)', str(error))[1]
            )
            assert _predicted(model, torch.randn(1, 6, side, side)).shape == (1, side, side)

    @pytest.mark.parametrize('name', _models(*_LARGE))
    def test_sliding_inference_at_an_odd_size(self, name, build_model):
        model = build_model(
            name, shallow=True, test_cfg=dict(mode='slide', crop_size=(128, 128), stride=(96, 96))
        )
        prediction = _predicted(model, torch.randn(1, 6, 250, 190))
        assert prediction.shape == (1, 250, 190)
        assert set(prediction.unique().tolist()) <= {0, 1}

    @pytest.mark.parametrize('name', _models(*_LARGE))
    def test_training_on_a_batch_of_one_or_an_error_that_asks_for_two(
        self, name, build_model, make_pairs
    ):
        model = build_model(name, shallow=True).train()
        batch = make_pairs(1, 128)
        if name in _NEED_TWO_PAIRS:
            with pytest.raises(
                UserError, match=r'at least two pairs.*found 1 of 128 x 128.*batch_size=2'
            ):
                _loss(model, *batch)
        else:
            optimizer = OptimWrapper(
                torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
            )
            logged = model.train_step(dict(inputs=batch[0], data_samples=batch[1]), optimizer)
            assert logged['loss'].isfinite()

    @pytest.mark.parametrize('name', _models(*_LARGE))
    def test_equal_dates_without_change_give_finite_losses_and_gradients(
        self, name, build_model, make_pairs
    ):
        model = build_model(name, shallow=True).train()
        inputs, samples = make_pairs(2, 64)
        for sample in samples:
            sample.gt_sem_seg.data.zero_()
        loss = _loss(model, inputs[:, :3].repeat(1, 2, 1, 1), samples)
        loss.backward()
        assert loss.isfinite()
        assert _finite_gradients(model)

    @pytest.mark.parametrize('name', _models(*_LARGE))
    def test_bfloat16_autocast_trains_and_predicts_as_float32(self, name, build_model, make_pairs):
        model = build_model(name, shallow=True).train()
        inputs, samples = make_pairs(2, 32)  # bfloat16 is slow on most CPUs
        with torch.autocast('cpu', torch.bfloat16):
            loss = _loss(model, inputs, samples)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert _finite_gradients(model)

        single = _change_map(model.eval(), inputs)
        with torch.autocast('cpu', torch.bfloat16):
            half = _change_map(model, inputs).float()
        # Rounding in AMX units leaves 0.98 of a BAN with random weights.
        assert torch.corrcoef(torch.stack((single.flatten(), half.flatten())))[0, 1] > 0.95

    @pytest.mark.parametrize('name', _models())
    def test_weights_survive_a_file(self, name, build_model, tmp_path):
        model, other = (
            build_model(name, shallow=True).eval(),
            build_model(name, shallow=True).eval(),
        )
        inputs = torch.randn(1, 6, 64, 64)
        expected = _change_map(model, inputs)
        assert not torch.equal(_change_map(other, inputs), expected)
        save_checkpoint(dict(state_dict=model.state_dict()), tmp_path / 'best.pth')
        load_weights(other, tmp_path / 'best.pth')
        assert torch.equal(_change_map(other, inputs), expected)

    @pytest.mark.parametrize('name', _models('changer_s50', *_LARGE))
    def test_seed_decides_weights_loss_and_gradients(self, name, build_model, make_pairs):
        def step(seed: int) -> tuple[float, list[Tensor]]:
            torch.manual_seed(seed)
            model = build_model(name, shallow=True).train()
            model.init_weights()
            loss = _loss(model, *make_pairs(2, 64))
            loss.backward()
            return loss.item(), [p.grad for p in model.parameters() if p.grad is not None]

        (loss, gradients), (again, same), (other, _) = step(1), step(1), step(2)
        assert loss == again
        assert all(torch.equal(*pair) for pair in zip(gradients, same, strict=True))
        assert loss != other

    @pytest.mark.parametrize('name', _models())
    def test_wrong_number_of_bands_is_named(self, name, build_model):
        with pytest.raises(UserError, match=r'expects 6 input channels.*found 8'):
            build_model(name, shallow=True)(torch.randn(1, 8, 64, 64), mode='tensor')

    @pytest.mark.slow
    @pytest.mark.parametrize('name', _models())
    def test_export_computes_the_same(self, name, build_model):
        class ChangeMap(nn.Module):
            def __init__(self):
                super().__init__()
                self.model = build_model(name, shallow=True).eval()

            def forward(self, inputs: Tensor):
                return self.model(inputs, mode='tensor')

        module = ChangeMap()
        exported = torch.export.export(module, (torch.randn(1, 6, 64, 64),), strict=False).module()
        inputs = torch.randn(1, 6, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(exported(inputs), module(inputs), atol=1e-5, rtol=1e-4)
