"""What the golden numbers of BIT do not show."""

import pytest
import torch

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.decode_heads import BITHead
from mtkd_cd.models.decode_heads.bit import CrossAttention

pytestmark = pytest.mark.filterwarnings('ignore:For binary segmentation:UserWarning')


def _head(**kwargs) -> BITHead:
    torch.manual_seed(0)
    head = BITHead(
        in_channels=6, channels=8, embed_dims=16, dec_depth=2, num_heads=4, num_classes=2, **kwargs
    )
    torch.nn.init.normal_(head.conv_seg.weight)
    return head.eval()


def test_change_map_has_the_images_size_and_without_positions_the_order_of_dates_plays_no_part():
    head = _head(enc_with_pos=False)
    dates = torch.randn(2, 3, 6, 4, 5).unbind()
    change_map = head([torch.cat(dates, dim=1)])
    assert change_map.shape == (3, 2, 32, 40)
    torch.testing.assert_close(head([torch.cat(dates[::-1], dim=1)]), change_map)


def test_equal_dates_give_the_bias_alone():
    head = _head(enc_with_pos=False)
    date = torch.randn(1, 6, 4, 4)
    change_map = head([torch.cat((date, date), dim=1)])
    torch.testing.assert_close(change_map, head.conv_seg.bias[:, None, None].expand_as(change_map))


@pytest.mark.parametrize(
    ('pool_mode', 'expected'), [('max', [6.0, 8, 14, 16]), ('avg', [3.5, 5.5, 11.5, 13.5])]
)
def test_without_tokenizer_the_cells_of_a_grid_are_tokens_row_by_row(pool_mode, expected):
    head = _head(use_tokenizer=False, pool_mode=pool_mode)
    image = torch.arange(1.0, 17).view(1, 1, 4, 4).expand(1, 8, 4, 4)
    assert head._tokens(image)[0, :, 3].tolist() == expected
    assert head.enc_pos_embedding.shape == (1, 8, 8)
    assert not [key for key in head.state_dict() if key.startswith('conv_att')]
    assert head([torch.randn(1, 12, 4, 4)]).isfinite().all()


def test_token_is_the_mean_of_the_pixels_that_its_map_attends_to():
    head = _head(token_len=1)
    torch.nn.init.zeros_(head.conv_att.conv.weight)
    x = torch.randn(2, 8, 3, 5)
    torch.testing.assert_close(head._tokens(x)[:, 0], x.mean((2, 3)))


def test_dropout_is_for_training():
    head, features = _head(drop_rate=0.5, dropout_ratio=0), [torch.randn(1, 12, 4, 4)]
    assert torch.equal(head(features), head(features))
    head.train()
    assert not torch.equal(head(features), head(features))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(num_heads=5), 'divide embed_dims 64'),
        (dict(use_tokenizer=False, pool_mode='sum'), "'max' or 'avg'"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        BITHead(num_classes=2, **change)


@pytest.mark.parametrize(('tokens', 'by_tokens'), [(3, True), (5, False)])
def test_attention_with_projected_tokens_gives_the_same_numbers_and_gradients(
    tokens, by_tokens, monkeypatch
):
    """Against softmax(q k^T) v, head by head, in float64; 4 heads of 4 channels pay for up to 4
    tokens."""
    torch.manual_seed(0)
    attention = CrossAttention(8, 16, 4, 0.0).double()
    x, reference = torch.randn(2, 7, 8).double(), torch.randn(2, tokens, 8).double()
    asked = []
    attention.to_q.register_forward_hook(lambda *args: asked.append(1))
    wanted = _attended(attention, x, reference)
    assert not asked
    found = attention(x, reference)
    assert asked  # something watches the queries, so they are made
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)

    attention.to_q._forward_hooks.clear()
    made = []
    project = torch.nn.Linear.forward
    monkeypatch.setattr(
        torch.nn.Linear, 'forward', lambda self, x: made.append(self) or project(self, x)
    )
    gradients = []
    for compute in (attention, lambda *args: _attended(attention, *args)):
        attention.zero_grad()
        out = compute(x, reference)
        torch.testing.assert_close(out, wanted, atol=1e-12, rtol=1e-12)
        out.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in attention.parameters()])
    assert (attention.to_q not in made) == by_tokens
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_attention_runs_as_drawn_outside_of_training_and_inference_mode(monkeypatch):
    attention = CrossAttention(8, 16, 4, 0.0).eval()
    monkeypatch.setattr(attention, '_by_tokens', None)
    attention(torch.randn(1, 7, 8), torch.randn(1, 3, 8))
    with pytest.raises(TypeError), torch.inference_mode():
        attention(torch.randn(1, 7, 8), torch.randn(1, 3, 8))


def _attended(attention, x, reference):
    parts = []
    layers = attention.to_q, attention.to_k, attention.to_v
    for q, k, v in zip(*(layer.weight.chunk(attention.num_heads) for layer in layers)):
        scores = x @ q.T @ (reference @ k.T).transpose(1, 2) / x.shape[2] ** 0.5
        parts.append(scores.softmax(2) @ (reference @ v.T))
    project = attention.fc_out[0]
    return torch.cat(parts, 2) @ project.weight.T + project.bias


@pytest.mark.parametrize('align_corners', [False, True])
def test_prediction_finds_classes_before_it_enlarges(align_corners):
    head, features = _head(align_corners=align_corners), [torch.randn(2, 12, 4, 5)]
    sizes = []
    head.cls_seg = lambda x: sizes.append(x.shape[2:]) or type(head).cls_seg(head, x)
    with torch.no_grad():
        as_drawn = head(features)
        with torch.inference_mode():
            found = head(features)
        torch.testing.assert_close(found, as_drawn, atol=1e-5, rtol=1e-5)
        head.train()(features)
    assert sizes == [(32, 40), (8, 10), (32, 40)]
