_base_ = [
    '../_base_/models/tinycd.py',
    '../_base_/datasets/jl1cd.py',
    '../_base_/schedules/adamw_200k.py',
    '../_base_/default_runtime.py',
]

model = dict(test_cfg={{_base_.test_windows}})
optim_wrapper = dict(optimizer=dict(lr=0.00356799066427741, weight_decay=0.009449677083344786))
