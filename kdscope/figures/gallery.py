"""A gallery: some images, the maps of each network at their native resolution, and the outline of the true object."""

from collections.abc import Iterable
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdscope.figures.pictures import Pictures
from kdscope.figures.style import panels, short_names, styled
from kdscope.figures.widths import WIDTHS, fixed

MOST_WIDE = 1.15  # inches of a picture
CAPTIONS = {
    "gallery": "Maps ({p.title}) of {p.rule}, each on its own grid: nothing is smoothed.",
    "masks": "Maps ({p.title}) over {p.rule}: the redder, the nearer to the largest value of the map.",
}
LETTERS = 15  # of a heading, in an inch
MOST_LINES = 3  # of a heading
OUTLINE = ("black", "white")  # one under the other: seen on any map
RED = (0.84, 0.1, 0.11)


def gallery(pictures: Pictures, over: bool = False, width: str = "two") -> Figure:
    """A row for each image, a column for each network; a cell of a map is a square, and nothing is smoothed.

    Maps that have no sign run from their lowest (dark) to their highest (bright) value; those that have one are white
    at zero, red above, blue below, each up to its largest magnitude: they are compared by where they are high.
    With `over` they are drawn as masks over the image, in grey: their positive part, from nothing to full red.
    """
    known = pictures.images.shape[-1] > 0
    columns, count = len(pictures.maps) + known, len(pictures.rows)
    side = min(MOST_WIDE, WIDTHS[width] / columns)
    room = int(side * 19)  # letters of 6.5 points under a picture
    lines = max(1, sum(-(-len(f"{name} -0.00") // room) for name in pictures.values))
    signed = any(maps.min() < 0 for maps in pictures.maps.values())
    names = headings(pictures.maps, int(side * LETTERS))
    above = 0.12 * max(name.count("\n") for name in names.values())
    with styled():
        figure, grid = panels(count, columns, side * columns, 0.55 + above + count * (side + 0.05 + 0.12 * lines))
        for r, line in enumerate(grid):
            extent = _extent(pictures)
            if known:
                line[0].imshow(pictures.images[r].transpose(1, 2, 0), interpolation="nearest", extent=extent)
                _finish(line[0], pictures, r, extent)
            line[0].set_ylabel(pictures.rows[r], fontsize=6.5)
            for k, (axes, (name, maps)) in enumerate(zip(line[known:], pictures.maps.items(), strict=True)):
                if over:
                    _draw_mask(axes, maps[r], pictures.images[r], extent)
                else:
                    _draw_map(axes, maps[r], extent, signed)
                _finish(axes, pictures, r, extent)
                axes.set_xlabel(_under(pictures, r, k, room), fontsize=6.5, labelpad=1.5)
                if r == 0:
                    axes.set_title(names[name], fontsize=7)
        if known:
            grid[0][0].set_title("image", fontsize=7)
        figure.suptitle(f"masks from {pictures.title}" if over else pictures.title, fontsize=8)
        figure.supxlabel(_wrapped(pictures.rule, side * columns), fontsize=6.5, color="0.3")
    return fixed(figure)


def headings(names: Iterable[str], letters: int) -> dict[str, str]:
    """Each name whole, in lines of about so many letters that break after separators; in a middle where none is whole.

    >>> headings(["teacher-weak-seed0", "kd-seed0"], 14)
    {'teacher-weak-seed0': 'teacher-weak-\\nseed0', 'kd-seed0': 'kd-seed0'}
    """
    letters = max(letters, 6)
    return {name: fill(text, letters) for name, text in short_names(names, MOST_LINES * letters).items()}


def _extent(pictures: Pictures) -> tuple[float, float, float, float]:
    """All pictures share the coordinates of the image: its pixels, or those of the mask or of the first map."""
    grids = (pictures.images.shape[-2:], pictures.masks.shape[-2:], next(iter(pictures.maps.values())).shape[-2:])
    height, width = next(grid for grid in grids if grid[0] > 0)
    return (0, width, height, 0)


def _draw_map(axes: Axes, values: np.ndarray, extent: tuple[float, float, float, float], signed: bool) -> None:
    top = float(np.abs(values).max()) or 1.0
    scale = {"cmap": "RdBu_r", "vmin": -top, "vmax": top} if signed else {"cmap": "viridis"}
    axes.imshow(values, interpolation="nearest", extent=extent, **scale)
    rows, columns = values.shape
    width = min(0.4, 4.0 / max(rows, columns))
    for at in np.linspace(0, extent[1], columns + 1)[1:-1]:
        axes.axvline(at, color="0.45", linewidth=width, alpha=0.5)
    for at in np.linspace(0, extent[2], rows + 1)[1:-1]:
        axes.axhline(at, color="0.45", linewidth=width, alpha=0.5)


def _draw_mask(axes: Axes, values: np.ndarray, image: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """A map over its image: the redder, the nearer to its largest value."""
    axes.imshow(image.mean(0), cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=extent)
    mask = values.clip(min=0) / max(float(values.max()), 1e-12)
    red = np.broadcast_to(np.array(RED), (*mask.shape, 3))
    axes.imshow(np.dstack([red, 0.85 * mask]), interpolation="nearest", extent=extent)


def _finish(axes: Axes, pictures: Pictures, r: int, extent: tuple[float, float, float, float]) -> None:
    """The outline of the true mask along the edges of its pixels, and no ticks."""
    mask = pictures.masks[r]
    if mask.size and mask.any():
        for colour, width in zip(OUTLINE, (1.5, 0.7), strict=True):
            for edge in _edges(mask):
                x, y = edge[:, 1] * extent[1] / mask.shape[1], edge[:, 0] * extent[2] / mask.shape[0]
                axes.plot(x, y, color=colour, linewidth=width, solid_capstyle="round", zorder=3 if width > 1 else 4)
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _edges(mask: np.ndarray) -> list[np.ndarray]:
    """The border between the pixels of a mask and the others, as one line for each direction, broken by NaN: [K, 2]."""
    padded = np.pad(mask.astype(bool), 1)
    across = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]).astype(float)  # (row of the line, column)
    down = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]).astype(float)  # (row, column of the line)
    broken = np.full_like
    return [
        np.stack([start, start + step, broken(start, np.nan)], axis=1).reshape(-1, 2)
        for start, step in ((across, [0, 1]), (down, [1, 0]))
    ]


def _under(pictures: Pictures, r: int, k: int, room: int) -> str:
    """Lines of numbers under a map, first those that every map has."""
    found = sorted(pictures.values.items(), key=lambda item: np.isnan(item[1][r]).sum())
    known = [(name, round(float(values[r, k]), 2) + 0.0) for name, values in found if not np.isnan(values[r, k])]
    return "\n".join(fill(f"{name} {value:.2f}", room) for name, value in known)


def _wrapped(text: str, inches: float) -> str:
    return fill(text, int(inches * 19))
