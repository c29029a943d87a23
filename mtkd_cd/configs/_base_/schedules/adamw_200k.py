# The paper's schedule (arXiv:2502.13407, appendix C): warm-up over 1,000 iterations, then linearly
# to 0 at the last one.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
)
train_cfg = dict(type='ReplayableIterLoop', max_iters=200000, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1000),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1000, end=200000),
]
# The student's: it starts from the trained origin and takes half as long, validated more often.
student_train_cfg = dict(max_iters=100000, val_interval=1000)
student_param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1000),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1000, end=100000),
]
# ChangeFormer's and Changer's multipliers, for models with a transformer backbone. A key matches as
# a substring of a parameter's name.
transformer_paramwise_cfg = dict(
    custom_keys=dict(
        pos_block=dict(decay_mult=0.0),
        norm=dict(decay_mult=0.0),
        head=dict(lr_mult=10.0),
    )
)
