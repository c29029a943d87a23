# TTP (arXiv:2312.16202): SAM's ViT-L, tuned by LoRA.
_base_ = '../data_preprocessor.py'

_crop_size = (512, 512)

model = dict(
    type='TimeTravellingPixels',
    data_preprocessor={{_base_.pair_preprocessor}},
    pretrained='https://download.openmmlab.com/mmclassification/v1/vit_sam/'
    'vit-large-p16_sam-pre_3rdparty_sa1b-1024px_20230411-595feafd.pth',
    backbone=dict(
        type='VisionTransformerTurner',
        encoder_cfg=dict(
            type='ViTSAM_Custom',
            arch='large',
            img_size=_crop_size,
            patch_size=16,
            out_channels=256,
            use_abs_pos=True,
            use_rel_pos=True,
            window_size=14,
            layer_cfgs=dict(type='TimeFusionTransformerEncoderLayer'),
        ),
        peft_cfg=dict(
            peft_type='LORA',
            r=16,
            target_modules=['qkv'],
            lora_alpha=32,
            lora_dropout=0.01,
            bias='lora_only',
        ),
    ),
    neck=dict(
        type='SequentialNeck',
        necks=[
            dict(type='FeatureFusionNeck', policy='concat', out_indices=(0,)),
            dict(
                type='SimpleFPN',
                backbone_channel=2 * 256,
                in_channels=[128, 256, 512, 512],
                out_channels=256,
                num_outs=5,
                norm_cfg=dict(type='LN2d', requires_grad=True),
            ),
        ],
    ),
    decode_head=dict(
        type='MLPSegHead',
        out_size=(128, 128),
        in_channels=[256, 256, 256, 256, 256],
        in_index=[0, 1, 2, 3, 4],
        channels=256,
        dropout_ratio=0,
        num_classes=2,
        # Not SyncBN, which needs a GPU and a process group: the tools convert BN when they train on
        # several GPUs.
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg={},
    test_cfg=dict(mode='slide', crop_size=_crop_size, stride=(256, 256)),
)
