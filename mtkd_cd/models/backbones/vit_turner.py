"""TTP's backbone (arXiv:2312.16202): a frozen image encoder, tuned by LoRA."""

from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mtkd_cd.models.backbones.vit_sam import TimeFusionTransformerEncoderLayer
from mtkd_cd.models.layers.lora import adapt
from mtkd_cd.registry import MODELS


@MODELS.register_module()
class VisionTransformerTurner(BaseModule):
    """An image encoder of which LoRA layers, and nothing but them and perhaps biases, are trained.

    TTP's gates are frozen with the rest, although SAM's weights do not have them: they stay the
    random numbers that they start as, which are part of every published checkpoint.

    Args:
        encoder_cfg: Config of the encoder.
        peft_cfg: Arguments of ``peft.LoraConfig``, as in :func:`mtkd_cd.models.layers.lora.adapt`.
            None: all is frozen, without peft.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` for the encoder, if its own config has
            none.
        train_gates: Train the gates too, from a state in which the dates do not mix. Not what the
            published checkpoints are.

    Raises:
        UserError: Wrong ``peft_cfg``, or peft, which it needs, is not installed.
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
            adapt(encoder, peft_cfg)
            # The names of peft.PeftModel, which are in published checkpoints. Not PeftModel itself:
            # as it passes attributes on, every walk over the modules would find the encoder's
            # pretrained file three times.
            self.vision_encoder = nn.ModuleDict(dict(base_model=nn.ModuleDict(dict(model=encoder))))
        if train_gates:
            for module in encoder.modules():
                if isinstance(module, TimeFusionTransformerEncoderLayer):
                    module.train_gate()

    @property
    def encoder(self) -> BaseModule:
        """The encoder inside."""
        wrapped = isinstance(self.vision_encoder, nn.ModuleDict)
        return self.get_submodule(
            'vision_encoder.base_model.model' if wrapped else 'vision_encoder'
        )

    def init_weights(self) -> None:
        """Initialise the encoder, loading pretrained weights where its config, or this module's,
        names them."""
        if self.init_cfg:
            self.encoder.init_cfg = self.init_cfg
        self.encoder.init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the encoder gives for (B, C, H, W) images."""
        return self.encoder(x)
