# STANet's base model with ResNet-18 (DOI 10.3390/rs12101662).
_base_ = '../data_preprocessor.py'

# Not SyncBN, which needs a GPU and a process group: the tools convert BN when they train on several GPUs.
_norm_cfg = dict(type='BN', requires_grad=True)

model = dict(
    type='SiamEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
    pretrained='https://download.openmmlab.com/pretrain/third_party/resnet18_v1c-b5776b93.pth',
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 1, 1),
        strides=(1, 2, 2, 2),
        norm_cfg=_norm_cfg,
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
    ),
    neck=dict(type='FeatureFusionNeck', policy='concat'),
    decode_head=dict(
        type='STAHead',
        in_channels=[64, 128, 256, 512],
        in_index=[0, 1, 2, 3],
        channels=96,
        sa_mode='None',  # or 'BAM', 'PAM': the paper's attention modules
        sa_in_channels=256,
        sa_ds=1,
        distance_threshold=1,
        threshold=0.5,
        norm_cfg=_norm_cfg,
        align_corners=False,
        loss_decode=dict(type='BCLLoss', margin=2.0, loss_weight=1.0, ignore_index=255),
    ),
    train_cfg={},
    test_cfg=dict(mode='slide', crop_size=(256, 256), stride=(128, 128)),
)
