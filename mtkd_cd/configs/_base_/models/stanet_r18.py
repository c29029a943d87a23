# STANet's base model with ResNet-18 (DOI 10.3390/rs12101662).
_base_ = ['../data_preprocessor.py', '../backbones/resnet_18.py']

model = dict(
    type='SiamEncoderDecoder',
    data_preprocessor={{_base_.pair_preprocessor}},
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
        # Not SyncBN, which needs a GPU and a process group: the tools convert BN when they train on
        # several GPUs.
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='BCLLoss', margin=2.0, loss_weight=1.0, ignore_index=255),
    ),
    train_cfg={},
    test_cfg=dict(mode='slide', crop_size=(256, 256), stride=(128, 128)),
)
