# ChangerEx with ResNet-18 (arXiv:2209.08290); the paper trains it from random weights.
_base_ = './changer_mitb0.py'

model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='IA_ResNetV1c',
        depth=18,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 1, 1),
        strides=(1, 2, 2, 2),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
        interaction_cfg={{_base_.model.backbone.interaction_cfg}},
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
)
