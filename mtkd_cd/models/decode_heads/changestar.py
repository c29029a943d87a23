"""ChangeStar's head (arXiv:2108.07002): a segmentation head per date, and ChangeMixin, which reads
the pair of its maps in either order."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.utils import SampleList
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.models.decode_heads.base import DecodeHead
from mtkd_cd.models.layers import on_both_dates
from mtkd_cd.registry import MODELS

_DIRECTIONS = ('t1t2', 't2t1')


class ChangeMixin(BaseModule):
    """Change features of a pair of dates, for either order of the dates.

    Args:
        in_channels: Channels of both dates' maps together.
        inner_channels: Channels of the change features.
        num_convs: Number of 3 x 3 convolutions. Their batch norms are never synchronised between
            processes in Open-CD.
    """

    def __init__(self, in_channels: int = 256, inner_channels: int = 16, num_convs: int = 4):
        super().__init__()
        self.out_channels = inner_channels
        widths = [in_channels] + [inner_channels] * num_convs
        self.convs = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(width, inner_channels, 3, padding=1),
                    nn.BatchNorm2d(inner_channels),
                    nn.ReLU(inplace=True),
                )
                for width in widths[:-1]
            )
        )

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Two (N, in_channels / 2, h, w) maps to the (N, inner_channels, h, w) features of date A
        to B, and of date B to A."""
        return on_both_dates(
            self.convs, torch.cat((x1, x2), dim=1), torch.cat((x2, x1), dim=1), weights=self.convs
        )


@MODELS.register_module()
class ChangeStarHead(DecodeHead):
    """ChangeStar's head on any head that segments one date.

    Args:
        seg_head_cfg: Config of the segmentation head; it works on half the incoming channels and
            gives its features, not its logits.
        changemixin_cfg: Arguments of :class:`ChangeMixin`.
        inference_mode: Direction that predicts: ``t1t2``, ``t2t1``, or ``mean`` of the logits of
            both.
        kwargs: Arguments of mmseg's ``BaseDecodeHead``; of ``in_channels`` only the number of
            entries counts.

    Raises:
        UserError: Unknown inference mode, or ``channels`` that are not ChangeMixin's.
    """

    def __init__(
        self,
        seg_head_cfg: dict[str, Any],
        changemixin_cfg: dict[str, Any],
        inference_mode: str = 't1t2',
        **kwargs: Any,
    ):
        super().__init__(input_transform='multiple_select', **kwargs)
        if inference_mode not in (*_DIRECTIONS, 'mean'):
            raise UserError(
                "ChangeStarHead: inference_mode must be 't1t2', 't2t1' or 'mean', found "
                f'{inference_mode!r}'
            )
        self.inference_mode = inference_mode
        self.changemixin = ChangeMixin(**changemixin_cfg)
        if self.channels != self.changemixin.out_channels:
            width = self.changemixin.out_channels
            raise UserError(
                f'ChangeStarHead: channels must be inner_channels of changemixin_cfg, {width}, '
                f'found {self.channels}'
            )
        self.seg_head = _build_feature_head(seg_head_cfg)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Levels (N, 2C_i, ...), date A's channels first, to the change maps (N, out_channels, H/4,
        W/4) of A to B and of B to A."""
        date1, date2 = zip(*(level.chunk(2, dim=1) for level in self._transform_inputs(inputs)))
        changes = self.changemixin(
            *on_both_dates(self.seg_head, date1, date2, weights=self.seg_head)
        )
        return self.cls_seg(changes[0]), self.cls_seg(changes[1])

    def loss_by_feat(
        self, seg_logits: tuple[Tensor, Tensor], batch_data_samples: SampleList
    ) -> dict[str, Tensor]:
        """The losses of both directions against the same labels, as ``t1t2.<loss name>`` and
        ``t2t1.<loss name>``."""
        return {
            f'{direction}.{name}': value
            for direction, logits in zip(_DIRECTIONS, seg_logits)
            for name, value in super(ChangeStarHead, self)
            .loss_by_feat(logits, batch_data_samples)
            .items()
        }

    def predict_by_feat(
        self, seg_logits: tuple[Tensor, Tensor], batch_img_metas: list[dict[str, Any]]
    ) -> Tensor:
        """Logits (N, out_channels, H, W) of the direction that predicts."""
        if self.inference_mode == 'mean':
            return super().predict_by_feat((seg_logits[0] + seg_logits[1]) / 2, batch_img_metas)
        return super().predict_by_feat(
            seg_logits[_DIRECTIONS.index(self.inference_mode)], batch_img_metas
        )


def _build_feature_head(config: dict[str, Any]) -> nn.Module:
    # Its loss is never called; the threshold, as the loss, only keeps mmseg from warning of
    # defaults.
    unused = dict(
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        dropout_ratio=0,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.0),
    )
    head = MODELS.build({**config, **unused})
    head.conv_seg = nn.Identity()
    return head
