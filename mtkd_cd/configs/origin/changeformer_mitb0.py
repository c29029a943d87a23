_base_ = [
    '../_base_/models/changeformer_mitb0.py',
    '../_base_/datasets/jl1cd.py',
    '../_base_/schedules/adamw_200k.py',
    '../_base_/default_runtime.py',
]

model = dict(test_cfg={{_base_.test_windows}})
optim_wrapper = dict(
    optimizer=dict(lr=6e-5, weight_decay=0.01),
    paramwise_cfg={{_base_.transformer_paramwise_cfg}},
)
