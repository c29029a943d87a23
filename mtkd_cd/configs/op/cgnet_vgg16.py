# The O-P cascade, for testing: tools/test.py configs/op/cgnet_vgg16.py
_base_ = '../origin/cgnet_vgg16.py'

model = dict(
    _delete_=True,
    type='OriginPartitionCascade',
    origin={{_base_.model}},
    checkpoints=dict(
        origin='work_dirs/origin/{{fileBasenameNoExtension}}/best.pth',
        small='work_dirs/partition/{{fileBasenameNoExtension}}/small/best.pth',
        medium='work_dirs/partition/{{fileBasenameNoExtension}}/medium/best.pth',
        large='work_dirs/partition/{{fileBasenameNoExtension}}/large/best.pth',
    ),
)
