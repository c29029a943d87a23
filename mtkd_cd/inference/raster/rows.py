"""Rows of probabilities of a pair of rasters: its windows read, normalised, predicted and
stitched."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtkd_cd.inference.probabilities import RoutedModel
from mtkd_cd.inference.raster.pair import RasterPair
from mtkd_cd.inference.raster.plan import RasterPlan
from mtkd_cd.inference.windows import Rows, Window, WindowPrediction, stitch
from mtkd_cd.models.mtkd.routing import ORIGIN

Progress = Callable[[int, int], None]


@dataclass
class WindowedPair:
    """A pair that is predicted window by window.

    Attributes:
        routed: The model on its device.
        pair: Both dates on the grid that is predicted at.
        plan: How.
        served: How many windows each detector has served so far.
        progress: Called with (done, all) pixels.
    """

    routed: RoutedModel
    pair: RasterPair
    plan: RasterPlan
    served: dict[str, int]
    progress: Progress | None = None

    def rows(self) -> Iterator[Rows]:
        """Finished rows, as :func:`~mtkd_cd.inference.windows.stitch` gives them."""
        if not self.routed.is_cascade or self.plan.options.route == 'window':
            yield from self._stitched(None)
            return
        changed = valid = 0
        for rows in self._stitched(ORIGIN):
            changed += int(((rows.probability > self.plan.threshold) & rows.valid).sum())
            valid += int(rows.valid.sum())
        self.served.clear()  # that was the choice of who serves
        yield from self._stitched(self.routed.serving(changed / max(valid, 1)))

    def _stitched(self, detector: str | None) -> Iterator[Rows]:
        grid, options = self.pair.grid, self.plan.options
        rows, cols = self.plan.axes(grid)
        done, total = 0, grid.height * grid.width
        # Held for all batches. Blocks that GDAL keeps would fill the gap that each left behind.
        most = min(options.batch_size, len(cols.starts))  # windows of one row
        inputs = self._empty_inputs(most, rows.size, cols.size)
        stitched = stitch(
            rows,
            cols,
            lambda windows: self._predicted(windows, inputs, detector),
            batch_size=options.batch_size,
            strip=options.strip,
            with_detector=options.detector_band,
        )
        for part in stitched:
            yield part
            done += part.valid.size
            if self.progress is not None:
                self.progress(done, total)

    def _predicted(
        self, windows: Sequence[Window], inputs: Tensor, detector: str | None
    ) -> list[WindowPrediction]:
        """The windows of a batch, which lie side by side, read at once; ``inputs`` are
        overwritten."""
        left = windows[0].col
        right = max(window.col + window.width for window in windows)
        first = windows[0]
        a, b, valid, kept = self.pair.read(Window(first.row, left, first.height, right - left))
        spans = [slice(window.col - left, window.col - left + window.width) for window in windows]
        predictions = [WindowPrediction(None, kept[:, span]) for span in spans]
        needed = [index for index, span in enumerate(spans) if valid[:, span].any()]
        if not needed:
            return predictions
        for place, index in enumerate(needed):
            span = spans[index]
            self._normalise(a[:, :, span], b[:, :, span], valid[:, span], inputs[place])
        batch = inputs[: len(needed)]
        probabilities, names = self.routed.probabilities(
            batch, [kept[:, spans[index]] for index in needed], self.plan.threshold, detector
        )
        for index, probability, name in zip(needed, probabilities, names):
            predictions[index].probability = probability
            predictions[index].detector = self.routed.model.names.index(name)
            self.served[name] = self.served.get(name, 0) + 1
        return predictions

    def _empty_inputs(self, count: int, height: int, width: int) -> Tensor:
        """(count, 2C, H, W) zeros for windows of that size, with the padding that they need."""
        channels = len(self.routed.card.mean)
        return self.routed.padded(torch.zeros(count, channels, height, width, dtype=torch.float32))

    def _normalise(self, a: np.ndarray, b: np.ndarray, valid: np.ndarray, inputs: Tensor) -> None:
        """Write a window's dates, (C, h, w) each, to the upper left of (2C, H, W) as the network
        takes them; 0, which is the mean, where a pixel is invalid."""
        rule, order = self.plan.rule, self.routed.card.permutation
        inside = inputs[:, : valid.shape[0], : valid.shape[1]]
        for part, date in zip(inside.chunk(2), (a, b)):
            part.copy_(torch.from_numpy(np.ascontiguousarray(rule.apply(date)[order])))
        self.routed.normalise_(inside)
        if not valid.all():
            inside[:, torch.from_numpy(~valid)] = 0
