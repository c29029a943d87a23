_base_ = [
    '../_base_/models/changer_s50.py',
    '../_base_/datasets/jl1cd.py',
    '../_base_/schedules/adamw_200k.py',
    '../_base_/default_runtime.py',
]

model = dict(test_cfg={{_base_.test_windows}})
optim_wrapper = dict(optimizer=dict(lr=5e-3))
train_dataloader = dict(dataset=dict(pipeline={{_base_.changer_train_pipeline}}))
