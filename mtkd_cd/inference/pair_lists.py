"""Lists of pairs to predict: CSV files, folders and STAC items; and STAC items of what was
predicted."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from mtkd_cd.core.csv_files import ENCODING, read_csv
from mtkd_cd.core.errors import UserError
from mtkd_cd.core.extras import require
from mtkd_cd.core.files import atomic_write
from mtkd_cd.core.text import closest, from_csv_text, some
from mtkd_cd.data.layout import PairFolders
from mtkd_cd.data.pairs import list_pairs
from mtkd_cd.inference.grid import is_on_earth
from mtkd_cd.version import __version__

COLUMNS = ('a', 'b', 'out', 'mask', 'date_a', 'date_b', 'label')
DEFAULT_ASSETS = ('red', 'green', 'blue')
_STAC = 'a list of STAC items'
# GDAL's names of the types that a band of a GeoTIFF has.
_GDAL_TYPES = {
    'uint8': 'Byte',
    'uint16': 'UInt16',
    'int16': 'Int16',
    'uint32': 'UInt32',
    'int32': 'Int32',
    'float32': 'Float32',
    'float64': 'Float64',
}


@dataclass(frozen=True)
class PairTask:
    """A pair to predict.

    Attributes:
        name: Unique name of the pair: the path of its change map below the output folder, without
            suffix.
        a: Files of date A: one, or the files of its bands in their order.
        b: Files of date B.
        out: Path of the change map below the output folder, such as ``town/7.tif``.
        mask: See :meth:`~mtkd_cd.inference.inferencer.ChangeInferencer.predict_raster`.
        date_a: When the image was taken, ISO 8601.
        date_b: Likewise.
        label: The truth, for an evaluation.
        items: Where the STAC items of both dates are, if they have a place.
    """

    name: str
    a: tuple[str, ...]
    b: tuple[str, ...]
    out: str
    mask: str | None = None
    date_a: str | None = None
    date_b: str | None = None
    label: str | None = None
    items: tuple[str, ...] = ()


def read_pairs(source: str | os.PathLike, assets: Sequence[str] | None = None) -> list[PairTask]:
    """Read a list of pairs.

    Args:
        source: One of three. A CSV file with the columns
            ``a, b[, out, mask, date_a, date_b, label]``; its paths are relative to its folder. A
            folder with ``A/`` and ``B/``, and perhaps ``label/``; their files have the same names
            up to the suffix. A JSON file of STAC items: a list of pairs ``[[item, item], ...]``,
            each an item or the path of one, or a FeatureCollection of A, B, A, B, ...
        assets: Of STAC items: the assets that hold the bands, in the order in which they are asked
            for; default: red, green, blue.

    Returns:
        The pairs, in their order.

    Raises:
        UserError: The source is missing, of another kind or empty; a column or asset is missing;
            two pairs have one output; an output lies outside of the output folder.
    """
    path = Path(source)
    if path.is_dir():
        tasks = _of_folders(path)
    elif not path.is_file():
        raise UserError(
            f'--pairs {source} does not exist: give a CSV file with the columns a and b, a folder '
            'with A/ and B/, or a JSON file of STAC items'
        )
    elif path.suffix.lower() == '.csv':
        tasks = _of_csv(path)
    elif path.suffix.lower() in ('.json', '.geojson'):
        tasks = _of_stac(path, tuple(assets) if assets else DEFAULT_ASSETS)
    else:
        raise UserError(
            f'--pairs {source}: unknown extension {path.suffix!r}; use .csv, .json or a folder'
        )
    if not tasks:
        raise UserError(f'--pairs {source} holds no pair')
    _check_outputs(source, tasks)
    return tasks


def _of_folders(folder: Path) -> list[PairTask]:
    label = folder / 'label'
    for name in ('A', 'B'):
        if not (folder / name).is_dir():
            raise UserError(
                f'--pairs {folder} has no folder {name}/: it needs A/ and B/, with one file per '
                'pair in each, of the same name up to the suffix'
            )
    pairs, problems = list_pairs(PairFolders(str(folder / 'A'), str(folder / 'B')))
    if problems:
        raise UserError(f'--pairs {folder}:\n  ' + some(problems, 5, '\n  '))
    labels: dict[str, str] = {}
    if label.is_dir():
        for file in sorted(label.rglob('*')):
            if file.is_file() and not file.name.startswith('.'):
                name = file.relative_to(label).with_suffix('').as_posix()
                labels.setdefault(name, os.path.abspath(file))
    return [
        PairTask(
            pair.name,
            (os.path.abspath(pair.date_a),),
            (os.path.abspath(pair.date_b),),
            f'{pair.name}.tif',
            label=labels.get(pair.name),
        )
        for pair in pairs
    ]


def _of_csv(path: Path) -> list[PairTask]:
    try:
        with open(path, encoding=ENCODING, newline='') as file:
            table = read_csv(file, f'--pairs {path}')
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'--pairs {path} is no CSV file in UTF-8: {error}') from None
    if not {'a', 'b'} <= set(table.header):
        raise UserError(
            f'--pairs {path} needs the columns a and b in its first line; found '
            f'{", ".join(table.header) or "nothing"}'
        )
    for name in table.header:
        if name not in COLUMNS:
            raise UserError(
                f'--pairs {path}: unknown column {name!r}: {closest(name, COLUMNS)}. The columns '
                f'are {", ".join(COLUMNS)}'
            )
    tasks = []
    for number, row in table.rows:
        cells = {name: from_csv_text(value.strip()) for name, value in row.items()}
        if not cells['a'] or not cells['b']:
            raise UserError(f'--pairs {path}, line {number}: a and b are both needed')
        place = {
            name: _located(cells[name], path.parent) if cells.get(name) else None
            for name in ('a', 'b', 'mask', 'label')
        }
        out = cells.get('out') or f'{Path(cells["a"]).stem}.tif'
        if not Path(out).suffix:
            out += '.tif'
        tasks.append(
            PairTask(
                Path(out).with_suffix('').as_posix(),
                (place['a'] or '',),
                (place['b'] or '',),
                out,
                place['mask'],
                cells.get('date_a') or None,
                cells.get('date_b') or None,
                place['label'],
            )
        )
    return tasks


def _located(text: str, folder: Path) -> str:
    """A file of a list, as GDAL takes it from wherever the process runs."""
    if text.startswith('/vsi') or '://' in text:
        return text
    return os.path.abspath(folder / text)


def _check_outputs(source: str | os.PathLike, tasks: Sequence[PairTask]) -> None:
    seen: dict[str, PairTask] = {}
    for task in tasks:
        parts = Path(task.out).parts
        if Path(task.out).is_absolute() or '..' in parts or not Path(task.out).stem:
            raise UserError(
                f'--pairs {source}: out {task.out!r} lies outside of the output folder: give a '
                'path below it'
            )
        if any(part.startswith('.') for part in parts):
            raise UserError(f'--pairs {source}: out {task.out!r} is hidden: give another name')
        other = seen.setdefault(os.path.normpath(task.name), task)
        if other is not task:
            raise UserError(
                f'--pairs {source}: {other.a[0]} and {task.a[0]} would both be written to '
                f'{task.out}: name the outputs in a column out'
            )


def _of_stac(path: Path, assets: tuple[str, ...]) -> list[PairTask]:
    pystac = require('pystac', 'stac', _STAC)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f'--pairs {path} is no JSON: {error}') from None
    tasks = []
    for number, pair in enumerate(_item_pairs(path, content), 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(
                f'--pairs {path}: pair {number} has '
                f'{len(pair) if isinstance(pair, list) else "no"} items; two are needed, date A '
                'first'
            )
        items = [_item(pystac, path, one) for one in pair]
        a, b = (_asset_files(path, item, assets) for item in items)
        name = f'{items[0].id}_{items[1].id}'.replace('/', '_')
        places = tuple(place for item in items if (place := item.get_self_href()))
        dates = [_date(item) for item in items]
        tasks.append(
            PairTask(name, a, b, f'{name}.tif', date_a=dates[0], date_b=dates[1], items=places)
        )
    return tasks


def _item_pairs(path: Path, content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    if isinstance(content, dict) and isinstance(content.get('features'), list):
        items = content['features']
        if len(items) % 2:
            raise UserError(
                f'--pairs {path} has {len(items)} items: two per pair are needed, A, B, A, B, ...'
            )
        return [items[index : index + 2] for index in range(0, len(items), 2)]
    raise UserError(
        f'--pairs {path} is neither a list of pairs of STAC items, [[item, item], ...], nor a '
        'FeatureCollection of them'
    )


def _item(pystac: Any, path: Path, one: Any) -> Any:
    """The item, with a place that its assets are relative to."""
    try:
        if isinstance(one, str):
            return pystac.Item.from_file(_located(one, path.parent))
        item = pystac.Item.from_dict(one)
    except UserError:
        raise
    except Exception as error:  # pystac raises all sorts of errors on what is no item
        shown = one if isinstance(one, str) else 'an entry'
        raise UserError(f'--pairs {path}: {shown} is no STAC item: {error!r}') from None
    return item


def _asset_files(path: Path, item: Any, assets: Sequence[str]) -> tuple[str, ...]:
    files = []
    for name in assets:
        if name not in item.assets:
            raise UserError(
                f'--pairs {path}: item {item.id} has no asset {name!r}; it has '
                f'{", ".join(item.assets) or "none"}. Say which hold the bands with --assets '
                'red,green,blue'
            )
        asset = item.assets[name]
        href = asset.get_absolute_href() if item.get_self_href() else asset.href
        if href.startswith('file://'):
            href = href[len('file://') :]
        if href.startswith(('http://', 'https://')):
            href = f'/vsicurl/{href}'
        elif href.startswith('s3://'):
            href = f'/vsis3/{href[len("s3://") :]}'
        files.append(_located(href, path.parent))
    return tuple(files)


def _date(item: Any) -> str | None:
    when = item.datetime or item.common_metadata.start_datetime
    return None if when is None else when.strftime('%Y-%m-%dT%H:%M:%SZ')


def stacked_bands(files: Sequence[str], path: Path) -> str:
    """One file for the bands of a date.

    Args:
        files: Of the bands, in their order. They cover one place; one that has other pixels than
            the first is brought to them.
        path: The VRT to write, if there are several.

    Returns:
        The only file, or ``path``.

    Raises:
        UserError: A file is no raster, or covers another place.
    """
    if len(files) == 1:
        return files[0]
    rasterio = require('rasterio', 'geo', _STAC)
    bands: list[str] = []
    first: dict[str, Any] = {}
    for file in files:
        try:
            dataset = rasterio.open(file)
        except rasterio.errors.RasterioIOError as error:
            raise UserError(f'{file} is not a raster that GDAL can read ({error})') from None
        with dataset:
            if not first:
                first = dict(
                    crs=dataset.crs,
                    transform=dataset.transform,
                    bounds=dataset.bounds,
                    size=(dataset.width, dataset.height),
                )
            pixel = abs(dataset.transform.a)
            apart = max(abs(x - y) for x, y in zip(dataset.bounds, first['bounds']))
            if dataset.crs != first['crs'] or apart > pixel / 2:
                raise UserError(
                    f'{file} covers {tuple(dataset.bounds)} in {dataset.crs}, but {files[0]} '
                    f'{tuple(first["bounds"])} in {first["crs"]}: the assets of an item are bands '
                    'of one image'
                )
            for index in dataset.indexes:
                bands.append(_vrt_band(len(bands) + 1, file, dataset, index, first['size']))
    width, height = first['size']
    crs = '' if first['crs'] is None else f'<SRS>{escape(first["crs"].to_wkt())}</SRS>'
    numbers = ', '.join(f'{value:.17g}' for value in first['transform'].to_gdal())
    with atomic_write(path) as out:
        out.write(
            f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{crs}\n'
            f'<GeoTransform>{numbers}</GeoTransform>\n' + ''.join(bands) + '</VRTDataset>\n'
        )
    return str(path)


def _vrt_band(number: int, file: str, dataset: Any, index: int, size: tuple[int, int]) -> str:
    kind = _GDAL_TYPES.get(dataset.dtypes[index - 1])
    if kind is None:
        raise UserError(f'{file} holds {dataset.dtypes[index - 1]}, which is no type of an image')
    nodata = dataset.nodatavals[index - 1]
    resampling = '' if (dataset.width, dataset.height) == size else ' resampling="bilinear"'
    return (
        f'<VRTRasterBand dataType="{kind}" band="{number}">'
        + (f'<NoDataValue>{nodata:.17g}</NoDataValue>' if nodata is not None else '')
        + f'<{"ComplexSource" if nodata is not None else "SimpleSource"}{resampling}>'
        f'<SourceFilename relativeToVRT="0">{escape(file)}</SourceFilename>'
        f'<SourceBand>{index}</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="{dataset.width}" ySize="{dataset.height}"/>'
        f'<DstRect xOff="0" yOff="0" xSize="{size[0]}" ySize="{size[1]}"/>'
        + (f'<NODATA>{nodata:.17g}</NODATA>' if nodata is not None else '')
        + f'</{"ComplexSource" if nodata is not None else "SimpleSource"}></VRTRasterBand>\n'
    )


def write_item(
    path: Path,
    task: PairTask,
    files: Mapping[str, Path],
    dates: tuple[str, str],
    facts: Mapping[str, Any],
) -> None:
    """Write a STAC item of what was predicted.

    Args:
        path: The item, ``.json``.
        task: The pair.
        files: The outputs: ``change`` and perhaps ``probability`` and ``vector``.
        dates: Of A and B, ISO 8601.
        facts: Properties, written as ``mtkd_cd:<name>``.

    Raises:
        UserError: A date that is none.
    """
    pystac = require('pystac', 'stac', 'a STAC item')
    rasterio = require('rasterio', 'geo', 'a STAC item')
    with rasterio.open(files['change']) as dataset:
        crs, bounds, shape = dataset.crs, dataset.bounds, (dataset.height, dataset.width)
        transform = list(dataset.transform)[:6]
        bbox = geometry = None
        if is_on_earth(crs):
            warp = require('rasterio.warp', 'geo', 'a STAC item')
            bbox = list(warp.transform_bounds(crs, 'EPSG:4326', *bounds))
            left, bottom, right, top = bbox
            ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
            geometry = dict(type='Polygon', coordinates=[ring])
    first, last = sorted(parsed_date(pystac, task.name, date) for date in dates)
    item = pystac.Item(
        id=Path(task.name).name,
        geometry=geometry,
        bbox=bbox,
        datetime=None,
        start_datetime=first,
        end_datetime=last,
        properties={
            **{f'mtkd_cd:{key}': value for key, value in facts.items() if value is not None},
            'mtkd_cd:version': __version__,
        },
    )
    if crs is not None:
        extension = require('pystac.extensions.projection', 'stac', 'a STAC item')
        projection = extension.ProjectionExtension.ext(item, add_if_missing=True)
        code = crs.to_authority()
        projection.apply(
            code=None if code is None else ':'.join(code),
            wkt2=crs.to_wkt() if code is None else None,
            shape=list(shape),
            transform=transform,
        )
    media = {'.tif': pystac.MediaType.GEOTIFF, '.tiff': pystac.MediaType.GEOTIFF}
    media |= {'.png': pystac.MediaType.PNG, '.gpkg': pystac.MediaType.GEOPACKAGE}
    media |= {'.geojson': pystac.MediaType.GEOJSON, '.fgb': pystac.MediaType.FLATGEOBUF}
    media |= {'.parquet': pystac.MediaType.PARQUET}
    for key, file in files.items():
        relative = os.path.relpath(file, path.parent)
        item.add_asset(
            key,
            pystac.Asset(f'./{relative}', media_type=media[file.suffix.lower()], roles=['data']),
        )
    for place in task.items:
        item.add_link(pystac.Link('derived_from', place))
    with atomic_write(path) as out:
        json.dump(item.to_dict(include_self_link=False, transform_hrefs=False), out, indent=1)


def parsed_date(pystac: Any, name: str, date: str) -> Any:
    """The moment that an ISO 8601 text names."""
    try:
        return pystac.utils.str_to_datetime(date)
    except ValueError:
        raise UserError(
            f'{name}: {date!r} is no date; write 2018-03-01 or 2018-03-01T10:20:00Z'
        ) from None
