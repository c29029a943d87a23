"""Names of image pairs that stay different where base names don't: for the rows of a table and the
files of pictures."""

import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

Paths = tuple[str, ...]


def image_paths(metainfo: Mapping[str, Any]) -> Paths:
    """Files of the dates of one sample, date B last. Where the images came without a path, the
    label's file; else empty."""
    paths = metainfo.get('img_path') or metainfo.get('seg_map_path') or ()
    return (str(paths),) if isinstance(paths, (str, os.PathLike)) else tuple(map(str, paths))


def image_name(paths: Paths) -> str:
    """The part of date B's path that it shares with date A's, ``town/0.png`` of
    ``test/A/town/0.png`` and ``test/B/town/0.png``.

    A set of one layout gets names that are unique and the same wherever it is stored. The file name
    alone where the dates share none.
    """
    date_b = Path(paths[-1])
    pairs = zip(*(reversed(Path(path).with_suffix('').parts) for path in paths))
    num_shared = (
        len(list(takewhile(lambda parts: len(set(parts)) == 1, pairs)))
        if len(set(paths)) > 1
        else 1
    )
    return '/'.join(date_b.parts[-max(num_shared, 1) :])


def image_names(paths_of_images: Sequence[Paths], whole: bool = False) -> list[str]:
    """Names of all images of a set; images of different date B never share one.

    Args:
        paths_of_images: Files of each image pair; empty for an image without files, which is named
            by its position.
        whole: Whether to name all by their path below the folder that all have in common, which
            tells of several data sets in one which an image is from.

    Returns:
        :func:`image_name` of each; where that names two images alike (several data sets in one),
        the path of date B below the folder that all have in common.
    """
    names = [
        image_name(paths) if paths else f'image{position:05d}'
        for position, paths in enumerate(paths_of_images)
    ]
    files = {os.path.abspath(paths[-1]) for paths in paths_of_images if paths}
    different = len({name for name, paths in zip(names, paths_of_images) if paths})
    if different >= len(files) and not whole:
        return names
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    return [
        os.path.relpath(paths[-1], root) if paths else name
        for name, paths in zip(names, paths_of_images)
    ]
