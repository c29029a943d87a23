# JL1-CD, 512 x 512 (arXiv:2502.13407). Validation is the folder `val` where there is one, else a
# fixed, CAR-stratified tenth of `train`.

# Side of the training crop, and of the window that larger test images are predicted in. Images keep
# their resolution: `--crop-size` changes crop and window, `--image-size` resizes the images too.
image_size = 512
test_windows = dict(
    mode='slide',
    crop_size=(image_size, image_size),
    stride=(image_size * 3 // 4, image_size * 3 // 4),
)
distortion = dict(
    type='MultiImgPhotoMetricDistortion',
    brightness_delta=10,
    contrast_range=(0.8, 1.2),
    saturation_range=(0.8, 1.2),
    hue_delta=10,
)
crop = dict(type='MultiImgRandomCrop', crop_size=(image_size, image_size), cat_max_ratio=0.75)
train_pipeline = [
    dict(type='MultiImgLoadImageFromFile'),
    dict(type='MultiImgLoadAnnotations'),
    dict(type='MultiImgRandomRotate', prob=0.5, degree=180),
    crop,
    dict(type='MultiImgRandomFlip', prob=0.5, direction='horizontal'),
    dict(type='MultiImgRandomFlip', prob=0.5, direction='vertical'),
    distortion,
    dict(type='MultiImgPackSegInputs'),
]
# The Changer family's own; its configs put it in place of the one above.
changer_train_pipeline = [
    dict(type='MultiImgLoadImageFromFile'),
    dict(type='MultiImgLoadAnnotations'),
    dict(type='MultiImgRandomRotFlip', rotate_prob=0.5, flip_prob=0.5, degree=(-20, 20)),
    crop,
    dict(type='MultiImgExchangeTime', prob=0.5),
    distortion,
    dict(type='MultiImgPackSegInputs'),
]
test_pipeline = [
    dict(type='MultiImgLoadImageFromFile'),
    dict(type='MultiImgLoadAnnotations'),
    dict(type='MultiImgPackSegInputs'),
]

data_root = 'data/JL1-CD'
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='JL1_CD_Dataset', data_root=data_root, split='train', pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='JL1_CD_Dataset', data_root=data_root, split='val', pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='JL1_CD_Dataset', data_root=data_root, split='test', pipeline=test_pipeline),
)
val_evaluator = dict(type='PerImageChangeMetric')
test_evaluator = dict(type='PerImageChangeMetric')
