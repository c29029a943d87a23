"""What happens between the two dates of a synthetic scene: building, demolition, new roads,
clearing, development and flood."""

from dataclasses import replace

import cv2
import numpy as np

from mtkd_cd.data.synthetic.land import (
    Building,
    Cover,
    Land,
    Plan,
    Street,
    Terrain,
    footprint,
    make_land,
    random_building,
    rotation,
    smooth_noise,
    street_mask,
)

_OPEN_LAND = (Cover.FIELD, Cover.LAWN, Cover.WOOD, Cover.TRACK)


def make_pair(rng: np.random.Generator, size: int, target_car: float) -> tuple[Terrain, Land, Land]:
    """A terrain and its land at the two dates; the share of pixels whose cover differs is
    ``target_car`` to within a pixel or two."""
    kind = _choose_kind(rng, target_car)
    terrain, before, vacant = make_land(rng, size, _choose_plan(rng, kind, target_car))
    changes = Changes(rng, terrain, before, round(target_car * size**2))
    if changes.missing():
        changes.apply(kind, vacant)
    return terrain, before, changes.land()


def _choose_kind(rng: np.random.Generator, car: float) -> str:
    if car < 0.04:
        return str(rng.choice(['buildings', 'clearing'], p=[0.8, 0.2]))
    if car < 0.1:
        return str(
            rng.choice(
                ['buildings', 'road', 'development', 'clearing', 'flood'],
                p=[0.3, 0.2, 0.2, 0.15, 0.15],
            )
        )
    return str(rng.choice(['development', 'clearing', 'flood'], p=[0.4, 0.25, 0.35]))


def _choose_plan(rng: np.random.Generator, kind: str, car: float) -> Plan:
    """A place where a change of this kind and size can happen."""
    if kind == 'clearing':
        return Plan(
            urban=0.15 if car < 0.4 else 0, woods=min(max(1.25 * car, rng.uniform(0.35, 0.6)), 0.98)
        )
    if kind == 'flood':
        if car > 0.6:
            return Plan(urban=0, woods=rng.uniform(0.03, 0.2), lake=0.03)
        river = rng.uniform(12, 30) if rng.random() < 0.7 else 0
        return Plan(
            rng.uniform(0, 0.35),
            rng.uniform(0.03, 0.2),
            river=river,
            lake=0 if river else rng.uniform(0.05, 0.15),
        )
    urban = (
        rng.uniform(0.05, 0.3) * (car < 0.6) if kind == 'development' else rng.uniform(0.35, 0.9)
    )
    wet = car < 0.3 and rng.random() < 0.3
    return Plan(urban, rng.uniform(0.04, 0.25), river=rng.uniform(9, 18) if wet else 0)


class Changes:
    """Turns the land of date A into that of date B until ``target`` pixels have another cover."""

    def __init__(
        self, rng: np.random.Generator, terrain: Terrain, before: Land, target: int
    ) -> None:
        self.rng, self.terrain, self.before, self.target = rng, terrain, before, target
        self.cover = before.cover.copy()
        self.buildings, self.streets = list(before.buildings), list(before.streets)

    def land(self) -> Land:
        return Land(self.cover, tuple(self.buildings), tuple(self.streets))

    def changed(self) -> np.ndarray:
        return self.cover != self.before.cover

    def missing(self) -> int:
        return self.target - int(self.changed().sum())

    def apply(self, kind: str, vacant: tuple[Building, ...]) -> None:
        # Single buildings and roads take what they take; the change of area that follows makes up
        # the rest to the pixel.
        if kind == 'road' or (kind == 'development' and self.rng.random() < 0.5):
            self.build_road()
        if kind in ('buildings', 'road'):
            self.demolish(0.35)
            self.build(vacant, 0.75 if kind == 'buildings' else 0.3)
        elif self.target < 0.5 * self.cover.size and self.rng.random() < 0.5:
            self.demolish(0.06)
            self.build(vacant, 0.06)
        area_changes = {
            'clearing': self.clear_woods,
            'flood': self.flood,
            'development': self.develop,
        }
        if kind in area_changes:
            area_changes[kind]()
        elif self.missing() > 0.02 * self.cover.size:
            self.develop()
        for finish in (self.earthworks, self.flood):
            finish()

    def convert(
        self, score: np.ndarray, allowed: np.ndarray, cover: Cover, count: int
    ) -> np.ndarray:
        """Give the ``count`` allowed pixels of lowest score a new cover; returns their mask."""
        chosen = np.zeros(allowed.size, bool)
        candidates = np.flatnonzero(allowed & ~self.changed())
        count = min(count, len(candidates))
        if count > 0:
            chosen[candidates[np.argpartition(score.ravel()[candidates], count - 1)[:count]]] = True
        mask = chosen.reshape(allowed.shape)
        self.cover[mask] = cover
        return mask

    def demolish(self, share: float) -> None:
        """Tear down buildings that together have at most ``share`` of the missing pixels."""
        budget, kept = share * self.missing(), []
        for index in self.rng.permutation(len(self.buildings)):
            building = self.buildings[index]
            area = int(footprint(self.cover.shape, building.corners()).sum())
            if area <= budget and self.rng.random() < 0.5:
                self._replace_cover(building, Cover.BARE)
                budget -= area
            else:
                kept.append(building)
        self.buildings = kept

    def _replace_cover(self, building: Building, cover: Cover) -> None:
        self.cover[footprint(self.cover.shape, building.corners())] = cover

    def build(self, vacant: tuple[Building, ...], share: float) -> None:
        """Put up buildings, first on vacant lots, that together have at most ``share`` of the
        missing pixels."""
        budget = share * self.missing()
        candidates = [vacant[index] for index in self.rng.permutation(len(vacant))]
        for x, y in self.rng.uniform(8, self.terrain.size - 8, (40, 2)):
            hall = budget > 1500 and self.rng.random() < 0.35
            candidates.append(
                random_building(
                    self.rng, x, y, self.terrain.angle + self.rng.integers(0, 2) * np.pi / 2, hall
                )
            )
        for candidate in candidates:
            # A little less than the budget: the pixels on the outline count in full.
            shrink = float(
                np.clip((0.85 * budget / (candidate.length * candidate.width)) ** 0.5, 0.45, 1)
            )
            building = replace(
                candidate, length=candidate.length * shrink, width=candidate.width * shrink
            )
            area = int(footprint(self.cover.shape, building.corners()).sum())
            if 20 < area <= budget and self._raise(
                building, np.isin(self.cover, (*_OPEN_LAND, Cover.PAVED))
            ):
                budget -= area

    def _raise(self, building: Building, free: np.ndarray) -> bool:
        """Put up a building if its plot lies inside ``free``."""
        plot = footprint(free.shape, building.corners(1.5))
        if not plot.any() or not free[plot].all():
            return False
        self._replace_cover(building, Cover.BUILDING)
        self.buildings.append(building)
        return True

    def build_road(self) -> None:
        """Lay a straight road through open land, the one of some candidates that meets fewest
        buildings."""
        angle, size = self.terrain.angle, self.terrain.size
        width = float(np.clip(0.6 * self.missing() / size, 3.5, 8))
        best: tuple[float, Street | None] = (np.inf, None)
        for _ in range(8):
            along = rotation(
                angle + self.rng.integers(0, 2) * np.pi / 2 + self.rng.normal(0, 0.12)
            ) @ (1.0, 0.0)
            start = self.rng.uniform(0.15, 0.85, 2) * size
            street = Street(
                start + np.linspace(-1.5, 1.5, 24)[:, None] * size * along, width, Cover.ROAD
            )
            mask = street_mask(self.cover.shape, street)
            crossed = np.isin(self.cover, (Cover.BUILDING, Cover.WATER, Cover.ROAD))[mask].mean()
            if mask.sum() < 0.8 * self.missing() and crossed < best[0]:
                best = (crossed, street)
        if best[1] is not None and best[0] < 0.3:
            mask = street_mask(self.cover.shape, best[1])
            self.cover[mask & (self.cover != Cover.BUILDING)] = Cover.ROAD
            self.streets.append(best[1])

    def clear_woods(self) -> None:
        """Fell whole trees, in patches."""
        x, y = self.terrain.crown_seed.T
        score = smooth_noise(self.rng, self.terrain.size, 70, 2)[y, x][self.terrain.crown]
        self.convert(score, self.cover == Cover.WOOD, Cover.BARE, self.missing())

    def flood(self) -> None:
        """Put the lowest land under water; buildings stand out of it."""
        ripple = smooth_noise(self.rng, self.terrain.size, 70, 4)
        land = ~np.isin(self.cover, (Cover.WATER, Cover.BUILDING))
        self.convert(self.terrain.elevation + 9 * ripple, land, Cover.WATER, self.missing())

    def develop(self) -> None:
        """Turn open land into a building site with streets, halls and houses."""
        size, angle = self.terrain.size, self.terrain.angle
        ys, xs = np.mgrid[:size, :size]
        centre = self.rng.uniform(0.2, 0.8, 2) * size
        local = (np.stack([xs, ys], -1) - centre) @ rotation(angle)
        square = np.abs(local * self.rng.uniform(0.75, 1.3, 2)).max(-1) + 2.5 * smooth_noise(
            self.rng, size, 40, 3
        )
        site = self.convert(square, np.isin(self.cover, _OPEN_LAND), Cover.BARE, self.missing())
        pitch = self.rng.uniform(54, 74, 2)
        offset = self.rng.uniform(0, pitch)
        block = np.floor((local + offset) / pitch).astype(int)
        paved = self.rng.random((97,))[(block[..., 0] * 31 + block[..., 1] * 17) % 97] < 0.3
        self.cover[site & paved] = Cover.PAVED
        self._add_site_streets(site, centre, offset, pitch)
        self._add_site_buildings(site, centre, offset, pitch)

    def _add_site_streets(
        self, site: np.ndarray, centre: np.ndarray, offset: np.ndarray, pitch: np.ndarray
    ) -> None:
        reach = np.linspace(-1.5, 1.5, 24) * self.terrain.size
        for axis in (0, 1):
            for cut in (
                np.arange(
                    -1.5 * self.terrain.size // pitch[axis], 1.5 * self.terrain.size // pitch[axis]
                )
                * pitch[axis]
                - offset[axis]
            ):
                line = np.stack(
                    [np.full_like(reach, cut), reach]
                    if axis == 0
                    else [reach, np.full_like(reach, cut)],
                    1,
                )
                street = Street(line @ rotation(self.terrain.angle).T + centre, 5, Cover.ROAD)
                self.cover[street_mask(site.shape, street) & site] = Cover.ROAD

    def _add_site_buildings(
        self, site: np.ndarray, centre: np.ndarray, offset: np.ndarray, pitch: np.ndarray
    ) -> None:
        count = np.ceil(1.5 * self.terrain.size / pitch).astype(int)
        turn = rotation(self.terrain.angle).T
        for column in range(-count[0], count[0]):
            for row in range(-count[1], count[1]):
                if self.rng.random() < 0.12:
                    continue
                halls = self.rng.random() < 0.5
                places = (
                    [(0.5, 0.3), (0.5, 0.73)]
                    if halls
                    else [(u, v) for u in (0.28, 0.72) for v in (0.24, 0.5, 0.78)]
                )
                for place in places:
                    x, y = ((np.array([column, row]) + place) * pitch - offset) @ turn + centre
                    if 0 <= x < self.terrain.size and 0 <= y < self.terrain.size:
                        free = site & np.isin(self.cover, (Cover.BARE, Cover.PAVED))
                        self._raise(
                            random_building(self.rng, x, y, self.terrain.angle, halls), free
                        )

    def earthworks(self) -> None:
        """Bare ground around what is new, or somewhere on open land if nothing is yet."""
        changed = self.changed()
        if not changed.any():
            changed[tuple(self.rng.integers(0, self.terrain.size, 2))] = True
        distance = cv2.distanceTransform((~changed).astype(np.uint8), cv2.DIST_L2, 5)
        self.convert(
            distance + 0.8 * self.terrain.grain,
            np.isin(self.cover, (*_OPEN_LAND, Cover.PAVED)),
            Cover.BARE,
            self.missing(),
        )
