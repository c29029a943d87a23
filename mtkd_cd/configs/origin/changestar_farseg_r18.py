_base_ = [
    '../_base_/models/changestar_farseg_r18.py',
    '../_base_/datasets/jl1cd.py',
    '../_base_/schedules/adamw_200k.py',
    '../_base_/default_runtime.py',
]

model = dict(test_cfg={{_base_.test_windows}})
optim_wrapper = dict(optimizer=dict(weight_decay=0.01))
train_dataloader = dict(batch_size=16, num_workers=8)
