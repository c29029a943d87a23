"""The registries of scope ``mtkd_cd``: children of mmseg's, so that a config in our scope finds mmseg's parts without a prefix."""

from mmengine.registry import Registry
from mmseg.registry import DATA_SAMPLERS as MMSEG_DATA_SAMPLERS
from mmseg.registry import DATASETS as MMSEG_DATASETS
from mmseg.registry import HOOKS as MMSEG_HOOKS
from mmseg.registry import METRICS as MMSEG_METRICS
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.registry import TASK_UTILS as MMSEG_TASK_UTILS
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS
from mmseg.registry import VISUALIZERS as MMSEG_VISUALIZERS

DATASETS = Registry('dataset', parent=MMSEG_DATASETS, scope='mtkd_cd', locations=['mtkd_cd.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=MMSEG_DATA_SAMPLERS, scope='mtkd_cd', locations=['mtkd_cd.datasets'])
TRANSFORMS = Registry('transform', parent=MMSEG_TRANSFORMS, scope='mtkd_cd', locations=['mtkd_cd.datasets.transforms'])
MODELS = Registry('model', parent=MMSEG_MODELS, scope='mtkd_cd', locations=['mtkd_cd.models'])
TASK_UTILS = Registry('task util', parent=MMSEG_TASK_UTILS, scope='mtkd_cd', locations=['mtkd_cd.models'])
METRICS = Registry('metric', parent=MMSEG_METRICS, scope='mtkd_cd', locations=['mtkd_cd.evaluation'])
HOOKS = Registry('hook', parent=MMSEG_HOOKS, scope='mtkd_cd', locations=['mtkd_cd.engine'])
VISUALIZERS = Registry('visualizer', parent=MMSEG_VISUALIZERS, scope='mtkd_cd', locations=['mtkd_cd.visualization'])
