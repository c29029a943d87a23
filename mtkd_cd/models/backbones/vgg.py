"""The convolutions of VGG16 (arXiv:1409.1556), which IFN and CGNet start from."""

from mmcv.cnn import VGG
from torch import nn


def vgg16_features(with_bn: bool = False) -> nn.Sequential:
    """The layers up to the last ReLU, freshly initialised, at the places that published checkpoints
    give them in ``features``."""
    vgg = VGG(16, with_bn=with_bn, with_last_pool=False)
    vgg.init_weights()
    return vgg.features
