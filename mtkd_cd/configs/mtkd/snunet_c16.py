# The student: starts from the origin, learns from labels and from the specialist of each image's CAR range.
_base_ = '../origin/snunet_c16.py'

model = dict(
    _delete_=True,
    type='MultiTeacherDistiller',
    student={{_base_.model}},
    checkpoints=dict(
        student='work_dirs/origin/{{fileBasenameNoExtension}}/best.pth',
        small='work_dirs/partition/{{fileBasenameNoExtension}}/small/best.pth',
        medium='work_dirs/partition/{{fileBasenameNoExtension}}/medium/best.pth',
        large='work_dirs/partition/{{fileBasenameNoExtension}}/large/best.pth',
    ),
    distill_loss=dict(type='ChangeMapMSELoss', loss_weight=1e-4),
)
train_cfg = {{_base_.student_train_cfg}}
param_scheduler = {{_base_.student_param_scheduler}}
default_hooks = dict(checkpoint=dict(interval=1000))
