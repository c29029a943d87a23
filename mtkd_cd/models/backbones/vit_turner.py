"""TTP's backbone (arXiv:2312.16202): a frozen image encoder, tuned by LoRA."""

from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mtkd_cd.errors import UserError
from mtkd_cd.models.backbones.vit_sam import TimeFusionTransformerEncoderLayer
from mtkd_cd.models.layers.lora import adapt
from mtkd_cd.registry import MODELS

_LORA_ARGUMENTS = ('target_modules', 'r', 'lora_alpha', 'lora_dropout', 'bias')


@MODELS.register_module()
class VisionTransformerTurner(BaseModule):
    """An image encoder of which LoRA layers, and nothing but them and perhaps biases, are trained.

    TTP's gates are frozen with the rest, although SAM's weights do not have them: they stay the random numbers that they start as, which
    are part of every published checkpoint.

    Args:
        encoder_cfg: Config of the encoder.
        peft_cfg: Arguments of LoRA in peft's names: r, target_modules, lora_alpha, lora_dropout, bias. None: all is frozen.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` for the encoder, if its own config has none.
        train_gates: Train the gates too, from a state in which the dates do not mix. Not what the published checkpoints are.

    Raises:
        UserError: Wrong ``peft_cfg``.
    """

    def __init__(
        self,
        encoder_cfg: dict[str, Any],
        peft_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
        train_gates: bool = False,
    ):
        super().__init__(init_cfg)
        encoder = MODELS.build(encoder_cfg)
        encoder.pretrained_switch = 'model.backbone.encoder_cfg.init_cfg=None'
        if peft_cfg is None:
            self.vision_encoder = encoder.requires_grad_(False)
        else:
            adapt(encoder, **_lora_arguments(peft_cfg))
            # peft's containers, whose names are in published checkpoints
            self.vision_encoder = nn.ModuleDict(dict(base_model=nn.ModuleDict(dict(model=encoder))))
        if train_gates:
            for module in encoder.modules():
                if isinstance(module, TimeFusionTransformerEncoderLayer):
                    module.train_gate()

    @property
    def encoder(self) -> BaseModule:
        """The encoder inside."""
        wrapped = isinstance(self.vision_encoder, nn.ModuleDict)
        return self.get_submodule('vision_encoder.base_model.model' if wrapped else 'vision_encoder')

    def init_weights(self) -> None:
        """Initialise the encoder, loading pretrained weights where its config, or this module's, names them."""
        if self.init_cfg:
            self.encoder.init_cfg = self.init_cfg
        self.encoder.init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the encoder gives for (B, C, H, W) images."""
        return self.encoder(x)


def _lora_arguments(peft_cfg: dict[str, Any]) -> dict[str, Any]:
    arguments = dict(peft_cfg)
    if arguments.pop('peft_type', 'LORA') != 'LORA':
        raise UserError(f"VisionTransformerTurner: peft_cfg.peft_type must be 'LORA', found {peft_cfg['peft_type']!r}")
    arguments.pop('inference_mode', None)
    unknown = sorted(set(arguments) - set(_LORA_ARGUMENTS))
    if unknown:
        raise UserError(f'VisionTransformerTurner: peft_cfg can hold {", ".join(_LORA_ARGUMENTS)}; found {", ".join(unknown)}')
    return arguments
