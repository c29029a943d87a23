# Question 1 of mix.py for the two models that mix_cpu_all.py leaves out: pictures of 64 x 64 on a
# CPU, 0.2 to 0.5 s a step on an idle core. Lambda is searched by calling it again with --strategies
# mtkd --loss-weight LAMBDA --work-dir OTHER (docs/experiments_small.md).
#   python tools/experiments/run_matrix.py --settings configs/experiments/mix_cpu_others.py \
#       --data-root FOLDER/data --cluster processes --jobs 2 --threads 1
_base_ = './mix_cpu_all.py'

work_dir = 'work_dirs/mix_cpu_others'
cfg_options = {
    '_delete_': True,
    'model.pretrained': None,
    'model.decode_head.loss_decode.class_weight': [1.0, 3.0],
    'custom_hooks.0.metric': 'pooled_mIoU',
}
_question_1 = dict(
    strategies=('origin', 'continued', 'op', 'op@validated', 'mtkd', 'mtkd@kl'),
    iters=900,
    specialist_iters=90,
    student_iters=225,
    val_interval=225,
)
models = dict(
    _delete_=True,
    changer_mitb0=dict(config='mix/changer_mitb0.py', lr=4e-4, **_question_1),
    lightcdnet_s=dict(config='mix/lightcdnet_s.py', lr=3e-3, **_question_1),
)
del _question_1
