"""Small pictures of image pairs, labels and predictions for a report, and where their files are."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.text import label_and_path
from mtkd_cd.data.car_index import cars_of_data_infos
from mtkd_cd.data.images import read_header
from mtkd_cd.data.labels import read_label
from mtkd_cd.data.layout import SPLITS, PairFolders, layout_of_class
from mtkd_cd.data.pairs import list_pairs, raise_if_any
from mtkd_cd.data.splits import split_infos
from mtkd_cd.drawing import error_map, mask_image, png_bytes
from mtkd_cd.evaluation.image_names import image_names, image_paths
from mtkd_cd.reporting.comparison import Entry

SIDE = 128  # pixels
RASTERS = ('.tif', '.tiff')


@dataclass(frozen=True)
class Scene:
    """Files of one image pair.

    Attributes:
        date_a: Image.
        date_b: Image.
        label: ``None`` where there is none.
        coding: Of the label, as :func:`~mtkd_cd.data.labels.read_label` takes it.
    """

    date_a: str
    date_b: str
    label: str | None
    coding: Mapping[str, Any]


@dataclass(frozen=True)
class Thumbnail:
    """A small picture with its title: ``A``, ``label``, ``MTKD``; its file, and that file's media
    type."""

    title: str
    data: bytes
    media_type: str


def read_data_set(
    root: str, split: str, dataset_type: str = 'CDDataset'
) -> tuple[dict[str, Scene], dict[str, np.ndarray]]:
    """Find the scenes of the evaluated split, by the names that per-image tables use, and the CARs
    of all splits that are there.

    Args:
        root: Folder with the splits.
        split: That was evaluated.
        dataset_type: Registered class that knows the names of the folders.

    Raises:
        UserError: No such folder, split or class; files that cannot be read.
    """
    found = layout_of_class(dataset_type)
    infos = {split: split_infos(found, root, split, dataset_type)}
    for other in SPLITS:
        # Where there is no val, a part of train is held out for it.
        if other not in infos and (
            found.place(root, other) or (other == 'val' and found.place(root, 'train'))
        ):
            infos[other] = split_infos(found, root, other, dataset_type)
    cars = {
        name: cars_of_data_infos(infos[name])
        for name in SPLITS
        if name in infos and all('seg_map_path' in info for info in infos[name])
    }
    return _scenes(infos[split]), cars


def read_folders(date_a: str, date_b: str, label: str | None = None) -> dict[str, Scene]:
    """The scenes of folders, matched by file name.

    Raises:
        UserError: A folder is missing or empty, or a file lacks its partner.
    """
    pairs, problems = list_pairs(PairFolders(date_a, date_b, label))
    raise_if_any(problems)
    coding = dict(format_seg_map='to_binary')
    return _scenes(
        [
            dict(img_path=[pair.date_a, pair.date_b], seg_map_path=pair.label, **coding)
            for pair in pairs
        ]
    )


def _scenes(infos: Sequence[Mapping[str, Any]]) -> dict[str, Scene]:
    names = image_names([image_paths(info) for info in infos])
    return {name: _scene(info) for name, info in zip(names, infos)}


def _scene(info: Mapping[str, Any]) -> Scene:
    date_a, date_b = info['img_path']
    coding = {
        key: info[key]
        for key in ('format_seg_map', 'reduce_zero_label', 'label_map')
        if info.get(key)
    }
    return Scene(date_a, date_b, info.get('seg_map_path'), coding)


def check_scenes(scenes: Mapping[str, Scene], files: Sequence[str]) -> None:
    """Make sure that there is a scene for each image.

    Raises:
        UserError: Names those without.
    """
    missing = [file for file in files if file not in scenes]
    if missing:
        raise UserError(
            f'the pictures lack {len(missing)} of the {len(files)} evaluated images, for instance '
            f'{missing[0]} (there are {len(scenes)}, '
            f'for instance {next(iter(scenes), "none")}): check --data-root and --split, or '
            '--images'
        )


def find_predictions(folders: Sequence[str], entries: Sequence[Entry]) -> dict[Entry, Path]:
    """Folder of the predictions of each entry that has one.

    Args:
        folders: Each ``[MODEL/]STRATEGY=FOLDER`` for the entries so named, or ``FOLDER`` with a
            sub-folder ``STRATEGY`` or ``MODEL/STRATEGY`` for each entry, as ``mtkd-cd recipe
            --show-dir`` writes them. In it are ``<image>.png`` or, as ``ChangeVisualizationHook``
            writes them, ``prediction/<image>.png``.
        entries: Of the report.

    Raises:
        UserError: A folder is missing, or stands for no entry.
    """
    found: dict[Entry, Path] = {}
    for argument in folders:
        name, path = label_and_path(argument)
        if not Path(path).is_dir():
            raise UserError(f'folder {path} of --show-dirs does not exist')
        here = _named(name, Path(path), entries) if name else _sub_folders(Path(path), entries)
        if not here:
            known = ', '.join(map(str, entries))
            raise UserError(
                f'--show-dirs {argument} stands for none of the runs {known}: give '
                '[MODEL/]STRATEGY=FOLDER'
            )
        found |= here
    for entry, folder in found.items():
        if (folder / 'prediction').is_dir():
            found[entry] = folder / 'prediction'
    return found


def _named(name: str, folder: Path, entries: Sequence[Entry]) -> dict[Entry, Path]:
    return {entry: folder for entry in entries if name in (entry.strategy, str(entry))}


def _sub_folders(folder: Path, entries: Sequence[Entry]) -> dict[Entry, Path]:
    found = {}
    for entry in entries:
        for place in (folder / entry.model / entry.strategy, folder / entry.strategy):
            if place.is_dir():
                found[entry] = place
                break
    return found


def scene_thumbnails(scene: Scene) -> list[Thumbnail]:
    """Date A, date B and the label.

    Raises:
        UserError: A file cannot be read.
    """
    dates = [
        Thumbnail(title, _jpeg(path), 'image/jpeg')
        for title, path in (('A', scene.date_a), ('B', scene.date_b))
    ]
    if scene.label is None:
        return dates
    return [*dates, _mask_thumbnail('label', mask_image(read_label(scene.label, **scene.coding)))]


def prediction_thumbnail(title: str, folder: Path, file: str, scene: Scene) -> Thumbnail | None:
    """A prediction's error map, or its mask where there is no label; ``None`` where the image was
    not drawn.

    Raises:
        UserError: The prediction cannot be read, or has another size than the label.
    """
    path = folder / Path(file).with_suffix('.png')
    if not path.is_file():
        return None
    prediction = read_label(path, format_seg_map='to_binary')
    if scene.label is None:
        return _mask_thumbnail(title, mask_image(prediction))
    label = read_label(scene.label, **scene.coding)
    if label.shape != prediction.shape:
        raise UserError(
            f'{path} is {prediction.shape[1]} x {prediction.shape[0]}, its label {scene.label} '
            f'{label.shape[1]} x {label.shape[0]}'
        )
    return _mask_thumbnail(title, error_map(prediction, label))


def _mask_thumbnail(title: str, picture: np.ndarray) -> Thumbnail:
    image = Image.fromarray(picture)
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
    return Thumbnail(title, png_bytes(np.asarray(image)), 'image/png')


def _photo(path: str) -> Image.Image:
    """An image for the eye; TIFFs and values of more than 8 bits as every drawing reads them."""
    if not path.lower().endswith(RASTERS):
        with Image.open(path) as opened:
            if not opened.mode.startswith(('I', 'F')):
                return opened.convert('RGB')
    with open(path, 'rb') as file:
        size = read_header(file).size
    from mtkd_cd.drawing.photo import read_photo

    return Image.fromarray(read_photo(path, size[::-1]))


def _jpeg(path: str) -> bytes:
    try:
        image = _photo(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, UserError) as error:
        raise UserError(f'{path} cannot be read as an image: {error}') from error
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=82)
    return buffer.getvalue()
