"""Options that change the size at which a config trains and tests, and a line that says it."""

from typing import Any

from mmengine.config import Config, ConfigDict

from mtkd_cd.engine.config import is_type, nodes


def set_image_size(cfg: Config, size: int) -> None:
    """Resize every image, in training and in tests alike, so that it fits into ``size`` x ``size``
    pixels. Crops in training and windows in prediction get that size."""
    if 'image_size' in cfg:
        cfg.image_size = size
    training = [
        pipeline
        for name in ('train_dataloader', 'student_train_dataloader')
        for pipeline in _pipelines(cfg.get(name) or {})
    ]
    for pipeline in _pipelines(cfg):
        _resize_images(pipeline, size, any(pipeline is one for one in training))
    _set_crops(cfg, size)
    _set_windows(cfg, size)


def set_crop_size(cfg: Config, size: int) -> None:
    """Train on crops of ``size`` x ``size`` pixels.

    Images keep their size. Those of a test are predicted in windows of the crop's size, unless the
    config resizes them (:func:`set_image_size`): then the window stays that of the resized image.
    """
    _set_crops(cfg, size)
    if _test_resize(cfg) is None:
        _set_windows(cfg, size)


def describe_scale(cfg: Config) -> str:
    """One line on the resolution at which a config tests its images."""
    resize = _test_resize(cfg)
    images = (
        'at their native resolution'
        if resize is None
        else f'resized to {resize.get("scale") or resize.get("scale_factor")}'
    )
    windows = next((node for node in nodes(cfg.model) if node.get('mode') == 'slide'), None)
    if windows is None:
        return f'Images are tested {images}, each as a whole'
    crop, stride = windows.crop_size, windows.stride
    return (
        f'Images are tested {images}; those larger than {crop[1]} x {crop[0]} pixels in sliding '
        f'windows of that size, {stride[1]} and {stride[0]} pixels apart'
    )


def _set_crops(cfg: Config, size: int) -> None:
    for node in nodes(cfg):
        if is_type(node, 'MultiImgRandomCrop'):
            node.crop_size = (size, size)


def _set_windows(cfg: Config, size: int) -> None:
    """Make the sliding windows ``size`` x ``size`` pixels large, overlapping as they did."""
    for node in nodes(cfg):
        if node.get('mode') == 'slide' and 'crop_size' in node and 'stride' in node:
            node.stride = tuple(
                max(1, round(size * stride / crop))
                for stride, crop in zip(node.stride, node.crop_size)
            )
            node.crop_size = (size, size)


def _resize_images(pipeline: list, size: int, trains: bool) -> None:
    """Set the target of the pipeline's resizing, or begin it: before the labels of a test are
    loaded, which predictions are compared with at their own size, and after those of training."""
    for step in pipeline:
        if is_type(step, 'MultiImgResize'):
            step.scale = (size, size)
            return
    after = (
        'MultiImgLoadAnnotations'
        if trains or any(is_type(step, 'MultiImgRandomCrop') for step in pipeline)
        else 'MultiImgLoadImageFromFile'
    )
    place = next((index for index, step in enumerate(pipeline) if is_type(step, after)), None)
    if place is not None:
        pipeline.insert(
            place + 1, ConfigDict(type='MultiImgResize', scale=(size, size), keep_ratio=True)
        )


def _pipelines(cfg: Any) -> list[list]:
    """Every list of a config, or of a part of it, that loads pairs, each once."""
    found: dict[int, list] = {}
    for node in nodes(cfg):
        for value in node.values():
            if isinstance(value, list) and any(
                isinstance(step, dict) and is_type(step, 'MultiImgLoadImageFromFile')
                for step in value
            ):
                found[id(value)] = value
    return list(found.values())


def _test_resize(cfg: Config) -> Any:
    """The step that resizes test images, if there is one."""
    for loader in ('test_dataloader', 'val_dataloader'):
        for node in nodes(cfg.get(loader) or {}):
            if is_type(node, 'MultiImgResize'):
                return node
    return None
