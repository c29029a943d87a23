_base_ = [
    '../_base_/models/stanet_r18.py',
    '../_base_/datasets/jl1cd.py',
    '../_base_/schedules/adamw_200k.py',
    '../_base_/default_runtime.py',
]

# A window of 512 with a stride of 256, as the paper's own repository has it; Open-CD's models have
# half of either.
model = dict(test_cfg=dict(crop_size=(512, 512), stride=(256, 256)))
