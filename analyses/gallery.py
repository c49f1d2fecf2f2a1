"""Which images an analysis of maps shows, and what with them: pictures for `kdscope.figures.gallery`.

Nobody picks them. They are the images at fixed percentiles of how much a student's map is like its teacher's, from one
where the two hardly agree to one where they do.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from kdscope.analyses.cast import Cast, Pair, Party
from kdscope.features.cache import FeatureCache
from kdscope.features.thumbnails import THUMBNAIL
from kdscope.figures.pictures import Pictures

PERCENTILES = (10, 30, 50, 70, 90)
NETWORKS = 5  # beside each other at the most


def at_percentiles(values: np.ndarray, percentiles: Sequence[int] = PERCENTILES) -> np.ndarray:
    """The images at percentiles of a value [N], each once; NaN does not count.

    >>> at_percentiles(np.array([0.3, np.nan, 0.1, 0.2]), (0, 50, 100))
    array([2, 3, 0])
    """
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]
    if not len(order):
        return order
    places = np.round(np.asarray(percentiles) / 100 * (len(order) - 1)).astype(int)
    return order[list(dict.fromkeys(places.tolist()))]


def shown(every: Sequence[Pair]) -> list[Party]:
    """The networks to show: the first teacher, one seed of each of its students, and a student trained without it."""
    taught = [pair for pair in every if pair.pair == "teacher-student"]
    if not taught:
        return []
    teacher = taught[0].a
    students = {pair.b.groups: pair for pair in reversed(taught) if pair.a.key == teacher.key}
    students = list(students.values())[::-1][: NETWORKS - 2]
    alone = next((pair.baseline for pair in students if pair.baseline is not None), None)
    return [teacher, *(pair.b for pair in students), *([] if alone is None else [alone])]


def pictures(
    title: str,
    roles: Cast,
    maps: Mapping[Party, np.ndarray],
    cache: FeatureCache,
    mask: str,
    values: Mapping[str, np.ndarray],
) -> Pictures | None:
    """Maps [N, h, w] of the networks that are shown, the teacher first; None where no image has a map of both.

    Args:
        cache: of any of them, for the images, their labels and, under the name `mask`, the true masks.
        values: what stands under each map [N, networks]; the first, of the second network, chooses the images.
    """
    rows = at_percentiles(next(iter(values.values()))[:, 1])
    if not len(rows):
        return None
    names = [roles.name(party) for party in maps]
    rule = f"images at the {', '.join(map(str, PERCENTILES))}th percentile of the overlap of {names[1]} with {names[0]}"
    have = cache.names
    images = cache.array(THUMBNAIL)[rows] if THUMBNAIL in have else np.zeros((len(rows), 3, 0, 0), np.uint8)
    masks = cache.array(mask)[rows] > 0 if mask in have else np.zeros((len(rows), 0, 0), bool)
    return Pictures(
        title, rule, images,
        tuple(f"{cache.classes[cache.labels[row]]}, no. {cache.index[row]}" for row in rows),
        {name: each[rows].astype(np.float32) for name, each in zip(names, maps.values(), strict=True)}, masks,
        {name: each[rows] for name, each in values.items()},
    )  # fmt: skip
