# Question 2 of mix.py on one CPU core in about an hour and a half: a tenth of the labels, the other pairs without theirs. The pictures are shrunk to
# 64 x 64 pixels beforehand, and the model has half the channels.
#   python tools/experiments/pack_data.py DATA --side 64 --out small.tar.gz && tar -xzf small.tar.gz -C FOLDER
#   python tools/experiments/run_matrix.py --settings configs/experiments/mix_cpu.py --data-root FOLDER/data --cluster processes --jobs 2 --threads 1
_base_ = './mix.py'

work_dir = 'work_dirs/mix_cpu'
crop_size = 64
amp = False
device = 'cpu'
# `mtkd` is the second control: the student sees the unlabelled pairs and is taught nothing. What probabilities weigh (`kl`) is not meant by this.
loss_weight = 1e-7
_small = {
    'model.backbone.base_channel': 8,
    'model.decode_head.in_channels': 8,
    'model.decode_head.channels': 8,
}
_length = dict(iters=600, specialist_iters=100, student_iters=300, val_interval=100)
models = dict(
    _delete_=True,
    fc_siam_diff_10=dict(
        config='mix/fc_siam_diff_10.py',
        strategies=('origin', 'continued', 'mtkd@kl', 'mtkd@origin+kl', 'mtkd'),
        student_cost=3.0,
        lr=1e-3,
        cfg_options=_small,
        **_length,
    ),
    fc_siam_diff_25=dict(
        config='mix/fc_siam_diff_25.py',
        strategies=('origin', 'continued', 'mtkd@kl', 'mtkd@origin+kl', 'mtkd'),
        student_cost=3.0,
        lr=1e-3,
        cfg_options=_small,
        **_length,
    ),
)
del _small, _length
