"""Sets as one archive."""

import importlib.util
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

TOOL = Path(__file__).parents[2] / 'tools' / 'experiments' / 'pack_data.py'


def pack_data():
    spec = importlib.util.spec_from_file_location('pack_data', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_shrunk_pictures_are_means_and_labels_are_majorities(tmp_path):
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (16, 16, 3), np.uint8)
    label = generator.integers(0, 2, (16, 16), np.uint8)  # 0 / 1, as some sets store it
    for split in ('train', 'val', 'test'):
        for folder in ('A', 'B'):
            write(tmp_path / 'set' / split / folder / 'x.png', picture)
        write(tmp_path / 'set' / split / 'label' / 'x.png', label)
    out = tmp_path / 'packed.tar.gz'
    assert pack_data().pack(tmp_path, ['set'], out, side=4) == 9
    with tarfile.open(out) as archive:
        read = {
            member.name: np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read())))
            for member in archive
        }
    blocks = picture.reshape(4, 4, 4, 4, 3).mean((1, 3))
    assert np.abs(read['data/set/test/B/x.png'] - blocks).max() <= 1
    share = label.reshape(4, 4, 4, 4).mean((1, 3))
    assert np.array_equal(read['data/set/train/label/x.png'], np.where(share >= 0.5, 255, 0))
