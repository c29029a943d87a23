"""One training step of every model whose numbers are checked."""

from pathlib import Path

import pytest

_NAMES = sorted(
    path.stem for path in (Path(__file__).parents[1] / 'data' / 'golden').glob('*.json')
)


@pytest.mark.parametrize('name', _NAMES)
def test_gradients_reach_every_trainable_parameter(name, build_model, seed_weights, make_pairs):
    model = build_model(name, shallow=True).train()
    seed_weights(model)  # fresh weights hold zeros on purpose, behind which no gradient would show
    losses = model(*make_pairs(2, 64), mode='loss')
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    trainable = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert not [key for key, grad in trainable.items() if grad is None]
    assert all(grad.isfinite().all() for grad in trainable.values())
    assert sum(bool(grad.any()) for grad in trainable.values()) > 0.95 * len(trainable)
    assert not [
        key for key, p in model.named_parameters() if not p.requires_grad and p.grad is not None
    ]
