# A pilot of ombria.py that fits into an hour of two CPU cores: two models, one seed, a sixth of the
# steps, half the batch.
#   mtkd-cd matrix --settings configs/experiments/ombria_pilot.py --data-root data/ombria \
#       --jobs 2 --threads 1
_base_ = './ombria.py'

work_dir = 'work_dirs/ombria_pilot'
batch_size = 4
seeds = (0,)
# Not searched: large enough for the distillation loss to be felt in so few steps, which the paper's
# 1e-4 is not.
loss_weight = 0.1
models = dict(
    _delete_=True,
    fc_siam_diff=dict(iters=500, val_interval=100, lr=1e-3),
    changeformer_mitb0=dict(iters=500, val_interval=100, lr=2e-4),
)
