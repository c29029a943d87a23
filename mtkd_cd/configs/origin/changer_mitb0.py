_base_ = [
    '../_base_/models/changer_mitb0.py',
    '../_base_/datasets/jl1cd.py',
    '../_base_/schedules/adamw_200k.py',
    '../_base_/default_runtime.py',
]

model = dict(test_cfg={{_base_.test_windows}})
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.01),
    paramwise_cfg={{_base_.transformer_paramwise_cfg}},
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.changer_train_pipeline}}))
