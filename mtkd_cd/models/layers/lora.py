"""Low-rank adaptation (LoRA, arXiv:2106.09685) of a network's linear layers, through peft (extra
``ttp``)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mtkd_cd.core.errors import UserError

# Open-CD's, where a config says nothing.
_DEFAULTS = dict(r=16, target_modules=['qkv'], lora_alpha=32, lora_dropout=0.05, bias='none')


def adapt(model: nn.Module, peft_cfg: Mapping[str, Any]) -> None:
    """Freeze ``model`` and put LoRA into some of its linear layers, in place.

    An adapted layer's tensors are ``base_layer.weight``, ``base_layer.bias``,
    ``lora_A.default.weight`` and ``lora_B.default.weight``. It loads plain ``weight`` and ``bias``
    too, since encoders without LoRA and checkpoints made with peft up to 0.6 have no
    ``base_layer``.

    Args:
        model: The network.
        peft_cfg: Arguments of ``peft.LoraConfig``. By default r=16, target_modules=['qkv'],
            lora_alpha=32, lora_dropout=0.05, bias='none'.

    Raises:
        UserError: peft is not installed, or refuses ``peft_cfg``.
    """
    try:
        import peft  # here, because it takes seconds and only TTP needs it
    except ImportError as error:
        raise UserError(
            f'peft_cfg asks for LoRA, which needs peft ({error}). Install it: pip install '
            "'mtkd-cd[ttp]'"
        ) from error
    arguments = {**_DEFAULTS, **peft_cfg}
    if arguments.pop('peft_type', 'LORA') != 'LORA':
        raise UserError(f"peft_cfg: peft_type must be 'LORA', found {peft_cfg['peft_type']!r}")
    try:
        peft.inject_adapter_in_model(peft.LoraConfig(**arguments), model)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UserError(
            f'peft {peft.__version__} cannot put LoRA into {type(model).__name__} as '
            f'peft_cfg={arguments} says: {error}'
        ) from error
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module._register_load_state_dict_pre_hook(_name_base_layer)


def _name_base_layer(state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
    for name in ('weight', 'bias'):
        if f'{prefix}{name}' in state_dict:
            state_dict[f'{prefix}base_layer.{name}'] = state_dict.pop(f'{prefix}{name}')
