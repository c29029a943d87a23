_base_ = [
    '../_base_/models/ban_vitl14_mitb2.py',
    '../_base_/datasets/jl1cd.py',
    '../_base_/schedules/adamw_200k.py',
    '../_base_/default_runtime.py',
]

optim_wrapper = dict(
    type='AmpOptimWrapper',
    constructor='TrainableOptimWrapperConstructor',
    loss_scale='dynamic',
    optimizer=dict(lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        custom_keys=dict(
            norm=dict(decay_mult=0.0),
            mask_decoder=dict(lr_mult=10.0),
        )
    ),
)
train_dataloader = dict(num_workers=8)
