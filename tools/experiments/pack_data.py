"""Pack data sets, and what Python lacks there, into one archive for a machine without a network.

    python tools/experiments/pack_data.py DATA --sets gzcd clcd levir --quality 75 --site .gpu/site

Takes ``<DATA>/<set>/<split>/{A,B,label}``, and nothing else of the sets. With ``--quality``, an
image becomes a JPEG of that quality where this makes it smaller; labels stay as they are. With
``--side 64``, pictures become PNG files of 64 x 64 pixels, each the mean of the pixels that it
covers; a pixel of a label is changed where at least half of them are. The archive of a set that may
not be passed on may not be passed on either.
"""

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

_SPLITS = ('train', 'val', 'test')
_FOLDERS = ('A', 'B', 'label')


def files_of(root: Path, name: str) -> Iterator[Path]:
    """The images and labels of a set, in a fixed order."""
    for split in _SPLITS:
        for folder in _FOLDERS:
            yield from sorted((root / name / split / folder).iterdir())


def shrunk(path: Path, side: int) -> bytes:
    """The picture at ``side`` x ``side`` pixels, as a PNG."""
    picture = Image.open(path)
    if path.parent.name == 'label':
        whole = picture.convert('L').point(lambda value: 255 * (value > 0))
        small = whole.resize((side, side), Image.Resampling.BOX)
        small = small.point(lambda value: 255 * (value >= 128))
    else:
        small = picture.convert('RGB').resize((side, side), Image.Resampling.BOX)
    encoded = io.BytesIO()
    small.save(encoded, 'PNG')
    return encoded.getvalue()


def content_of(path: Path, quality: int | None) -> bytes:
    """The file, or its picture as a smaller JPEG under the same name."""
    content = path.read_bytes()
    if quality is None or path.parent.name == 'label' or path.suffix != '.jpg':
        return content
    encoded = io.BytesIO()
    Image.open(io.BytesIO(content)).save(encoded, 'JPEG', quality=quality)
    return min(content, encoded.getvalue(), key=len)


def pack(
    root: Path,
    names: list[str],
    out: Path,
    quality: int | None = None,
    site: Path | None = None,
    side: int | None = None,
) -> int:
    """Write the archive; returns the number of its pictures and labels."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f'.{out.name}.part')
    count = 0
    with tarfile.open(unfinished, 'w:gz', compresslevel=6) as archive:
        if site is not None:
            archive.add(site, 'site')
        for name in names:
            for path in files_of(root, name):
                content = shrunk(path, side) if side else content_of(path, quality)
                name_there = path.with_suffix('.png') if side else path
                member = tarfile.TarInfo(f'data/{name_there.relative_to(root)}')
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
                count += 1
    unfinished.replace(out)
    return count


def main() -> None:
    """Pack what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('root', type=Path, help='folder with the sets')
    parser.add_argument('--sets', nargs='+', default=['gzcd', 'clcd', 'levir'])
    parser.add_argument('--quality', type=int, help='of the JPEGs; default: files as they are')
    parser.add_argument('--side', type=int, help='pixels of the shrunk pictures; default: as large')
    parser.add_argument('--site', type=Path, help='folder of packages, see benchmarks/gpu_pack.sh')
    parser.add_argument('--out', type=Path, default=Path('.gpu/mix.tar.gz'))
    args = parser.parse_args()
    count = pack(args.root, args.sets, args.out, args.quality, args.site, args.side)
    print(f'{args.out}: {count} files, {args.out.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    main()
