"""Output files: checked before a run, written under temporary names, renamed when all are
complete."""

import glob
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtkd_cd.core.errors import UserError

RASTERS = ('.tif', '.tiff')
PART = '.part'  # in the names of files that are not complete


class Staged:
    """Files that are written under temporary names in their own folders, and renamed when all are
    complete.

    Args:
        targets: {what a file is: its final path}.

    It leaves nothing behind after an error, and first removes files that a killed run left.
    """

    def __init__(self, targets: Mapping[str, Path]) -> None:
        self.targets = dict(targets)
        self.paths = {
            key: path.with_name(f'.{path.stem}.{os.getpid()}{PART}{path.suffix}')
            for key, path in self.targets.items()
        }

    def __enter__(self) -> 'Staged':
        for path in self.targets.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
        return self

    def temporary(self, name: str) -> Path:
        """A path beside the first target for a file that is removed at the end."""
        first = next(iter(self.targets.values()))
        path = first.with_name(f'.{first.stem}.{os.getpid()}.{name}{PART}.tif')
        self.paths[f'temporary {name}'] = path
        return path

    def commit(self) -> None:
        """Rename every file to its own name, the first target last: where that one is, the others
        are too."""
        for key, target in reversed(self.targets.items()):
            os.replace(self.paths[key], target)

    def __exit__(self, *_: object) -> None:
        for path in self.paths.values():
            for file in (path, *map(Path, glob.glob(f'{glob.escape(str(path))}*'))):
                file.unlink(missing_ok=True)


def remove_leftovers(target: Path) -> None:
    """Remove what runs that were killed left beside ``target``; those of living processes stay."""
    for path in target.parent.glob(f'.{glob.escape(target.stem)}.*{PART}*'):
        process = path.name[len(target.stem) + 2 :].partition('.')[0]
        if process.isdigit() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_outputs(
    targets: Mapping[str, Path], inputs: Sequence[str | os.PathLike], overwrite: bool
) -> None:
    """Refuse outputs that would harm something, before anything is done.

    Raises:
        UserError: An output is an input, exists without ``overwrite``, is named twice, has an
            unknown extension, or has no folder that can be written to.
    """
    known = {'change': (*RASTERS, '.png'), 'probability': RASTERS}
    places: dict[Path, str] = {}
    for key, path in targets.items():
        if key in known and path.suffix.lower() not in known[key]:
            raise UserError(
                f'{key} {path}: unknown extension {path.suffix!r}; use {", ".join(known[key])}'
            )
        place = path.resolve()
        if place in places:
            raise UserError(f'{key} and {places[place]} are both {path}: give two names')
        places[place] = key
        if any(Path(file).exists() and place == Path(file).resolve() for file in inputs):
            raise UserError(f'{key} {path} is an input: give another name')
        if path.is_dir():
            raise UserError(f'{key} {path} is a folder: give the name of a file')
        check_folder(f'{key} {path}', path.parent)
        if path.exists() and not overwrite:
            raise UserError(f'{key} {path} exists: give another name or --overwrite')


def check_folder(what: str, folder: Path) -> None:
    """Refuse a folder in which nothing can be written, also one that is still to be made.

    Raises:
        UserError: ``what`` for, the folder, and why.
    """
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f'{what}: {folder} is a file, not a folder: choose another place')
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f'{what}: folder {folder} cannot be written to: choose another place, or '
            'change its mode'
        )


def check_space(folder: Path, needed: int) -> None:
    """Refuse to start where the disk has too little room.

    Raises:
        UserError: Shows the estimate and what is free.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f'{folder} has {_size(free)} free, but about {_size(needed)} are needed for '
            'the outputs and the warped date B: free space, or write to another disk'
        )


def _size(count: int) -> str:
    """Bytes, in a unit that shows them."""
    for unit, name in ((1e9, 'GB'), (1e6, 'MB')):
        if count >= unit / 10:
            return f'{count / unit:.2f} {name}'
    return f'{count / 1e3:.0f} kB'
