# What every run has, whatever its model, data and schedule.
default_scope = 'mtkd_cd'
custom_imports = dict(imports=['mtkd_cd'])
# The seed fixes weights, order of samples, augmentation and dropout; see mtkd_cd/engine/replay.py.
randomness = dict(seed=0)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # To resume from: two, since mmengine removes the oldest before it writes the next.
    checkpoint=dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=5000,
        max_keep_ckpts=2,
        backend_args=dict(backend='atomic'),
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [
    dict(type='BestWeightsHook', metric='mIoU'),
    dict(type='StopwatchHook'),
    dict(type='ChannelsLastHook', on_cpu=None),
]
log_processor = dict(type='mtkd_cd.SignificantLogProcessor', by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
