# Questions 1, 2 and 3 of mix.py at full size within one loan of a GPU of a quarter of an hour:
# twelve jobs of about eight minutes each at once. The lengths are fixed, from the times of a step
# that twelve jobs have on an H200 (docs/experiments.md). A second call goes on with what is not
# done.
#   WORK=/tmp/mix SETTINGS=configs/experiments/mix_loan.py JOBS=12 \
#       tools/experiments/mix_on_gpu.sh 10.1 OUT --full-length
_base_ = './mix.py'

work_dir = 'work_dirs/mix_loan'
# The mean over images is kind to a model that predicts no change: a sixth of the images have none,
# and score 1 in both classes.
cfg_options = {'custom_hooks.0.metric': 'pooled_mIoU'}
_fc_siam_diff = dict(
    iters=2400,
    specialist_iters=240,
    student_iters=600,
    val_interval=600,
    lr=1e-3,
    # With dropout and without weights it needs longer than there is to predict any change.
    cfg_options={
        'model.backbone.dropout': 0.0,
        'model.decode_head.loss_decode.class_weight': [1.0, 3.0],
    },
)
_own = ('origin', 'continued', 'op', 'mtkd', 'mtkd@kl', 'op@validated')
models = dict(
    changer_mitb0=dict(
        strategies=_own,
        iters=1500,
        specialist_iters=150,
        student_iters=375,
        val_interval=375,
        lr=4e-4,
    ),
    lightcdnet_s=dict(
        config='mix/lightcdnet_s.py',
        strategies=_own,
        iters=1800,
        specialist_iters=180,
        student_iters=450,
        val_interval=450,
        lr=3e-3,
    ),
    fc_siam_diff=dict(
        strategies=(*_own, 'mtkd@origin+by_changer_mitb0+kl'),
        **_fc_siam_diff,
    ),
    # `mtkd` is the second control: the student sees the unlabelled pairs and is taught nothing.
    fc_siam_diff_10=dict(
        strategies=('origin', 'continued', 'mtkd@kl', 'mtkd'),
        loss_weight=1e-7,
        **_fc_siam_diff,
    ),
    fc_siam_diff_25=None,
)
del _fc_siam_diff, _own
