# What mix_loan.py left for a second loan of a GPU: O-P by validated thresholds of changer_mitb0,
# and question 2 with a quarter of the labels. Six jobs, 356 s on an H200.
#   WORK=/tmp/mix SETTINGS=configs/experiments/mix_rest.py JOBS=6 \
#       tools/experiments/mix_on_gpu.sh 8 OUT --full-length
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
        strategies={{_base_.models.fc_siam_diff_10.strategies}},
        loss_weight={{_base_.models.fc_siam_diff_10.loss_weight}},
        iters={{_base_.models.fc_siam_diff_10.iters}},
        specialist_iters={{_base_.models.fc_siam_diff_10.specialist_iters}},
        student_iters={{_base_.models.fc_siam_diff_10.student_iters}},
        val_interval={{_base_.models.fc_siam_diff_10.val_interval}},
        lr={{_base_.models.fc_siam_diff_10.lr}},
        cfg_options={{_base_.models.fc_siam_diff_10.cfg_options}},
    ),
)
