"""The demo's pictures, as PNG."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phasing.compare import map_difference
from phasing.stitch import StitchedMap

PHASE_COLOURS, COUNT_COLOURS = "cividis", "viridis"


class Pictures:
    """Draws what the demo found; matplotlib is loaded with the first picture."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._curves: dict[str, tuple[list[float], list[float]]] = {}

    def frame(self, counts: npt.NDArray[Any]) -> None:
        """One diffraction frame, logarithmic."""
        figure, axes = self._figure(1)
        picture = axes[0].imshow(np.log10(counts.astype(float) + 1), cmap=COUNT_COLOURS)
        axes[0].set_title("one diffraction frame")
        figure.colorbar(picture, ax=axes[0], label="log10(counts + 1)")
        self._save(figure, "frame")

    def reconstruction(self, found: StitchedMap) -> None:
        """The phase that was retrieved, with micrometres on its axes."""
        figure, axes = self._figure(1)
        self._map(figure, axes[0], found, "reconstruction (rPIE)", _limit_rad(found))
        self._save(figure, "reconstruction")

    def maps(self, former: StitchedMap, live: StitchedMap, reconstruction: StitchedMap, seen: str) -> None:
        """Live maps under both models beside the reconstruction of the same region, and the difference."""
        figure, axes = self._figure(2, rows=2)
        limit_rad = _limit_rad(reconstruction)
        self._map(figure, axes[0], former, f"live map, model 1 ({seen} region)", limit_rad)
        self._map(figure, axes[1], live, f"live map, model 2 ({seen} region)", limit_rad)
        self._map(figure, axes[2], reconstruction, "reconstruction of the same region", limit_rad)
        difference = map_difference(live, reconstruction)
        self._map(figure, axes[3], difference, "model 2 minus reconstruction, ramp removed", limit_rad)
        self._save(figure, "live-maps")

    def losses(self, name: str, losses: list[float], val_losses: list[float]) -> None:
        """Loss curves of all rounds so far."""
        self._curves[name] = (losses, val_losses)
        figure, axes = self._figure(len(self._curves))
        for axis, (title, (training, held_out)) in zip(axes, self._curves.items(), strict=True):
            epochs = np.arange(1, len(training) + 1)
            axis.plot(epochs, training, label="training")
            axis.plot(epochs, held_out, label="held out")
            axis.set(title=title, xlabel="epoch", ylabel="loss (rad)", ylim=(0, None))
            axis.legend()
        self._save(figure, "losses")

    def _figure(self, columns: int, *, rows: int = 1) -> tuple[Any, list[Any]]:
        from matplotlib.figure import Figure  # no pyplot: nothing global, no display

        figure = Figure(figsize=(5.2 * columns, 4.6 * rows), layout="constrained")
        return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]

    def _map(self, figure: Any, axis: Any, found: StitchedMap, title: str, limit_rad: float) -> None:
        """A map about its mean, in colours from -limit to limit."""
        height, width = found.phase_rad.shape
        y_um, x_um = (value * 1e6 for value in found.origin_m)
        step_um = found.pixel_size_m * 1e6
        extent = (x_um, x_um + width * step_um, y_um + height * step_um, y_um)
        phase_rad = np.where(found.weight > 0, found.phase_rad, np.nan)
        phase_rad -= np.nanmean(phase_rad)
        picture = axis.imshow(phase_rad, cmap=PHASE_COLOURS, extent=extent, vmin=-limit_rad, vmax=limit_rad)
        axis.set(title=title, xlabel="x (um)", ylabel="y (um)")
        figure.colorbar(picture, ax=axis, label="phase (rad)")

    def _save(self, figure: Any, name: str) -> None:
        figure.savefig(self._folder / f"{name}.png", dpi=110)


def _limit_rad(found: StitchedMap) -> float:
    """Half the range that holds all but the outermost hundredth of a map's phases."""
    low, high = np.percentile(found.phase_rad[found.weight > 0], (1, 99))
    return float(high - low) / 2
