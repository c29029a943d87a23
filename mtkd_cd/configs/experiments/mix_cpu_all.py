# Questions 1 and 3 of mix.py on a CPU: all labels, pictures of 64 x 64 as in mix_cpu.py. The
# student has half the channels of the strong teacher, which trains half as long again. On an idle
# core a step takes 0.5 (student) to 0.9 s (teacher).
#   python tools/experiments/run_matrix.py --settings configs/experiments/mix_cpu_all.py \
#       --data-root FOLDER/data --cluster processes --jobs 1 --threads 1
_base_ = './mix_quarter.py'

work_dir = 'work_dirs/mix_cpu_all'
crop_size = 64
amp = False
device = 'cpu'
loss_weight = 0.1
models = dict(
    _delete_=True,
    fc_siam_diff=dict(
        config='mix/fc_siam_diff.py',
        strategies=('origin',),
        iters=450,
        val_interval=150,
        lr=2e-3,
    ),
    fc_siam_diff_narrow=dict(
        config='mix/fc_siam_diff_narrow.py',
        strategies=(
            'origin',
            'continued',
            'op',
            'op@validated',
            'mtkd',
            'mtkd@kl',
            'mtkd@origin+by_fc_siam_diff+kl',
        ),
        iters=300,
        specialist_iters=30,
        student_iters=75,
        val_interval=75,
        lr=3e-3,
    ),
)
