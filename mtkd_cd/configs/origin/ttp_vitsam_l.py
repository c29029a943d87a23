_base_ = [
    '../_base_/models/ttp_vitsam_l.py',
    '../_base_/datasets/jl1cd.py',
    '../_base_/schedules/adamw_300e.py',
    '../_base_/default_runtime.py',
]

optim_wrapper = dict(constructor='TrainableOptimWrapperConstructor', optimizer=dict(lr=4e-4))
