# What mix_loan.py left for a second loan of a GPU: O-P by validated thresholds of changer_mitb0, and question 2 with a quarter of the labels. Six jobs, 356 s on an H200.
#   WORK=/tmp/mix SETTINGS=configs/experiments/mix_rest.py JOBS=6 tools/experiments/mix_on_gpu.sh 8 OUT --full-length
_base_ = './mix_loan.py'

work_dir = 'work_dirs/mix_rest'
models = dict(
    changer_mitb0=dict(strategies=('origin', 'op@validated')),
    lightcdnet_s=None,
    fc_siam_diff=None,
    fc_siam_diff_10=None,
    fc_siam_diff_25=dict(
        _delete_=True,
        config='mix/fc_siam_diff_25.py',
        strategies=('origin', 'continued', 'mtkd@kl', 'mtkd'),
        loss_weight=1e-7,
        iters=2400,
        specialist_iters=240,
        student_iters=600,
        val_interval=600,
        lr=1e-3,
        cfg_options={
            'model.backbone.dropout': 0.0,
            'model.decode_head.loss_decode.class_weight': [1.0, 3.0],
        },
    ),
)
