"""Image pairs on disk: which files belong together, and what their headers tell about them before
anything is decoded."""

import codecs
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

from mtkd_cd.core.errors import UserError
from mtkd_cd.core.storage import is_file, is_folder, read_bytes
from mtkd_cd.core.text import some
from mtkd_cd.data.images import (
    ImageHeader,
    header_problem,
    is_suspect,
    orientation_problem,
    read_header,
    read_image,
)
from mtkd_cd.data.layout import PairFolders

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp')
_SUFFIXES_TEXT = ', '.join(IMAGE_SUFFIXES)
_SHOWN = 5
_LOOKED_INTO = 8
_AT_ONCE = 64  # pairs whose headers one thread reads
_REMEMBERED = 200_000  # headers
_headers: dict[str, tuple[tuple[int, int, int], ImageHeader]] = {}


class Pair(NamedTuple):
    """One pair: its name (relative path without suffix, ``/`` between folders) and the paths of its
    files."""

    name: str
    date_a: str
    date_b: str
    label: str | None


class Problem(NamedTuple):
    """What is wrong with one file."""

    path: str
    text: str

    def __str__(self) -> str:
        return _printable(f'{self.path}: {self.text}')


def list_pairs(
    folders: PairFolders,
    ann_file: str = '',
    img_suffix: str = '',
    seg_map_suffix: str = '',
    backend_args: dict | None = None,
) -> tuple[list[Pair], list[Problem]]:
    """Match the files of both dates and the labels by their names.

    What is passed over (hidden files and folders, such as ``.ipynb_checkpoints``, and files that
    are no images) is said, with counts.

    Args:
        folders: Scanned with their sub-folders.
        ann_file: List with one name per line, with or without suffix; gives choice and order.
            Without it: all pairs, sorted by path.
        img_suffix: Ending of the images' names in either case, which is cut off once; ``''`` for
            any of ``IMAGE_SUFFIXES``.
        seg_map_suffix: The same for the labels.
        backend_args: mmengine's file backend.

    Returns:
        The complete pairs, and a problem for each file that lacks a partner, is listed but missing
        or listed twice, is a link to nothing, or has a name that is not UTF-8.

    Raises:
        UserError: A folder is missing, holds no image, or holds images of another suffix beside
            the wanted one; the list is missing, empty or no text; two files of a folder differ in
            their suffix alone.
    """
    problems: list[Problem] = []
    files_a = _files_by_name(folders.date_a, img_suffix, backend_args, problems)
    files_b = _files_by_name(folders.date_b, img_suffix, backend_args, problems)
    labels = (
        None
        if folders.label is None
        else _files_by_name(folders.label, seg_map_suffix, backend_args, problems)
    )
    if ann_file:
        listed = [
            _without_suffix(line, img_suffix) for line in _listed_names(ann_file, backend_args)
        ]
        names = list(dict.fromkeys(listed))
        problems += [
            Problem(
                ann_file,
                f'lists {name!r} {count} times: remove the repetitions (RepeatDataset makes '
                'training see images more often)',
            )
            for name, count in Counter(listed).items()
            if count > 1
        ]
    else:
        names = sorted(
            files_a.keys() | files_b.keys(),
            key=lambda name: files_a.get(name, files_b.get(name, '')),
        )
    unusable = {problem.path for problem in problems}
    pairs = []
    for name in names:
        date_a, date_b = files_a.get(name), files_b.get(name)
        label = None if labels is None else labels.get(name)
        if unusable & {date_a, date_b, label}:
            continue
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


def _files_by_name(
    folder: str, suffix: str, backend_args: dict | None, problems: list[Problem]
) -> dict[str, str]:
    """{name: path}; links to nothing and names that are not UTF-8 are in it too, with a problem."""
    if not is_folder(folder, backend_args=backend_args):
        raise UserError(
            f'folder {folder} does not exist (current folder: {os.getcwd()}): check data_root and '
            'the names of the folders in it'
        )
    files: dict[str, str] = {}
    others: list[str] = []
    hidden, found = _scan(folder, backend_args)
    for file in found:
        if not file.lower().endswith(suffix.lower() or IMAGE_SUFFIXES):
            others.append(file)
            continue
        path = os.path.join(folder, file)
        name = _without_suffix(file.replace(os.sep, '/'), suffix)
        if name in files:
            raise UserError(
                f'{files[name]} and {path} have the same name: remove one, or set the suffix of '
                'the wanted one'
            )
        files[name] = path
        problem = None if backend_args else _entry_problem(path)
        if problem:
            problems.append(Problem(path, problem))
    images = sorted(file for file in others if file.lower().endswith(IMAGE_SUFFIXES))
    if not files:
        wanted = f'ending in {suffix!r}' if suffix else f'of a known type ({_SUFFIXES_TEXT})'
        there = (
            f'other files are there, for instance {sorted(others)[0]}: set the suffix'
            if others
            else 'it is empty'
        )
        raise UserError(f'folder {folder} has no file {wanted}; {there}')
    # An ending such as `_label.png` chooses among images; a file type does not.
    if images and suffix.startswith('.'):
        shown = ', '.join(images[:3]) + (', ...' if len(images) > 3 else '')
        raise UserError(
            f'folder {folder} has {len(images)} images of another type beside {len(files)} '
            f"{suffix!r} ({shown}): move them out, or take all types with img_suffix='' or "
            "seg_map_suffix='' (CDDataset does)"
        )
    _say_skipped(folder, len(hidden), tuple(sorted(hidden)[:2]), len(others), tuple(others[:2]))
    return files


def _scan(folder: str, backend_args: dict | None) -> tuple[list[str], list[str]]:
    """(Hidden entries, other files) as paths below ``folder``; links to nothing are among the
    files."""
    if backend_args is not None:
        from mmengine.fileio import list_dir_or_file

        return [], list(
            list_dir_or_file(folder, list_dir=False, recursive=True, backend_args=backend_args)
        )
    hidden, files, seen = [], [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        below = os.path.relpath(root, folder)
        place = '' if below == os.curdir else below
        hidden += [os.path.join(place, name) for name in (*folders, *names) if name.startswith('.')]
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        files += [os.path.join(place, name) for name in names if not name.startswith('.')]
    return hidden, files


def _entry_problem(path: str) -> str | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return (
            'has a name that is not UTF-8: rename it, for instance with '
            'convmv -f gbk -t utf8 --notest'
        )
    if os.path.islink(path) and not os.path.exists(path):
        return (
            f'is a link to nothing ({os.readlink(path)}): fetch what it stands for, with git annex '
            'get or dvc pull'
        )
    return None


@cache
def _say_skipped(
    folder: str,
    hidden: int,
    some_hidden: tuple[str, ...],
    others: int,
    some_others: tuple[str, ...],
) -> None:
    """Say it once per process."""
    parts = [
        f'{count} {what} (such as {", ".join(some)})'
        for count, what, some in (
            (hidden, 'hidden entries', some_hidden),
            (others, 'other files', some_others),
        )
        if count
    ]
    if parts:
        from mmengine.logging import print_log

        text = f'{folder}: {" and ".join(parts)} are passed over'
        print_log(_printable(text), logger='current')


def _without_suffix(name: str, suffix: str) -> str:
    if suffix:
        return name[: -len(suffix)] if name.lower().endswith(suffix.lower()) else name
    stem, extension = posixpath.splitext(name)
    return stem if extension.lower() in IMAGE_SUFFIXES else name


def _listed_names(ann_file: str, backend_args: dict | None) -> list[str]:
    if not is_file(ann_file, backend_args=backend_args):
        raise UserError(
            f'list file {ann_file} does not exist (current folder: {os.getcwd()}): correct '
            'ann_file, or leave it out to take all'
        )
    try:
        content = read_bytes(ann_file, backend_args=backend_args)
    except OSError as error:
        raise UserError(f'list file {ann_file} cannot be read: {error}') from error
    lines = (line.strip(' \t\r\ufeff') for line in _decoded(ann_file, content).split('\n'))
    names = [posixpath.normpath(line.replace('\\', '/')) for line in lines if line]
    if not names:
        raise UserError(f'list file {ann_file} has no names in it: it needs one per line')
    return names


def _decoded(ann_file: str, content: bytes) -> str:
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode('utf-16' if wide else 'utf-8')
    except UnicodeDecodeError as error:
        raise UserError(
            f'list file {ann_file} is no UTF-8 text (byte {error.object[error.start]:#04x} at '
            f'{error.start}). Convert it, for instance if it is Chinese text of Windows: '
            f'iconv -f GBK -t UTF-8 {ann_file} > list.txt'
        ) from None
    if '\0' in text:
        raise UserError(
            f'list file {ann_file} holds zero bytes, so it is no list of names or one in UTF-16 '
            f'without a mark: iconv -f UTF-16LE -t UTF-8 {ann_file} > list.txt'
        )
    return text


def header_problems(
    pairs: Sequence[Pair], bands: Sequence[int] | None = None, radiometry: Any = None
) -> list[Problem]:
    """Problems that the headers of local files show: unequal sizes and orientations, bands, files
    that are no images, values that need a rule.

    Reads a few hundred bytes per file, in threads, and the pixels of a few that may be transparent
    or need a rule.

    Args:
        pairs: What to look at.
        bands: The bands that a model takes, see :func:`~mtkd_cd.data.images.read_image`.
        radiometry: The rule for their values.
    """
    suspects: list[str] = []

    def of_some(some_pairs: Sequence[Pair]) -> list[Problem]:
        found = (_pair_header_problems(pair, bands, radiometry, suspects) for pair in some_pairs)
        return [problem for problems in found for problem in problems]

    parts = [pairs[start : start + _AT_ONCE] for start in range(0, len(pairs), _AT_ONCE)]
    with ThreadPoolExecutor() as pool:
        problems = [problem for problems in pool.map(of_some, parts) for problem in problems]
    for path in sorted(suspects)[:_LOOKED_INTO]:
        try:
            read_image(path, bands=bands, radiometry=radiometry)
        except UserError as error:
            problems.append(Problem(path, str(error).removeprefix(f'image {path} ')))
    return problems


def _pair_header_problems(
    pair: Pair, bands: Sequence[int] | None, radiometry: Any, suspects: list[str]
) -> list[Problem]:
    headers: dict[str, ImageHeader] = {}
    problems = []
    for path in (pair.date_a, pair.date_b, pair.label):
        if path is None:
            continue
        try:
            headers[path] = _header(path)
        except OSError as error:
            problems.append(Problem(path, f'cannot be opened: {error}'))
            continue
        except ValueError as error:
            problems.append(Problem(path, str(error)))
            continue
        if path == pair.label:
            continue
        problem = header_problem(headers[path], bands)
        if problem:
            problems.append(Problem(path, problem))
        elif is_suspect(headers[path], radiometry):
            suspects.append(path)
    sizes = {path: header.size for path, header in headers.items()}
    return problems + size_problems(sizes, pair) + _turn_problems(headers, pair)


def _header(path: str) -> ImageHeader:
    """A file's header, read once per process as long as the file stays: a recipe opens the same
    data dozens of times."""
    status = os.stat(path)
    stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
    known = _headers.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    with open(path, 'rb') as file:
        header = read_header(file)
    if header.tags is None and len(_headers) < _REMEMBERED:  # a TIFF's tags may be large
        _headers[path] = stamp, header
    return header


def _turn_problems(headers: dict[str, ImageHeader], pair: Pair) -> list[Problem]:
    if pair.date_a not in headers or pair.date_b not in headers:
        return []
    tags = [headers[path].orientation for path in (pair.date_a, pair.date_b)]
    if tags[0] == tags[1]:
        return []
    return [Problem(pair.date_a, orientation_problem(tags, (pair.date_a, pair.date_b)))]


def size_problems(sizes: dict[str, tuple[int, int]], pair: Pair) -> list[Problem]:
    """A problem for each file of ``pair`` whose (width, height) in ``sizes`` differs from that of
    date A."""
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
    shown = some(problems, _SHOWN, '\n  ')
    more = ' (mtkd-cd check-data lists all of a data set)' if len(problems) > _SHOWN else ''
    count = 'file' if len(problems) == 1 else 'files'
    raise UserError(f'{len(problems)} {count} cannot be used:\n  {shown}{more}')


def _printable(text: str) -> str:
    """Text that every terminal and log file takes: bytes that are no UTF-8 are escaped."""
    return text.encode('utf-8', 'backslashreplace').decode()
