# Question 2 of mix.py within a quarter of an hour with a GPU, of which a command gets some nine
# minutes: six jobs, a tenth and a quarter of the labels with three seeds each, and few validations,
# so that an origin gets a thousand iterations.
#   SETTINGS=configs/experiments/mix_quarter.py JOBS=6 tools/experiments/mix_on_gpu.sh 9 OUT
_base_ = './mix.py'

work_dir = 'work_dirs/mix_quarter'
# `mtkd` is the second control: the student sees the unlabelled pairs and is taught nothing.
# Probabilities (`kl`) have a weight of their own.
loss_weight = 1e-7
# With dropout and without weights, 171 steps were not enough for any model to predict a change
# (docs/experiments_small.md).
cfg_options = {
    'model.backbone.dropout': 0.0,
    'model.decode_head.loss_decode.class_weight': [1.0, 3.0],
    # The mean over images is kind to a model that predicts no change: a sixth of the images have
    # none, and score 1 in both classes.
    'custom_hooks.0.metric': 'pooled_mIoU',
}
_shorter = dict(strategies=('origin', 'continued', 'mtkd@kl', 'mtkd'), val_interval=1500)
models = dict(
    changer_mitb0=None,
    fc_siam_diff=None,
    fc_siam_diff_10=_shorter,
    fc_siam_diff_25=_shorter,
)
del _shorter
