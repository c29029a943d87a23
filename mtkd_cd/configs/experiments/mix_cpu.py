# Question 2 of mix.py on a CPU: a tenth (a quarter) of the labels, the other pairs without theirs.
# The pictures are shrunk to 64 x 64 pixels beforehand, and the model has half the channels. On a
# loaded core a step takes 1 to 4 seconds.
#   python tools/experiments/pack_data.py DATA --side 64 --out small.tar.gz \
#       && tar -xzf small.tar.gz -C FOLDER
#   python tools/experiments/run_matrix.py --settings configs/experiments/mix_cpu.py \
#       --data-root FOLDER/data --cluster processes --jobs 2 --threads 1
_base_ = './mix_quarter.py'

work_dir = 'work_dirs/mix_cpu'
crop_size = 64
amp = False
device = 'cpu'
cfg_options = {
    'model.backbone.base_channel': 8,
    'model.decode_head.in_channels': 8,
    'model.decode_head.channels': 8,
}
_shorter = dict(iters=300, specialist_iters=30, student_iters=75, val_interval=75, lr=3e-3)
models = dict(fc_siam_diff_10=_shorter, fc_siam_diff_25=_shorter)
del _shorter
