"""The ground truth of a synthetic scene: a terrain (parcels, tree crowns, relief) and what covers
it. About one metre per pixel."""

from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np

_FIXED_POINT_BITS = 4


class Cover(IntEnum):
    """Land cover of a pixel. Two dates differ in cover exactly where the label says change."""

    FIELD = 0
    LAWN = 1
    WOOD = 2
    WATER = 3
    BARE = 4
    PAVED = 5
    TRACK = 6
    ROAD = 7
    BUILDING = 8


@dataclass(frozen=True)
class Building:
    """A rectangular building: centre, length and width in pixels, angle in radians; ``style`` in
    [0, 1) picks roof colour and details."""

    x: float
    y: float
    length: float
    width: float
    angle: float
    height: float
    roof: str
    style: float

    def corners(self, grow: float = 0.0) -> np.ndarray:
        """(4, 2) x, y; the first two and the last two lie on one long side each."""
        half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (
            np.array([self.length, self.width]) / 2 + grow
        )
        return half @ rotation(self.angle).T + (self.x, self.y)


@dataclass(frozen=True)
class Street:
    """A line of road: (K, 2) points, width in pixels, cover ``ROAD`` or ``TRACK``."""

    points: np.ndarray
    width: float
    cover: Cover


@dataclass(frozen=True)
class Plan:
    """What kind of place a scene shows: shares of the area in [0, 1]; ``river`` is a width in
    pixels, 0 for none."""

    urban: float
    woods: float
    river: float = 0.0
    lake: float = 0.0


@dataclass(frozen=True)
class Terrain:
    """What both dates share. Maps are (H, W); tables have a row per parcel or per tree crown."""

    angle: float
    parcel: np.ndarray
    parcel_angle: np.ndarray
    parcel_period: np.ndarray
    parcel_crop: np.ndarray
    crown: np.ndarray
    crown_seed: np.ndarray
    crown_radius: np.ndarray
    crown_species: np.ndarray
    elevation: np.ndarray
    mottle: np.ndarray
    grain: np.ndarray

    @property
    def size(self) -> int:
        return self.parcel.shape[0]


@dataclass(frozen=True)
class Land:
    """The cover (H, W) uint8 of one date, with the buildings and roads that are drawn with more
    detail than the cover tells."""

    cover: np.ndarray
    buildings: tuple[Building, ...]
    streets: tuple[Street, ...]


def rotation(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Points as OpenCV's drawing functions take them with ``shift=4``."""
    return np.round(points * (1 << _FIXED_POINT_BITS)).astype(np.int32)


def fill(canvas: np.ndarray, polygon: np.ndarray, colour: float | tuple[float, ...] = 255) -> None:
    """Draw an anti-aliased polygon (K, 2) on a uint8 canvas."""
    cv2.fillPoly(canvas, [fixed_point(polygon)], colour, cv2.LINE_AA, _FIXED_POINT_BITS)


def footprint(shape: tuple[int, ...], polygon: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels that lie at least half inside a polygon."""
    canvas = np.zeros(shape[:2], np.uint8)
    fill(canvas, polygon)
    return canvas > 127


def street_mask(shape: tuple[int, ...], street: Street) -> np.ndarray:
    canvas = np.zeros(shape[:2], np.uint8)
    cv2.polylines(
        canvas,
        [fixed_point(street.points)],
        False,
        255,
        max(round(street.width), 1),
        cv2.LINE_8,
        _FIXED_POINT_BITS,
    )
    return canvas > 127


def smooth_noise(rng: np.random.Generator, size: int, scale: float, octaves: int = 1) -> np.ndarray:
    """(size, size) float32, variance about 1: a random lattice of ``scale`` pixels, interpolated;
    octaves halve in scale and weight."""
    total, power = np.zeros((size, size), np.float32), 0.0
    for octave in range(octaves):
        cell = max(scale / 2**octave, 1.0)
        lattice = rng.standard_normal((int(size / cell) + 5,) * 2, dtype=np.float32)
        start = rng.uniform(1, 2, 2)
        matrix = np.array([[1 / cell, 0, start[0]], [0, 1 / cell, start[1]]])
        layer = cv2.warpAffine(
            lattice,
            matrix,
            (size, size),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        total += layer * 0.5**octave
        power += 0.25**octave
    # Interpolation averages the lattice: about half of its variance is left.
    return total / np.float32(np.sqrt(0.55 * power))


def random_building(
    rng: np.random.Generator, x: float, y: float, angle: float, hall: bool = False
) -> Building:
    """A house, or a hall or apartment block, with one of its axes along ``angle``."""
    if hall:
        length, width, height, roof = (
            rng.uniform(24, 46),
            rng.uniform(13, 24),
            rng.uniform(5, 14),
            rng.choice(['flat', 'flat', 'ribbed']),
        )
    else:
        length, width, height, roof = (
            rng.uniform(11, 17),
            rng.uniform(8, 11),
            rng.uniform(3.5, 6),
            rng.choice(['gable', 'gable', 'hip', 'flat']),
        )
    return Building(x, y, length, width, angle, height, str(roof), float(rng.random()))


class GroundPlan:
    """Parcels, streets and building lots from recursive splits of a rotated and slightly bent
    rectangle."""

    def __init__(self, rng: np.random.Generator, size: int, plan: Plan) -> None:
        self.rng, self.size, self.plan = rng, size, plan
        self.angle = rng.uniform(0, np.pi / 2)
        self.streets: list[Street] = []
        self.hedges: list[np.ndarray] = []
        self.leaves: list[tuple[np.ndarray, bool, bool]] = []
        self.lots: list[Building] = []
        self._bend = rng.uniform((1, 150, 0), (5, 300, 2 * np.pi), (2, 3))
        reach = 0.75 * size + 12
        self._split(
            -reach + rng.uniform(-20, 0), -reach + rng.uniform(-20, 0), reach, reach, 0, None
        )

    def place(self, points: np.ndarray) -> np.ndarray:
        """(K, 2) coordinates of the plan -> (K, 2) pixels."""
        amplitude, wavelength, phase = self._bend.T
        bent = points + amplitude * np.sin(2 * np.pi * points[:, ::-1] / wavelength + phase)
        return bent @ rotation(self.angle).T + self.size / 2

    def _split(
        self, u0: float, v0: float, u1: float, v1: float, depth: int, urban: bool | None
    ) -> None:
        span = (u1 - u0, v1 - v0)
        if urban is None and max(span) < 190:
            urban = bool(self.rng.random() < self.plan.urban)
        if max(span) < (75 if urban else 150 if self.rng.random() < 0.4 else 95):
            self._add_leaf(u0, v0, u1, v1, bool(urban))
            return
        axis = int(span[1] > span[0])
        cut = (u0, v0)[axis] + span[axis] * self.rng.uniform(0.36, 0.64)
        gap = self._add_boundary(axis, cut, (v0, u0)[axis], (v1, u1)[axis], depth, urban)
        first, second = [u0, v0, u1, v1], [u0, v0, u1, v1]
        first[2 + axis], second[axis] = cut - gap, cut + gap
        self._split(first[0], first[1], first[2], first[3], depth + 1, urban)
        self._split(second[0], second[1], second[2], second[3], depth + 1, urban)

    def _add_boundary(
        self, axis: int, cut: float, start: float, stop: float, depth: int, urban: bool | None
    ) -> float:
        """Draw what runs along a split; returns the half width of land that it takes."""
        along = np.linspace(start - 4, stop + 4, max(int((stop - start) / 12), 2))
        line = np.stack(
            [np.full_like(along, cut), along] if axis == 0 else [along, np.full_like(along, cut)], 1
        )
        points, chance = self.place(line), self.rng.random()
        if urban or (depth < 2 and chance < 0.35 + 0.65 * self.plan.urban):
            width = self.rng.uniform(8, 10) if depth < 2 else self.rng.uniform(5, 6.5)
            self.streets.append(Street(points, width, Cover.ROAD))
            return width / 2 + 1
        if chance < 0.6:
            self.streets.append(Street(points, self.rng.uniform(2, 3.4), Cover.TRACK))
            return 2
        if chance < 0.8:
            self.hedges.append(points)
        return 1

    def _add_leaf(self, u0: float, v0: float, u1: float, v1: float, urban: bool) -> None:
        edge = np.linspace(0, 1, 8)[:, None]
        corners = np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])
        outline = np.concatenate(
            [a + (b - a) * edge for a, b in zip(corners, np.roll(corners, -1, 0))]
        )
        halls = urban and self.rng.random() < 0.3
        self.leaves.append((self.place(outline), urban, halls))
        if urban:
            self._add_lots(u0, v0, u1, v1, halls)
        elif self.plan.urban and self.rng.random() < 0.2:
            self._add_farm(u0, v0, u1, v1)

    def _add_farm(self, u0: float, v0: float, u1: float, v1: float) -> None:
        yard = np.array(
            [u0 + (u1 - u0) * self.rng.uniform(0.3, 0.7), self.rng.choice((v0 + 20, v1 - 20))]
        )
        for offset, hall in (((0, 0), True), ((-4, 24), True), ((30, 6), False)):
            x, y = self.place((yard + offset)[None])[0]
            self.lots.append(
                random_building(self.rng, x, y, self.angle + np.pi / 2 * (not hall), hall)
            )

    def _add_lots(self, u0: float, v0: float, u1: float, v1: float, halls: bool) -> None:
        rng, long_axis = self.rng, int(v1 - v0 > u1 - u0)
        low, high = np.array([u0, v0]), np.array([u1, v1])
        pitch, depth = (rng.uniform(42, 56), 34) if halls else (rng.uniform(18, 26), 22)
        rows = max(int((high - low)[1 - long_axis] // depth), 1)
        columns = max(int((high - low)[long_axis] // pitch), 1)
        # Two rows of houses look at the two streets; a third in the middle would have none.
        for row in (
            np.linspace(0.5 / rows, 1 - 0.5 / rows, rows)
            if rows < 3
            else (0.5 / rows, 1 - 0.5 / rows)
        ):
            for column in range(columns):
                share = np.array(
                    [(column + 0.5) / columns, row]
                    if long_axis == 0
                    else [row, (column + 0.5) / columns]
                )
                x, y = self.place((low + (high - low) * share + rng.uniform(-1.5, 1.5, 2))[None])[0]
                turn = 0 if halls or rng.random() < 0.7 else np.pi / 2
                self.lots.append(
                    random_building(rng, x, y, self.angle + long_axis * np.pi / 2 + turn, halls)
                )


def winding_line(rng: np.random.Generator, size: int, wiggle: float) -> np.ndarray:
    """(64, 2) points of a curve that crosses the whole scene."""
    along = np.linspace(-0.8, 0.8, 64) * size
    across = rng.uniform(-0.2, 0.2) * size + sum(
        wiggle
        * size
        / k
        * rng.normal()
        * np.sin(2 * np.pi * k * along / (1.4 * size) + rng.uniform(0, 2 * np.pi))
        for k in (1, 2, 3)
    )
    return np.stack([along, across], 1) @ rotation(rng.uniform(0, np.pi)).T + size / 2


def make_land(
    rng: np.random.Generator, size: int, plan: Plan
) -> tuple[Terrain, Land, tuple[Building, ...]]:
    """Draw a scene's terrain and its land at date A.

    Returns:
        Terrain, land, and the vacant building lots.
    """
    ground = GroundPlan(rng, size, plan)
    river = winding_line(rng, size, 0.09) if plan.river else None
    terrain = _make_terrain(rng, ground, river)
    cover = np.full((size, size), Cover.FIELD, np.uint8)
    urban = np.zeros((size, size), bool)
    for outline, is_urban, halls in ground.leaves:
        if is_urban:
            block = footprint(cover.shape, outline)
            # Some bare ground at date A as well: being bare is not what makes a change.
            cover[block] = (
                rng.choice([Cover.PAVED, Cover.BARE], p=[0.75, 0.25]) if halls else Cover.LAWN
            )
            urban |= block
    _plant_trees(rng, terrain, ground, cover, urban, plan)
    main = (
        (Street(winding_line(rng, size, 0.05), rng.uniform(7, 10), Cover.ROAD),)
        if rng.random() < 0.45
        else ()
    )
    streets = (
        *(s for s in ground.streets if s.cover == Cover.TRACK),
        *(s for s in ground.streets if s.cover == Cover.ROAD),
    )
    for street in streets:
        cover[street_mask(cover.shape, street)] = street.cover
    _add_water(rng, terrain, cover, plan, river)
    for street in main:
        cover[street_mask(cover.shape, street)] = street.cover
    buildings, vacant = _settle(rng, cover, ground.lots)
    return terrain, Land(cover, buildings, (*streets, *main)), vacant


def _make_terrain(
    rng: np.random.Generator, ground: GroundPlan, river: np.ndarray | None
) -> Terrain:
    size, count = ground.size, len(ground.leaves)
    parcel = np.zeros((size, size), np.int32)
    for index, (outline, _, _) in enumerate(ground.leaves):
        cv2.fillPoly(parcel, [fixed_point(outline)], index, cv2.LINE_8, _FIXED_POINT_BITS)
    relief = 30 * smooth_noise(rng, size, 90, 3)
    if river is not None:
        bank = np.full((size, size), 255, np.uint8)
        cv2.polylines(bank, [fixed_point(river)], False, 0, 1, cv2.LINE_8, _FIXED_POINT_BITS)
        relief = cv2.distanceTransform(bank, cv2.DIST_L2, 5) + 0.1 * relief
    crown, seed = _crowns(rng, size)
    return Terrain(
        angle=ground.angle,
        parcel=parcel,
        parcel_angle=ground.angle + rng.integers(0, 2, count) * np.pi / 2,
        parcel_period=rng.uniform(3.2, 6.5, count),
        parcel_crop=rng.integers(0, 6, count),
        crown=crown,
        crown_seed=seed,
        crown_radius=rng.uniform(2.6, 5.4, len(seed)).astype(np.float32),
        crown_species=np.clip(rng.normal(rng.uniform(0.1, 0.9), 0.25, len(seed)), 0, 1),
        elevation=relief,
        mottle=smooth_noise(rng, size, 48, 5),
        grain=smooth_noise(rng, size, 3, 2),
    )


def _crowns(
    rng: np.random.Generator, size: int, spacing: float = 6.5
) -> tuple[np.ndarray, np.ndarray]:
    """Voronoi map (H, W) of tree crowns around a jittered lattice, and their seeds (K, 2) x, y."""
    line = np.arange(spacing / 2, size, spacing)
    lattice = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    seed = np.unique(
        np.clip(lattice + rng.uniform(-2.8, 2.8, lattice.shape), 0, size - 1).astype(int), axis=0
    )
    points = np.full((size, size), 255, np.uint8)
    points[seed[:, 1], seed[:, 0]] = 0
    _, labels = cv2.distanceTransformWithLabels(
        points, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    index = np.zeros(labels.max() + 1, np.int32)
    index[labels[seed[:, 1], seed[:, 0]]] = np.arange(len(seed))
    return index[labels], seed


def crown_offset(terrain: Terrain) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) dx and dy of each pixel from the tree it would belong to, in crown radii."""
    ys, xs = np.mgrid[: terrain.size, : terrain.size].astype(np.float32)
    seed = terrain.crown_seed.astype(np.float32)[terrain.crown]
    radius = terrain.crown_radius[terrain.crown]
    return (xs - seed[..., 0]) / radius, (ys - seed[..., 1]) / radius


def _plant_trees(
    rng: np.random.Generator,
    terrain: Terrain,
    ground: GroundPlan,
    cover: np.ndarray,
    urban: np.ndarray,
    plan: Plan,
) -> None:
    x, y = terrain.crown_seed.T
    score = smooth_noise(rng, terrain.size, 80, 3)[y, x] - 1.5 * urban[y, x] * (plan.woods < 0.8)
    forest = score > np.quantile(score, 1 - plan.woods) if plan.woods else np.zeros(len(x), bool)
    single = rng.random(len(x)) < np.where(urban[y, x], 0.16, 0.008)
    hedge = np.zeros(cover.shape, np.uint8)
    for line in ground.hedges:
        cv2.polylines(hedge, [fixed_point(line)], False, 255, 6, cv2.LINE_8, _FIXED_POINT_BITS)
    single |= (hedge[y, x] > 0) & (rng.random(len(x)) < 0.85)
    dx, dy = crown_offset(terrain)
    cover[forest[terrain.crown] | (single[terrain.crown] & (dx**2 + dy**2 < 1))] = Cover.WOOD


def _add_water(
    rng: np.random.Generator,
    terrain: Terrain,
    cover: np.ndarray,
    plan: Plan,
    river: np.ndarray | None,
) -> None:
    if river is not None:
        water = terrain.elevation < plan.river / 2
    elif plan.lake:
        water = terrain.elevation < np.quantile(terrain.elevation, plan.lake)
    else:
        return
    shore = cv2.dilate(water.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    cover[shore & (cover != Cover.ROAD)] = Cover.LAWN
    cover[water] = Cover.WATER


def _settle(
    rng: np.random.Generator, cover: np.ndarray, lots: list[Building]
) -> tuple[tuple[Building, ...], tuple[Building, ...]]:
    """Build on most of the lots that are free; writes ``cover``."""
    built, vacant = [], []
    for lot in lots:
        if min(lot.x, lot.y) < -8 or max(lot.x, lot.y) > len(cover) + 8:
            continue
        plot = footprint(cover.shape, lot.corners(1.5))
        if (
            plot.sum() < 0.3 * lot.length * lot.width
            or not np.isin(
                cover[plot], (Cover.LAWN, Cover.PAVED, Cover.BARE, Cover.WOOD, Cover.FIELD)
            ).all()
        ):
            continue
        cover[footprint(cover.shape, lot.corners(3)) & (cover == Cover.WOOD)] = Cover.LAWN
        if rng.random() < 0.8:
            cover[footprint(cover.shape, lot.corners())] = Cover.BUILDING
            built.append(lot)
        else:
            vacant.append(lot)
    return tuple(built), tuple(vacant)
