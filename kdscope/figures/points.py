"""Names beside points, where there is room for them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

HALO = [withStroke(linewidth=1.5, foreground="white")]  # so that a line behind a name does not strike it out
AROUND = [(1, 0), (0, 1), (0, -1), (-1, 0), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8)]


def name_points(
    axes: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str], colours: Sequence, size: float = 5.5
) -> None:
    """Write each name on that side of its point where it covers the fewest points and other names.

    One after the other, so the same points give the same places. The figure's layout must be settled
    (`Figure.draw_without_rendering`); names do not change it.

    Args:
        x, y: of the points, in data units.
        colours: of the names. size: of the letters, in points.
    """
    scale = 72 / axes.figure.dpi
    points = axes.transData.transform(np.column_stack([x, y])) * scale
    frame = axes.bbox.extents * scale
    boxes: list[np.ndarray] = []
    for at, place, name, colour in zip(zip(x, y, strict=True), points, names, colours, strict=True):
        width, height = 0.75 * size * len(name), size
        best = None
        for right, up in AROUND:
            shift = np.array([right * (width / 2 + 3.2), up * (height / 2 + 3.2)])
            box = np.concatenate([place + shift - (width / 2, height / 2), place + shift + (width / 2, height / 2)])
            cost = _covered(box, points) + 2 * sum(_overlap(box, other) for other in boxes) + _outside(box, frame)
            if best is None or cost < best[0] - 1e-9:
                best = (cost, shift, box)
        boxes.append(best[2])
        style = {"ha": "center", "va": "center", "fontsize": size, "color": colour, "path_effects": HALO}
        axes.annotate(name, at, best[1], textcoords="offset points", **style).set_in_layout(False)


def _covered(box: np.ndarray, points: np.ndarray, radius: float = 2.5) -> float:
    """How many points (discs of `radius` points) the box touches."""
    inside = (points > box[:2] - radius) & (points < box[2:] + radius)
    return float(inside.all(axis=1).sum())


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """The share of box a that lies in box b."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(np.prod(np.clip(sides, 0, None)) / np.prod(a[2:] - a[:2]))


def _outside(box: np.ndarray, frame: np.ndarray) -> float:
    """3 where the box leaves the frame."""
    return 3.0 * bool((box[:2] < frame[:2]).any() or (box[2:] > frame[2:]).any())
