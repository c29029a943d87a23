"""Necks one after another."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import nn

from mtkd_cd.registry import MODELS


@MODELS.register_module()
class SequentialNeck(BaseModule):
    """Apply necks in order. Each returns a sequence, whose items are the arguments of the next.

    Args:
        necks: Their configs.
    """

    def __init__(self, necks: Sequence[dict[str, Any]]):
        super().__init__()
        self.necks = nn.ModuleList(MODELS.build(neck) for neck in necks)

    def forward(self, *features: Any) -> Any:
        for neck in self.necks:
            features = neck(*features)
        return features
