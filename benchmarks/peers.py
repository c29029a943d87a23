"""Prediction on rasters beside other tools, each in a virtual environment of its own: CPU time and
F1 beside habitat-mapper on one ONNX file, growth of memory beside geoai.

python benchmarks/peers.py install                          habitat-mapper and geoai, in --venvs
python benchmarks/peers.py habitat --model m.onnx --levir DATA/levir
python benchmarks/peers.py geoai

The model of ``habitat`` is one of ``mtkd-cd export --size 256``, for normalised input. All runs
have one thread; CPU time is that of the run, without imports.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

# What the parts of the peers import that are measured here; geoai's own list is several gigabytes.
PEERS = {
    'habitat': [['habitat-mapper==0.16.2']],
    'geoai': [
        ['--no-deps', 'geoai-py==0.40.1'],
        ['torch', 'rasterio', 'tqdm', 'geopandas', 'leafmap', 'xarray', 'rioxarray'],
    ],
}
FRAMES = ('test_7', 'test_13', 'test_44')
MEAN, STD = [0.485, 0.456, 0.406] * 2, [0.229, 0.224, 0.225] * 2  # in units of 0 to 1
ONE_THREAD = {
    'OMP_NUM_THREADS': '1',
    'GDAL_NUM_THREADS': '1',
    'GDAL_CACHEMAX': '64',
    'CUDA_VISIBLE_DEVICES': '',
}


def install(venvs: Path) -> None:
    """Make the environments."""
    for name, calls in PEERS.items():
        subprocess.run([sys.executable, '-m', 'venv', venvs / name], check=True)
        for packages in calls:
            python = str(venvs / name / 'bin' / 'python')
            subprocess.run([python, '-m', 'pip', 'install', '-q', *packages], check=True)


def call(python: Path | str, *arguments: Any) -> dict[str, Any]:
    """What a part of this file prints in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [python, __file__, *map(str, arguments)],
            env={**os.environ, **ONE_THREAD, 'XDG_CACHE_HOME': cache},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def write(path: Path, bands: np.ndarray) -> None:
    """A georeferenced raster of 0.5 m, tiled and deflated."""
    count, height, width = bands.shape
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        width=width,
        height=height,
        count=count,
        dtype='uint8',
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress='deflate',
        crs='EPSG:32614',
        transform=rasterio.transform.from_origin(6e5, 3.3e6, 0.5, 0.5),
    ) as file:
        file.write(bands)


def mosaic(levir: Path, frame: str, kind: str) -> np.ndarray:
    """(C, 1024, 1024) of a frame's tiles, whose names end in their row and column."""
    whole = None
    for path in sorted((levir / 'test' / kind).glob(f'{frame}_????_????.*')):
        with rasterio.open(path) as file:
            tile = file.read()
        row, col = (int(part) for part in path.stem.split('_')[-2:])
        if whole is None:
            whole = np.zeros((len(tile), 1024, 1024), np.uint8)
        whole[:, row : row + 256, col : col + 256] = tile
    if whole is None:
        sys.exit(f'{levir}/test/{kind} has no tiles of {frame}')
    return whole


def f1(counts: np.ndarray) -> float:
    """Of [true positives, false positives, false negatives], in percent."""
    return 100 * 2 * counts[0] / (2 * counts[0] + counts[1] + counts[2])


def compare_with_habitat(model: Path, levir: Path, venvs: Path, repeats: int) -> dict[str, Any]:
    """CPU seconds and pooled F1 of both on the frames."""
    seconds: dict[str, list[float]] = {}
    counts = {name: np.zeros(3) for name in ('ours', 'habitat')}
    versions = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        labels = {}
        for frame in FRAMES:
            a, b = (mosaic(levir, frame, kind) for kind in 'AB')
            labels[frame] = mosaic(levir, frame, 'label')[0] > 127
            for name, bands in (('a', a), ('b', b), ('ab', np.concatenate([a, b]))):
                write(folder / f'{frame}_{name}.tif', bands)
        for repeat in range(repeats):
            for name, python in (
                ('habitat', venvs / 'habitat' / 'bin' / 'python'),
                ('ours', sys.executable),
            ):
                found = call(python, f'_{name}', model, folder, *FRAMES)
                seconds.setdefault(name, []).append(found['cpu_s'])
                versions[name] = found['versions']
                if repeat:
                    continue
                for frame, label in labels.items():
                    with rasterio.open(folder / f'{frame}_{name}.tif') as file:
                        change = file.read(1) == 1
                    counts[name] += [
                        (change & label).sum(),
                        (change & ~label).sum(),
                        (~change & label).sum(),
                    ]
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    scores = {name: f1(count) for name, count in counts.items()}
    return dict(
        frames=FRAMES,
        versions=versions,
        cpu_s=medians,
        runs=seconds,
        ratio=medians['ours'] / medians['habitat'],
        f1=scores,
        f1_loss=(scores['habitat'] - scores['ours']) / 100,
    )


def ours(model: Path, folder: Path, frames: list[str]) -> dict[str, Any]:
    """Windows of 256 at 25 % overlap, by onnxruntime."""
    import onnxruntime
    import torch

    from mtkd_cd.apis import ChangeInferencer

    torch.set_num_threads(1)
    start = time.process_time()
    inferencer = ChangeInferencer(model, device='cpu', backend='onnx')
    for frame in frames:
        inferencer.predict_raster(
            folder / f'{frame}_a.tif',
            folder / f'{frame}_b.tif',
            folder / f'{frame}_ours.tif',
            window=256,
            threshold=0.5,
            gsd='keep',
            batch_size=1,
            overwrite=True,
        )
    used = time.process_time() - start
    return dict(cpu_s=used, versions=dict(onnxruntime=onnxruntime.__version__))


def habitat(model: Path, folder: Path, frames: list[str]) -> dict[str, Any]:
    """Its defaults: tiles of 256 at 50 % overlap, a median filter of 5."""
    from importlib.metadata import version

    import habitat_mapper.model as peer
    import onnxruntime
    from habitat_mapper.config import ModelConfig

    session = onnxruntime.InferenceSession

    def single(path: str, providers: Any = None) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        return session(path, settings, providers=['CPUExecutionProvider'])

    peer.ort.InferenceSession = single
    start = time.process_time()
    loaded = peer.ONNXModel(
        ModelConfig(
            name='pair',
            revision='20261126',
            dependencies=[str(model.resolve())],
            model_filename=model.name,
            normalization='standard',
            mean=MEAN,
            std=STD,
            input_channels=6,
            max_pixel_value=255,
            activation=None,
        )
    )
    for frame in frames:
        loaded.process(folder / f'{frame}_ab.tif', folder / f'{frame}_habitat.tif', quiet=True)
    versions = {name: version(name) for name in ('habitat-mapper', 'onnxruntime-gpu')}
    return dict(cpu_s=time.process_time() - start, versions=versions)


def compare_with_geoai(venvs: Path, sizes: list[int]) -> dict[str, Any]:
    """Growth of peak memory from the smaller to the larger raster, with models that cost none."""
    peaks: dict[str, list[float]] = {}
    for size in sizes:
        python = venvs / 'geoai' / 'bin' / 'python'
        peaks.setdefault('geoai', []).append(call(python, '_geoai', size)['peak_mib'])
        peaks.setdefault('ours', []).append(call(sys.executable, '_peak', size)['peak_mib'])
    growth = {name: values[-1] - values[0] for name, values in peaks.items()}
    return dict(
        sizes=sizes, peak_mib=peaks, growth_mib=growth, ratio=growth['ours'] / growth['geoai']
    )


def noise(path: Path, size: int, bands: int, seed: int = 0) -> None:
    """A raster of blocks of noise, written without being held."""
    block = np.random.default_rng(seed).integers(0, 256, (bands, 512, 512), dtype=np.uint8)
    write(path, block[:, :1, :1])
    with rasterio.open(path) as file:
        profile = {**file.profile, 'width': size, 'height': size}
    with rasterio.open(path, 'w', **profile) as file:
        for row in range(0, size, 512):
            for col in range(0, size, 512):
                height, width = min(512, size - row), min(512, size - col)
                file.write(block[:, :height, :width], window=Window(col, row, width, height))


def peak_mib() -> dict[str, float]:
    """Of this process."""
    return dict(peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def geoai_peak(folder: Path, size: int) -> dict[str, float]:
    """Of its ``predict_geotiff`` on both dates as one raster."""
    import torch
    from geoai.inference import predict_geotiff

    class Mean(torch.nn.Module):
        def forward(self, pairs: torch.Tensor) -> torch.Tensor:
            return pairs[:, :1]

    torch.set_num_threads(1)
    noise(folder / 'ab.tif', size, 6)
    predict_geotiff(
        Mean(),
        str(folder / 'ab.tif'),
        str(folder / 'o.tif'),
        tile_size=512,
        overlap=128,
        device='cpu',
        verbose=False,
    )
    return peak_mib()


def our_peak(folder: Path, size: int) -> dict[str, float]:
    """Of change map and probability of two rasters."""
    import torch

    from mtkd_cd.apis import ChangeInferencer
    from mtkd_cd.inference.card import Card
    from mtkd_cd.inference.predictor import Model

    class First:
        def probability(self, pairs: torch.Tensor) -> torch.Tensor:
            return pairs[:, 0].sigmoid()

    torch.set_num_threads(1)
    for name in 'ab':
        noise(folder / f'{name}.tif', size, 3)
    model = Model(Card('first', (0.0,) * 6, (255.0,) * 6), {'': First})
    ChangeInferencer(model, device='cpu').predict_raster(
        folder / 'a.tif',
        folder / 'b.tif',
        folder / 'o.tif',
        probability=folder / 'p.tif',
        window=512,
        batch_size=4,
    )
    return peak_mib()


def part(arguments: list[str]) -> dict[str, Any]:
    """What :func:`call` asks for."""
    name, *rest = arguments
    if name in ('_ours', '_habitat'):
        run = ours if name == '_ours' else habitat
        return run(Path(rest[0]), Path(rest[1]), rest[2:])
    measure = geoai_peak if name == '_geoai' else our_peak
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), int(rest[0]))


def main() -> None:
    """Print one JSON line."""
    if len(sys.argv) > 1 and sys.argv[1].startswith('_'):
        print(json.dumps(part(sys.argv[1:])))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('what', choices=['install', 'habitat', 'geoai'])
    parser.add_argument('--venvs', type=Path, default=Path('../venvs'), help='of the peers')
    parser.add_argument('--model', type=Path, help='an exported ONNX file of 256 pixels')
    parser.add_argument('--levir', type=Path, help='LEVIR-CD in tiles')
    parser.add_argument('--sizes', type=int, nargs='+', default=[2048, 8192])
    parser.add_argument('--repeats', type=int, default=3)
    args = parser.parse_args()
    if args.what == 'install':
        install(args.venvs)
    elif args.what == 'geoai':
        print(json.dumps(compare_with_geoai(args.venvs, args.sizes)))
    else:
        if args.model is None or args.levir is None:
            parser.error('habitat needs --model and --levir')
        found = compare_with_habitat(args.model, args.levir, args.venvs, args.repeats)
        print(json.dumps(found))


if __name__ == '__main__':
    main()
