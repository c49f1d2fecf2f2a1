"""Two networks beside each other: the rows of `detection-attention` on gaps of attention and errors of features."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdscope.analyses.cast import Cast, Party
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.detection_attention_pixels import GUO, Levels, Look, Sight, by_image, pooled
from kdscope.analyses.detection_dense import FLOORS, PAIRS, beside, with_floors
from kdscope.analyses.detection_maps import EVERY, Cell, Grid, with_mean
from kdscope.analyses.detection_views import as_result
from kdscope.detection.measures.attention_gap import attention_gap
from kdscope.detection.measures.cards import DIRECTIONS, RANGES
from kdscope.detection.measures.feature_error import REGIONS, by_region, feature_error
from kdscope.detection.measures.resampling import ratio
from kdscope.errors import KDScopeError
from kdscope.measures.result import Result

GAP = {"gap-foreground": "foreground", "gap-background": "background", "attention-overlap": "iou"}
FITTED = "fitted"  # errors by an f that least squares found, of every student alike
ERROR = {"error-share": "share", "error-density": "density", "normalised-error": "normalised"}


def pair_findings(
    roles: Cast, looks: Mapping[tuple, Look], sight: Sight, definition: str, split: str, confidence: float
) -> tuple[list[tuple[Cell, Finding, str]], list[str]]:
    """Gaps of attention and errors of features of each pair and control.

    Args:
        definition: of `DEFINITIONS`; errors are those of "kdscope" (f as it was trained, or the identity) and FITTED.
        looks: of the networks, and of untrained ones, by the keys of their parties.
    """
    every = with_floors(roles)
    measured: dict[tuple, dict[Cell, Result]] = {}
    notes: list[str] = []
    for pair in every:
        a, b = (_look(looks, party, sight) for party in (pair.a, pair.b))
        if a is None or b is None:
            continue
        if definition == GUO:
            measured[pair.key] = pooled(sight, [a, b], confidence)
            continue
        values = {} if definition == FITTED else with_mean(by_image(gaps, sight, definition, a, b))
        try:
            if definition in ("kdscope", FITTED) and pair.pair in (*PAIRS, FLOORS[0]):
                values |= errors(beside(pair, split, fitted=definition == FITTED), sight.grids)
        except KDScopeError as error:
            how = f" ({FITTED})" if definition == FITTED else ""
            notes.append(f"features{how} of {roles.name(pair.b)} beside {roles.name(pair.a)} were left out: {error}")
        measured[pair.key] = {cell: as_result(cell.measure, each, confidence) for cell, each in values.items()}
        measured[pair.key] |= ratios(values, confidence)
    found = []
    for cell in dict.fromkeys(cell for results in measured.values() for cell in results):
        of_cell = {pair: {cell: results[cell]} for pair, results in measured.items() if cell in results}
        framed = in_frames(every, of_cell, confidence, DIRECTIONS)
        found += [(cell, finding, str(finding.pair.b.seed)) for finding in framed]
        found += [(cell, finding, "all") for finding in over_groups(framed, confidence, ranges=RANGES)]
    return found, notes


def _look(looks: Mapping[tuple, Look], party: Party, sight: Sight) -> Look | None:
    if party.kind != "shuffled":
        return looks.get(party.key)
    own = looks.get(Party(party.subjects).key)
    other = own and own.shuffled(sight.framing.sizes)
    return other if other and len(other.rows) else None


def gaps(a: Levels, b: Levels, grids: Mapping[int, Grid]) -> dict[Cell, np.ndarray]:
    """How far the attention of two networks is apart, on objects and elsewhere."""
    values: dict[Cell, np.ndarray] = {}
    for stride, grid in grids.items():
        for area in (EVERY, *grid.sizes):
            found = attention_gap(a[stride], b[stride], *grid.objects(area))
            for measure, column in GAP.items():
                values[Cell(measure, f"stride {stride}", area, "")] = getattr(found, column)
    return values


def ratios(values: Mapping[Cell, np.ndarray], confidence: float = 0.95) -> dict[Cell, Result]:
    """The mean gap on objects over the mean gap elsewhere: a mean of ratios would be that of a few images."""
    found = {}
    for cell, above in values.items():
        if cell.measure == "gap-foreground":
            both = above, values[cell._replace(measure="gap-background")]
            there = ~np.isnan(both[0]) & ~np.isnan(both[1])
            score = ratio(*(np.where(there, each, 0.0) for each in both))
            low, high = score.interval(confidence) if there.sum() > 1 else (np.nan, np.nan)
            found[cell._replace(measure="gap-ratio")] = Result(
                *("gap-ratio", score.value, None, int(there.sum()), low, high),
                source="Yang et al., CVPR 2022",
                draws=score.draws,
            )
    return found


def errors(cache: Any, grids: Mapping[int, Grid]) -> dict[Cell, np.ndarray]:
    """The error of features by region, at each level, and the share that each level has of all of it."""
    values: dict[Cell, np.ndarray] = {}
    total: dict[str, np.ndarray] = {}
    for stride in [stride for stride in cache.identity["strides"] if stride in grids]:
        error, energy = (np.asarray(cache.array(f"{name}/{stride}")[:], np.float64) for name in ("error", "energy"))
        region = grids[stride].region[cache.index] if len(cache) != len(grids[stride].region) else grids[stride].region
        found, layer = feature_error(error, energy, region), f"stride {stride}"
        for measure, column in ERROR.items():
            for k, name in enumerate(REGIONS):
                values[Cell(measure, layer, EVERY, name)] = getattr(found, column)[:, k]
        total[layer] = by_region(error, region, len(REGIONS)).sum(axis=1)
    values = with_mean(values)
    whole = sum(total.values())
    with np.errstate(invalid="ignore"):
        return values | {Cell("level-share", layer, EVERY, ""): part / whole for layer, part in total.items()}
