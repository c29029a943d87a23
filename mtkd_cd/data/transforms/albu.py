"""Transforms of the optional library albumentations."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mtkd_cd.core.errors import UserError
from mtkd_cd.data.transforms.base import MultiImgTransform
from mtkd_cd.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MultiImgAlbu(MultiImgTransform):
    """Apply transforms of albumentations with the same draws to both dates, as one image of six
    channels, and to the labels.

    Transforms that insist on three channels (hue, channel shuffle) cannot be used.

    Args:
        transforms: Configs; ``type`` is a name in albumentations, the rest are its arguments,
            ``transforms`` may hold more configs.
        keymap: {result key: name in albumentations}. Default: ``img`` is ``image``, ``gt_seg_map``
            is ``mask``.
        update_pad_shape: Whether to write ``pad_shape``.
        additional_targets: {other name in albumentations: the name it is treated as}.

    Raises:
        UserError: albumentations is not installed, or has no such transform.
    """

    def __init__(
        self,
        transforms: list[dict],
        keymap: dict[str, str] | None = None,
        update_pad_shape: bool = False,
        additional_targets: dict[str, str] | None = None,
    ) -> None:
        try:
            import albumentations  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise UserError(
                'MultiImgAlbu needs albumentations, which is not installed: pip install '
                'albumentations, or take it out of the pipeline'
            ) from None
        self.transforms = transforms
        self.keymap = keymap or {'img': 'image', 'gt_seg_map': 'mask'}
        self.update_pad_shape = update_pad_shape
        self.additional_targets = additional_targets
        built = [_build(albumentations, config) for config in transforms]
        self._compose: Callable[..., dict] = albumentations.Compose(
            built, additional_targets=additional_targets
        )

    def transform(self, results: dict) -> dict:
        images = results['img']
        arrays = {name: results[key] for key, name in self.keymap.items() if key in results}
        arrays[self.keymap['img']] = np.concatenate(images, axis=2)
        output = self._compose(**arrays)
        for key, name in self.keymap.items():
            if name in arrays:
                results[key] = output[name]
        results['img'] = np.split(results['img'], len(images), axis=2)
        results['img_shape'] = results['img'][0].shape[:2]
        if self.update_pad_shape:
            results['pad_shape'] = results['img_shape']
        return results


def _build(library: Any, config: dict) -> object:
    kind, arguments = config['type'], {key: value for key, value in config.items() if key != 'type'}
    if isinstance(kind, str):
        if not hasattr(library, kind):
            raise UserError(f'albumentations {library.__version__} has no transform {kind!r}')
        kind = getattr(library, kind)
    if 'transforms' in arguments:
        arguments['transforms'] = [_build(library, inner) for inner in arguments['transforms']]
    return kind(**arguments)
