# When do teachers help? gzcd + clcd + levir as one set (256 x 256; their folders lie in data_root),
# three questions in one experiment:
#   2  fc_siam_diff_25, fc_siam_diff_10: a quarter and a tenth of the labels, the other pairs
#      without theirs; frozen origin or specialists teach
#   1  fc_siam_diff, changer_mitb0: the paper's method, and the same with probabilities matched
#   3  fc_siam_diff taught by changer_mitb0's origin
#   mtkd-cd matrix --settings configs/experiments/mix.py --data-root data --minutes 7 \
#       --cluster processes --jobs 12
# --minutes measures the speed first and shortens all trainings of a model alike; the iterations
# below are the longest that are wanted.
work_dir = 'work_dirs/mix'
data_root = 'data'
crop_size = 256
amp = True
batch_size = 8
num_workers = 0
seeds = (0, 1, 2)
specialists_from = 'origin'
# Not searched: large enough for the distillation loss to be felt, which the paper's 1e-4 is not
# (docs/experiments_ombria.md).
loss_weight = 0.1
cfg_options = {'model.pretrained': None}
_few = dict(
    strategies=('origin', 'continued', 'mtkd@kl', 'mtkd@origin+kl'),
    student_cost=2.5,
    iters=6000,
    specialist_iters=900,
    student_iters=3000,
    val_interval=750,
    lr=1e-3,
)
models = dict(
    changer_mitb0=dict(
        config='mix/changer_mitb0.py',
        strategies=('origin', 'op', 'op@validated', 'continued', 'mtkd', 'mtkd@kl'),
        iters=6000,
        specialist_iters=1200,
        student_iters=3000,
        val_interval=750,
        lr=2e-4,
    ),
    fc_siam_diff_10=dict(config='mix/fc_siam_diff_10.py', **_few),
    fc_siam_diff_25=dict(config='mix/fc_siam_diff_25.py', **_few),
    fc_siam_diff=dict(
        config='mix/fc_siam_diff.py',
        strategies=(
            'origin',
            'op',
            'op@validated',
            'continued',
            'mtkd',
            'mtkd@kl',
            'mtkd@origin+by_changer_mitb0+kl',
        ),
        iters=6000,
        specialist_iters=1200,
        student_iters=3000,
        val_interval=750,
        lr=1e-3,
    ),
)
del _few
