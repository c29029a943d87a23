# TTP's schedule (arXiv:2502.13407, appendix C): 300 epochs, warm-up over five, then a cosine whose
# period is all 300. Per iteration.
_base_ = './adamw_200k.py'

train_cfg = dict(_delete_=True, type='ReplayableIterLoop', max_epochs=300, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=300, begin=5, end=300, convert_to_iter_based=True),
]
# The student's 100 epochs more.
student_train_cfg = dict(_delete_=True, max_epochs=100, val_interval=2)
student_param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=100, begin=5, end=100, convert_to_iter_based=True),
]
