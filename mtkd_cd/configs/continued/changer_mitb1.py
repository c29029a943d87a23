# The control for MTKD: the origin trained on for the student's iterations, on labels alone.
_base_ = '../origin/changer_mitb1.py'

load_from = 'work_dirs/origin/{{fileBasenameNoExtension}}/best.pth'
train_cfg = {{_base_.student_train_cfg}}
param_scheduler = {{_base_.student_param_scheduler}}
default_hooks = dict(checkpoint=dict(interval=1000))
