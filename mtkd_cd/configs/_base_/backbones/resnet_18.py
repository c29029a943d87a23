# ResNet-18 with a stem of three convolutions (arXiv:1812.01187), from ImageNet's weights.
model = dict(
    pretrained='https://download.openmmlab.com/pretrain/third_party/resnet18_v1c-b5776b93.pth',
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 1, 1),
        strides=(1, 2, 2, 2),
        # Not SyncBN, which needs a GPU and a process group: the tools convert BN when they train on
        # several GPUs.
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
    ),
)
