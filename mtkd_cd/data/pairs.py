"""Image pairs on disk: which files belong together, and what their headers tell about them before anything is decoded."""

import os
import posixpath
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mmengine.fileio import get_text, isdir, isfile, list_dir_or_file
from PIL import Image, UnidentifiedImageError

from mtkd_cd.core.errors import UserError

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp')
_SHOWN = 5


class PairFolders(NamedTuple):
    """Where the images of date A, of date B and the labels are; ``label`` is ``None`` for pairs without labels."""

    date_a: str
    date_b: str
    label: str | None = None


class Pair(NamedTuple):
    """One pair: its name (relative path without suffix, ``/`` between folders) and the paths of its files."""

    name: str
    date_a: str
    date_b: str
    label: str | None


class Problem(NamedTuple):
    """What is wrong with one file."""

    path: str
    text: str

    def __str__(self) -> str:
        return f'{self.path}: {self.text}'


def list_pairs(
    folders: PairFolders,
    ann_file: str = '',
    img_suffix: str = '',
    seg_map_suffix: str = '',
    backend_args: dict | None = None,
) -> tuple[list[Pair], list[Problem]]:
    """Match the files of both dates and the labels by their names.

    Args:
        folders: Scanned with their sub-folders; hidden entries are skipped.
        ann_file: List with one name per line, with or without suffix; gives choice and order. Without it: all pairs, sorted by path.
        img_suffix: Ending of the images' names, which is cut off once; ``''`` for any of ``IMAGE_SUFFIXES``.
        seg_map_suffix: The same for the labels.
        backend_args: mmengine's file backend.

    Returns:
        The complete pairs, and a problem for each file that lacks a partner or is listed but missing.

    Raises:
        UserError: A folder is missing or holds no image; the list is missing or empty; two files of a folder differ in their suffix alone.
    """
    files_a = _files_by_name(folders.date_a, img_suffix, backend_args)
    files_b = _files_by_name(folders.date_b, img_suffix, backend_args)
    labels = (
        None
        if folders.label is None
        else _files_by_name(folders.label, seg_map_suffix, backend_args)
    )
    if ann_file:
        names = [
            _without_suffix(line, img_suffix) for line in _listed_names(ann_file, backend_args)
        ]
    else:
        names = sorted(
            files_a.keys() | files_b.keys(),
            key=lambda name: files_a.get(name, files_b.get(name, '')),
        )
    pairs, problems = [], []
    for name in names:
        date_a, date_b = files_a.get(name), files_b.get(name)
        label = None if labels is None else labels.get(name)
        if date_a and date_b and (label or labels is None):
            pairs.append(Pair(name, date_a, date_b, label))
        elif not date_a and not date_b:
            problems.append(
                Problem(
                    ann_file,
                    f'lists {name!r}, which is neither in {folders.date_a} nor in {folders.date_b}',
                )
            )
        elif not date_a or not date_b:
            problems.append(
                Problem(
                    date_a or date_b or '',
                    f'has no partner in {folders.date_b if date_a else folders.date_a}',
                )
            )
        else:
            problems.append(Problem(date_a, f'has no label in {folders.label}'))
    return pairs, problems


def _files_by_name(folder: str, suffix: str, backend_args: dict | None) -> dict[str, str]:
    if not isdir(folder, backend_args=backend_args):
        raise UserError(
            f'folder {folder} does not exist (current folder: {os.getcwd()}): check data_root and the names of the folders in it'
        )
    files: dict[str, str] = {}
    others = []
    for file in list_dir_or_file(folder, list_dir=False, recursive=True, backend_args=backend_args):
        if not file.endswith(suffix) if suffix else not file.lower().endswith(IMAGE_SUFFIXES):
            others.append(file)
            continue
        path = os.path.join(folder, file)
        name = _without_suffix(file.replace(os.sep, '/'), suffix)
        if name in files:
            raise UserError(
                f'{files[name]} and {path} have the same name: remove one, or set the suffix of the wanted one'
            )
        files[name] = path
    if not files:
        wanted = (
            f'ending in {suffix!r}' if suffix else f'of a known type ({", ".join(IMAGE_SUFFIXES)})'
        )
        found = (
            f'other files are there, for instance {sorted(others)[0]}: set the suffix'
            if others
            else 'it is empty'
        )
        raise UserError(f'folder {folder} has no file {wanted}; {found}')
    return files


def _without_suffix(name: str, suffix: str) -> str:
    if suffix:
        return name.removesuffix(suffix)
    stem, extension = posixpath.splitext(name)
    return stem if extension.lower() in IMAGE_SUFFIXES else name


def _listed_names(ann_file: str, backend_args: dict | None) -> list[str]:
    if not isfile(ann_file, backend_args=backend_args):
        raise UserError(
            f'list file {ann_file} does not exist (current folder: {os.getcwd()}): correct ann_file, or leave it out to take all'
        )
    lines = (
        line.strip(' \t\r\ufeff')
        for line in get_text(ann_file, backend_args=backend_args).split('\n')
    )
    names = [posixpath.normpath(line.replace('\\', '/')) for line in lines if line]
    if not names:
        raise UserError(f'list file {ann_file} has no names in it: it needs one per line')
    return names


def header_problems(pairs: Sequence[Pair]) -> list[Problem]:
    """Problems that the headers of local files show: unequal sizes, four channels, files that are no images.

    Reads a few hundred bytes per file, in threads: 0.1 ms per file that the disk cache holds.
    """
    with ThreadPoolExecutor() as pool:
        return [
            problem
            for problems in pool.map(_pair_header_problems, pairs, chunksize=16)
            for problem in problems
        ]


def _pair_header_problems(pair: Pair) -> list[Problem]:
    sizes: dict[str, tuple[int, int]] = {}
    problems = []
    for path in (pair.date_a, pair.date_b, pair.label):
        if path is None:
            continue
        try:
            with Image.open(path) as image:
                sizes[path] = image.size
                if path != pair.label:
                    problems += channel_problems(path, image)
        except UnidentifiedImageError:
            # Pillow does not know every TIFF; what it does not know is left to the decoder of the pipeline.
            if not path.lower().endswith(('.tif', '.tiff')) or not os.path.getsize(path):
                problems.append(Problem(path, 'is not an image file, or its beginning is lost'))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            problems.append(Problem(path, f'cannot be opened: {error}'))
    return problems + size_problems(sizes, pair)


def channel_problems(path: str, image: Image.Image) -> list[Problem]:
    """A problem if the image has neither one channel nor three."""
    bands = image.getbands()
    if len(bands) in (1, 3):
        return []
    return [
        Problem(
            path,
            f'has {len(bands)} channels ({image.mode}); a pair needs RGB or gray images: remove the alpha or infrared channel',
        )
    ]


def size_problems(sizes: dict[str, tuple[int, int]], pair: Pair) -> list[Problem]:
    """A problem for each file of ``pair`` whose (width, height) in ``sizes`` differs from that of date A."""
    if pair.date_a not in sizes:
        return []
    wanted = sizes[pair.date_a]
    return [
        Problem(
            path, f'is {size[0]} x {size[1]} pixels, but {pair.date_a} is {wanted[0]} x {wanted[1]}'
        )
        for path, size in sizes.items()
        if size != wanted
    ]


def raise_if_any(problems: Iterable[Problem]) -> None:
    """Turn problems into one error that names the first files.

    Raises:
        UserError: There are problems.
    """
    problems = list(problems)
    if not problems:
        return
    shown = '\n'.join(f'  {problem}' for problem in problems[:_SHOWN])
    more = (
        f'\n  ... and {len(problems) - _SHOWN} more (tools/check_dataset.py lists all of a data set)'
        if len(problems) > _SHOWN
        else ''
    )
    count = 'file' if len(problems) == 1 else 'files'
    raise UserError(f'{len(problems)} {count} cannot be used:\n{shown}{more}')
