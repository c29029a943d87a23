"""Prediction, under the names of ``mmseg.apis``."""

from mtkd_cd.inference.image_pairs import inference_model
from mtkd_cd.inference.inferencer import ChangeInferencer
from mtkd_cd.inference.predictor import init_model

__all__ = ['ChangeInferencer', 'inference_model', 'init_model']
