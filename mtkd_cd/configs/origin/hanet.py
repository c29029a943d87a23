_base_ = [
    '../_base_/models/hanet.py',
    '../_base_/datasets/jl1cd.py',
    '../_base_/schedules/adamw_200k.py',
    '../_base_/default_runtime.py',
]

model = dict(test_cfg={{_base_.test_windows}})
