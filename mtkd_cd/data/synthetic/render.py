"""From land to picture: colours and textures of a date, shadows, roofs, atmosphere and sensor."""

from dataclasses import dataclass

import cv2
import numpy as np

from mtkd_cd.data.synthetic.land import (
    Building,
    Cover,
    Land,
    Street,
    Terrain,
    crown_offset,
    fill,
    fixed_point,
    smooth_noise,
)

# Colours are RGB, 0-255. Crops: wheat, maize, pasture, ploughed, stubble, orchard, in spring,
# summer, autumn, winter.
_CROPS = np.array(
    [
        [[104, 122, 66], [178, 158, 104], [148, 128, 92], [98, 106, 68]],
        [[126, 108, 82], [78, 104, 56], [142, 128, 76], [118, 102, 80]],
        [[102, 122, 68], [98, 114, 66], [114, 114, 70], [100, 102, 72]],
        [[118, 98, 78], [92, 112, 62], [108, 88, 70], [102, 88, 74]],
        [[110, 122, 72], [164, 148, 98], [158, 140, 102], [122, 112, 86]],
        [[106, 112, 72], [94, 104, 64], [120, 106, 70], [110, 100, 78]],
    ],
    np.float32,
)
_ORCHARD = 5
_LAWN = np.array([[100, 120, 72], [104, 116, 74], [112, 110, 72], [98, 100, 74]], np.float32)
_LEAVES = np.array([[78, 100, 52], [58, 82, 44], [122, 98, 52], [92, 82, 66]], np.float32)
_NEEDLES = np.array([[46, 66, 46], [44, 64, 42], [46, 62, 42], [42, 58, 44]], np.float32)
_WATER = np.array([[52, 78, 82], [44, 72, 78], [50, 70, 70], [46, 64, 72]], np.float32)
_MUD = np.array([118, 104, 82], np.float32)
# Colour, and strength of the coarse and of the fine texture, of what looks the same in all seasons.
_FLAT = {
    Cover.BARE: ([196, 172, 138], 0.07, 0.05),
    Cover.PAVED: ([150, 148, 144], 0.04, 0.03),
    Cover.TRACK: ([172, 154, 122], 0.05, 0.06),
    Cover.ROAD: ([121, 120, 117], 0.04, 0.02),
    Cover.BUILDING: ([128, 124, 120], 0.02, 0.02),
}
_HOUSE_ROOFS = np.array(
    [[164, 92, 72], [142, 84, 66], [176, 116, 92], [104, 102, 104], [132, 128, 124], [120, 88, 76]],
    np.float32,
)
_HALL_ROOFS = np.array(
    [
        [206, 206, 202],
        [176, 178, 178],
        [104, 136, 176],
        [150, 146, 140],
        [188, 120, 100],
        [218, 214, 204],
    ],
    np.float32,
)
_CARS = np.array(
    [[225, 225, 225], [60, 62, 66], [150, 152, 155], [150, 50, 44], [52, 74, 120]], np.float32
)


@dataclass(frozen=True)
class Look:
    """Season, light and sensor of one date.

    Attributes:
        season: 0 spring, 1 summer, 2 autumn, 3 winter.
        shadow: (2,) x, y of the shadow that one pixel of height casts.
        turbidity: 0 clear water, 1 mud.
        gain: (3,) of the RGB channels.
        haze: Share of the light that the air adds.
        motion: (2, 3) affine map from this picture's pixels to the ground.
        blur, noise: Standard deviations of the optics in pixels and of the sensor in grey levels.
        seed: Of what differs between two dates with equal settings: cars, tints of the crops,
            sensor noise.
    """

    season: int
    shadow: np.ndarray
    turbidity: float
    gain: np.ndarray
    gamma: float
    haze: float
    motion: np.ndarray
    blur: float
    noise: float
    seed: int


def random_looks(rng: np.random.Generator, size: int) -> tuple[Look, Look]:
    """Two dates of different season, the second slightly out of register."""
    seasons = rng.permutation(4)[:2]
    azimuth, still = rng.uniform(0, 2 * np.pi), np.eye(2, 3)
    shift, turn = rng.uniform(-0.45, 0.45, 2), rng.uniform(-0.5, 0.5) / size
    moved = np.array(
        [[1, -turn, shift[0] + turn * size / 2], [turn, 1, shift[1] - turn * size / 2]]
    )
    first, second = (
        _random_look(rng, int(season), azimuth + rng.normal(0, 0.25), motion)
        for season, motion in zip(seasons, (still, moved))
    )
    return first, second


def _random_look(rng: np.random.Generator, season: int, azimuth: float, motion: np.ndarray) -> Look:
    length = rng.uniform(0.5, 0.95) * (1.35 if season == 3 else 1.0)
    return Look(
        season=season,
        shadow=length * np.array([np.cos(azimuth), np.sin(azimuth)]),
        turbidity=float(rng.beta(0.7, 1.2)),
        gain=rng.uniform(0.86, 1.14) * rng.uniform(0.96, 1.04, 3),
        gamma=rng.uniform(0.88, 1.14),
        haze=rng.uniform(0.0, 0.16),
        motion=motion,
        blur=rng.uniform(0.45, 0.7),
        noise=rng.uniform(1.5, 3.5),
        seed=int(rng.integers(2**32)),
    )


def render(terrain: Terrain, land: Land, look: Look) -> np.ndarray:
    """The picture of a date: (H, W, 3) uint8 RGB."""
    return _sense(paint(terrain, land, look), look)


def paint(terrain: Terrain, land: Land, look: Look) -> np.ndarray:
    """(H, W, 3) float32 ground colours in clear air. Where two lands have the same cover, equal
    looks paint the same, but for shadows."""
    rng = np.random.default_rng(look.seed)
    image = _fields(rng, terrain, look)
    water = _WATER[look.season] * (1 - look.turbidity) + _MUD * look.turbidity
    flat = {
        **_FLAT,
        Cover.LAWN: (_LAWN[look.season], 0.08, 0.06),
        Cover.WATER: (water, 0.05, 0.015),
    }
    for cover, (colour, coarse, fine) in flat.items():
        mask = land.cover == cover
        texture = 1 + coarse * terrain.mottle[mask] + fine * terrain.grain[mask]
        image[mask] = texture[:, None] * np.asarray(colour, np.float32)
    _woods(rng, image, terrain, land, look)
    for street in land.streets:
        _mark_lane(image, street, land.cover)
    _cars(rng, image, land)
    _shade(image, terrain, land, look)
    return _roofs(image, terrain, land, look)


def _fields(rng: np.random.Generator, terrain: Terrain, look: Look) -> np.ndarray:
    count = len(terrain.parcel_crop)
    tint = (
        _CROPS[terrain.parcel_crop, look.season]
        * rng.normal(1, 0.06, (count, 1))
        * rng.normal(1, 0.02, (count, 3))
    )
    depth = np.where(terrain.parcel_crop == 2, 0.0, rng.uniform(0.03, 0.1, count))
    ys, xs = np.mgrid[: terrain.size, : terrain.size].astype(np.float32)
    frequency = 2 * np.pi / np.where(terrain.parcel_crop == _ORCHARD, 7.0, terrain.parcel_period)
    step_x, step_y = (
        (frequency * f(terrain.parcel_angle)).astype(np.float32)[terrain.parcel]
        for f in (np.cos, np.sin)
    )
    wobble = 0.6 * terrain.mottle
    rows = np.sin(step_x * xs + step_y * ys + wobble) * depth.astype(np.float32)[terrain.parcel]
    trees = np.maximum(
        np.sin(step_x * xs + step_y * ys + wobble) * np.sin(step_x * ys - step_y * xs + wobble), 0
    )
    rows = np.where((terrain.parcel_crop == _ORCHARD)[terrain.parcel], 0.1 - 0.5 * trees, rows)
    texture = 1 + rows + 0.07 * terrain.mottle + 0.03 * terrain.grain
    return tint.astype(np.float32)[terrain.parcel] * texture[..., None]


def _woods(
    rng: np.random.Generator, image: np.ndarray, terrain: Terrain, land: Land, look: Look
) -> None:
    species = terrain.crown_species[:, None]
    colours = (_LEAVES[look.season] * species + _NEEDLES[look.season] * (1 - species)) * rng.normal(
        1, 0.09, (len(species), 1)
    )
    mask = land.cover == Cover.WOOD
    dx, dy = (offset[mask] for offset in crown_offset(terrain))
    towards_sun = -look.shadow / np.linalg.norm(look.shadow)
    distance = dx**2 + dy**2
    light = (
        np.clip(
            1.0 + 0.38 * (dx * towards_sun[0] + dy * towards_sun[1]) - 0.28 * distance, 0.42, 1.5
        )
        + 0.06 * terrain.grain[mask]
    )
    image[mask] = colours.astype(np.float32)[terrain.crown[mask]] * light[:, None].astype(
        np.float32
    )


def _mark_lane(image: np.ndarray, street: Street, cover: np.ndarray) -> None:
    """Dashed centre line of the wide roads."""
    if street.cover != Cover.ROAD or street.width < 7:
        return
    dashes = np.zeros(cover.shape, np.uint8)
    steps = np.linalg.norm(np.diff(street.points, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(steps)])
    for start in np.arange(0, along[-1], 9.0):
        ends = np.array(
            [
                [np.interp(s, along, street.points[:, axis]) for axis in (0, 1)]
                for s in (start, start + 4)
            ]
        )
        cv2.polylines(dashes, [fixed_point(ends)], False, 255, 1, cv2.LINE_AA, 4)
    weight = (dashes * (cover == Cover.ROAD))[..., None] * np.float32(0.45 / 255)
    image += weight * (225 - image)


def _cars(rng: np.random.Generator, image: np.ndarray, land: Land) -> None:
    """A few cars on the roads: they come and go, and are no change."""
    for street in land.streets:
        if street.cover != Cover.ROAD:
            continue
        for _ in range(rng.poisson(1.2)):
            index, share = rng.integers(len(street.points) - 1), rng.random()
            start, stop = street.points[index : index + 2]
            along = (stop - start) / max(np.linalg.norm(stop - start), 1e-6)
            side = np.array([-along[1], along[0]]) * street.width / 4 * rng.choice((-1, 1))
            x, y = np.round(start + share * (stop - start) + side).astype(int)
            inside = 1 <= x < len(image) - 1 and 1 <= y < len(image) - 1
            colour = _CARS[rng.integers(len(_CARS))]
            if inside and (land.cover[y - 1 : y + 2, x - 1 : x + 2] == Cover.ROAD).all():
                ends = np.round(np.array([x, y]) + np.stack([-along, along])).astype(int)
                cv2.line(image, ends[0].tolist(), ends[1].tolist(), colour.tolist(), 2)


def _shade(image: np.ndarray, terrain: Terrain, land: Land, look: Look) -> None:
    shadow = np.zeros(land.cover.shape, np.uint8)
    for building in land.buildings:
        base = building.corners()
        hull = cv2.convexHull(
            np.concatenate([base, base + look.shadow * building.height]).astype(np.float32)
        )[:, 0]
        fill(shadow, hull)
    trees = (land.cover == Cover.WOOD).astype(np.uint8) * 255
    x, y = look.shadow * 4.5
    cast = cv2.warpAffine(trees, np.array([[1, 0, x], [0, 1, y]]), trees.shape)
    shadow = np.maximum(shadow, np.where(trees > 0, 0, cast))
    strength = cv2.GaussianBlur(shadow, (0, 0), 0.6)[..., None] * np.float32(1 / 255)
    # The sky lights shadows, so they are blue.
    image *= 1 - strength * np.array([0.56, 0.52, 0.44], np.float32)


def _roofs(image: np.ndarray, terrain: Terrain, land: Land, look: Look) -> np.ndarray:
    canvas = np.clip(image, 0, 255).astype(np.uint8)
    towards_sun = -look.shadow / np.linalg.norm(look.shadow)
    for building in land.buildings:
        _draw_roof(canvas, building, towards_sun)
    roof = land.cover == Cover.BUILDING
    image[roof] = canvas[roof]
    texture = 1 + 0.02 * terrain.grain[roof] + 0.025 * terrain.mottle[roof]
    image[roof] *= texture[:, None]
    return image


def _draw_roof(canvas: np.ndarray, building: Building, towards_sun: np.ndarray) -> None:
    a, b, c, d = building.corners(0.3)
    palette = _HALL_ROOFS if building.length > 20 else _HOUSE_ROOFS
    colour = palette[int(building.style * len(palette))] * (0.9 + 0.2 * (building.style * 37 % 1))
    if building.roof in ('gable', 'hip'):
        inset = min(building.width / 2 / building.length, 0.4) if building.roof == 'hip' else 0.0
        ridge = [(a + d) / 2 + inset * (b - a), (b + c) / 2 - inset * (b - a)]
        sides = [
            (a, b, ridge[1], ridge[0]),
            (d, c, ridge[1], ridge[0]),
            (a, d, ridge[0]),
            (b, c, ridge[1]),
        ]
        normals = [a - d, d - a, a - b, b - a]
        for side, normal in zip(sides, normals):
            slope = float(normal @ towards_sun) / np.linalg.norm(normal)
            fill(
                canvas,
                np.array(side),
                tuple((colour * (0.98 + 0.27 * slope)).clip(0, 255).tolist()),
            )
        return
    fill(canvas, np.array([a, b, c, d]), tuple((colour * 1.08).clip(0, 255).tolist()))
    fill(canvas, building.corners(-1.0), tuple((colour * 0.95).clip(0, 255).tolist()))
    _draw_roof_details(canvas, building, colour)


def _draw_roof_details(canvas: np.ndarray, building: Building, colour: np.ndarray) -> None:
    a, b, c, d = building.corners(-1.2)
    if building.roof == 'ribbed':
        for share in np.arange(4, building.length - 2, 4) / building.length:
            ends = np.stack([a + share * (b - a), d + share * (c - d)])
            cv2.polylines(
                canvas,
                [fixed_point(ends)],
                False,
                tuple((colour * 0.84).tolist()),
                1,
                cv2.LINE_AA,
                4,
            )
        return
    for index in range(2 if building.length < 20 else 5):
        u, v = (
            building.style * 7.3 * (index + 1) % 1 * 0.7 + 0.1,
            building.style * 3.7 * (index + 2) % 1 * 0.6 + 0.15,
        )
        corner = a + u * (b - a) + v * (d - a)
        length, width = (b - a) / building.length * 3, (d - a) / building.width * 2.5
        shade = 0.75 if index % 2 else 1.15
        fill(
            canvas,
            np.array([corner, corner + length, corner + length + width, corner + width]),
            tuple((colour * shade).clip(0, 255).tolist()),
        )


def _sense(image: np.ndarray, look: Look) -> np.ndarray:
    """Optics, atmosphere, misregistration and sensor noise."""
    rng, size = np.random.default_rng(look.seed + 1), len(image)
    image = cv2.GaussianBlur(image, (0, 0), look.blur)
    if not np.array_equal(look.motion, np.eye(2, 3)):
        image = cv2.warpAffine(
            image,
            look.motion,
            (size, size),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    veil = look.haze * (1 + 0.25 * smooth_noise(rng, size, 160))[..., None]
    image = image * (1 - veil) + veil * np.array([196, 204, 214], np.float32)
    image = 255 * np.clip(image * look.gain.astype(np.float32) / 255, 0, 1) ** np.float32(
        look.gamma
    )
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(look.noise)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
