"""The registries of scope ``mtkd_cd``: children of mmseg's, so that a config in our scope finds mmseg's parts without a prefix.

mmengine warns about every registry that lacks a child in the default scope: those we register nothing in are here for that.
"""

from mmengine.registry import Registry
from mmseg import registry as mmseg_registry

DATASETS = Registry('dataset', parent=mmseg_registry.DATASETS, scope='mtkd_cd', locations=['mtkd_cd.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=mmseg_registry.DATA_SAMPLERS, scope='mtkd_cd', locations=['mtkd_cd.datasets'])
TRANSFORMS = Registry('transform', parent=mmseg_registry.TRANSFORMS, scope='mtkd_cd', locations=['mtkd_cd.datasets.transforms'])
MODELS = Registry('model', parent=mmseg_registry.MODELS, scope='mtkd_cd', locations=['mtkd_cd.models'])
TASK_UTILS = Registry('task util', parent=mmseg_registry.TASK_UTILS, scope='mtkd_cd', locations=['mtkd_cd.models'])
METRICS = Registry('metric', parent=mmseg_registry.METRICS, scope='mtkd_cd', locations=['mtkd_cd.evaluation'])
HOOKS = Registry('hook', parent=mmseg_registry.HOOKS, scope='mtkd_cd', locations=['mtkd_cd.engine'])
LOOPS = Registry('loop', parent=mmseg_registry.LOOPS, scope='mtkd_cd', locations=['mtkd_cd.engine'])
VISUALIZERS = Registry('visualizer', parent=mmseg_registry.VISUALIZERS, scope='mtkd_cd', locations=['mtkd_cd.visualization'])
RUNNERS = Registry('runner', parent=mmseg_registry.RUNNERS, scope='mtkd_cd')
RUNNER_CONSTRUCTORS = Registry('runner constructor', parent=mmseg_registry.RUNNER_CONSTRUCTORS, scope='mtkd_cd')
MODEL_WRAPPERS = Registry('model_wrapper', parent=mmseg_registry.MODEL_WRAPPERS, scope='mtkd_cd')
WEIGHT_INITIALIZERS = Registry('weight initializer', parent=mmseg_registry.WEIGHT_INITIALIZERS, scope='mtkd_cd')
OPTIMIZERS = Registry('optimizer', parent=mmseg_registry.OPTIMIZERS, scope='mtkd_cd')
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=mmseg_registry.OPTIM_WRAPPERS, scope='mtkd_cd')
OPTIM_WRAPPER_CONSTRUCTORS = Registry('optimizer wrapper constructor', parent=mmseg_registry.OPTIM_WRAPPER_CONSTRUCTORS, scope='mtkd_cd')
PARAM_SCHEDULERS = Registry('parameter scheduler', parent=mmseg_registry.PARAM_SCHEDULERS, scope='mtkd_cd')
EVALUATOR = Registry('evaluator', parent=mmseg_registry.EVALUATOR, scope='mtkd_cd')
VISBACKENDS = Registry('vis_backend', parent=mmseg_registry.VISBACKENDS, scope='mtkd_cd')
LOG_PROCESSORS = Registry('log_processor', parent=mmseg_registry.LOG_PROCESSORS, scope='mtkd_cd')
INFERENCERS = Registry('inferencer', parent=mmseg_registry.INFERENCERS, scope='mtkd_cd')
