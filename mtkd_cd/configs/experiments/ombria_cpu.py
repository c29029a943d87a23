# ombria.py for two CPU cores: crops of 128 x 128 in training, smaller batches, few iterations; an
# hour or less of a core for each model and seed. No pretrained weights are at hand and only 33
# images have a CAR of at most 0.05: specialists start from the origin (ombria_pilot.py shows what
# becomes of those that don't).
#   mtkd-cd matrix --settings configs/experiments/ombria_cpu.py --data-root data/ombria --jobs 2 \
#       --threads 1
_base_ = './ombria.py'

work_dir = 'work_dirs/ombria_cpu'
crop_size = 128
batch_size = 4
specialists_from = 'origin'
# search_lambda.py of fc_siam_diff and of changeformer_mitb0 on the validation split, seed 0
# (docs/experiments_ombria.md).
loss_weight = 2.61e-4
models = dict(
    _delete_=True,
    fc_siam_diff=dict(
        iters=1200, specialist_iters=300, student_iters=600, val_interval=100, lr=1e-3
    ),
    changeformer_mitb0=dict(
        iters=1200, specialist_iters=300, student_iters=600, val_interval=100, lr=2e-4
    ),
    snunet_c16=dict(iters=1000, specialist_iters=250, student_iters=500, val_interval=100),
    tinycd=dict(iters=1000, specialist_iters=150, student_iters=300, val_interval=100),
    changer_mitb0=dict(
        iters=1200, specialist_iters=300, student_iters=600, val_interval=100, lr=2e-4
    ),
    changer_mitb1=dict(
        iters=1000, specialist_iters=250, student_iters=500, val_interval=100, lr=2e-4
    ),
)
