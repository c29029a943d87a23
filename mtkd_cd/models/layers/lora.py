"""Low-rank adaptation (LoRA, arXiv:2106.09685) of linear layers, with the state-dict keys of peft from 0.7 on.

Not through peft: what it makes of the same config depends on its release. Up to 0.6 the keys are others, and from 0.7 to 0.9 the biases
of ``bias='lora_only'`` stay frozen. And it needs transformers and accelerate for the few lines below.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mtkd_cd.errors import UserError


class LoRALinear(nn.Module):
    """A linear layer plus ``lora_alpha / r`` times a product of two thin ones that starts at zero.

    Args:
        base_layer: The layer to adapt.
        r: Rank of the product.
        lora_alpha: Its scale, times r.
        lora_dropout: Dropout on its input.
    """

    def __init__(self, base_layer: nn.Linear, r: int, lora_alpha: float, lora_dropout: float):
        super().__init__()
        self.base_layer = base_layer
        down = nn.Linear(base_layer.in_features, r, bias=False)
        up = nn.Linear(r, base_layer.out_features, bias=False)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        nn.init.zeros_(up.weight)
        self.lora_A = nn.ModuleDict(dict(default=down))
        self.lora_B = nn.ModuleDict(dict(default=up))
        self.dropout = nn.Dropout(lora_dropout)
        self.scaling = lora_alpha / r

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scaling * self.lora_B['default'](self.lora_A['default'](self.dropout(x)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Plain encoders, and checkpoints made with peft up to 0.6, have no `base_layer`.
        for name in ('weight', 'bias'):
            if f'{prefix}{name}' in state_dict:
                state_dict[f'{prefix}base_layer.{name}'] = state_dict.pop(f'{prefix}{name}')
        super()._load_from_state_dict(state_dict, prefix, *args)


def adapt(
    model: nn.Module,
    target_modules: Sequence[str] = ('qkv',),
    r: int = 16,
    lora_alpha: float = 32,
    lora_dropout: float = 0.05,
    bias: str = 'none',
) -> None:
    """Freeze ``model`` and put LoRA into some of its linear layers, in place.

    Args:
        model: The network.
        target_modules: Last parts of the names of the layers to adapt.
        r: As in :class:`LoRALinear`.
        lora_alpha: As in :class:`LoRALinear`.
        lora_dropout: As in :class:`LoRALinear`.
        bias: Biases that train too: ``none``, ``lora_only`` (of the adapted layers) or ``all``.

    Raises:
        UserError: No linear layer has such a name, or an unknown ``bias``.
    """
    if bias not in ('none', 'lora_only', 'all'):
        raise UserError(f"peft_cfg: bias must be 'none', 'lora_only' or 'all', found {bias!r}")
    targets = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.split('.')[-1] in target_modules]
    if not targets:
        raise UserError(f'peft_cfg: no linear layer of {type(model).__name__} is named as target_modules {list(target_modules)} say')
    model.requires_grad_(False)
    for name in targets:
        parent, _, child = name.rpartition('.')
        layer = LoRALinear(model.get_submodule(name), r, lora_alpha, lora_dropout)  # type: ignore[arg-type]
        setattr(model.get_submodule(parent), child, layer)
        if bias == 'lora_only' and layer.base_layer.bias is not None:
            layer.base_layer.bias.requires_grad_(True)
    if bias == 'all':
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or key.endswith('bias'))
