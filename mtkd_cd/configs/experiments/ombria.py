# Does MTKD help? OMBRIA (floods, 256 x 256), six models, three seeds:
#   mtkd-cd matrix --settings configs/experiments/ombria.py --data-root data/ombria
# On a CPU: --jobs 2 --threads 1. Budgets are guesses until the curves show that the origins have
# flattened, and lambda is to be searched first (search_lambda.py): the paper's, which stand in the
# configs, were tuned on a term without effect (docs/method.md).
work_dir = 'work_dirs/ombria'
data_root = 'data/ombria'
dataset_type = 'JL1_CD_Dataset'
image_size = 256
amp = True
batch_size = 8
num_workers = 0
seeds = (0, 1, 2)
strategies = (
    *('origin', 'continued', 'op', 'mtkd'),
    *('op@0.1', 'mtkd@0.1', 'op@validated', 'mtkd@validated'),
)
# No network: backbones start from random weights.
cfg_options = {'model.pretrained': None}
models = dict(
    fc_siam_diff=dict(iters=3000),
    snunet_c16=dict(iters=2000),
    tinycd=dict(iters=2000),
    changer_mitb0=dict(iters=2000),
    changeformer_mitb0=dict(iters=2000),
    changer_mitb1=dict(iters=2000),
)
