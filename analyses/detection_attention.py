"""Where do detectors look and where do their features differ: at the objects, around them, or far away?

The attention of FGD (Yang et al., CVPR 2022, equation 1) of each network against the boxes, by object size; the gap
between student and teacher, on objects and elsewhere; and the squared error of features by region and level, whose
shares add up to one. What it costs in average precision says `detection-patch-in`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import Cast, Pair, Party
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.detection import cast_of, ordered, row_of
from kdscope.analyses.detection_agreement import compared_pairs
from kdscope.analyses.detection_dense import PAIRS, beside
from kdscope.analyses.detection_gallery import attention_pictures
from kdscope.analyses.detection_maps import EVERY, Grid, attention_of, grid_of, strides_of
from kdscope.analyses.detection_views import Seen, as_result, everyone
from kdscope.analyses.detection_words import attention_notes, attention_short
from kdscope.detection.measures.attention_boxes import against_boxes
from kdscope.detection.measures.attention_gap import attention_gap
from kdscope.detection.measures.feature_error import REGIONS, by_region, feature_error
from kdscope.detection.measures.resampling import Score, image_weights
from kdscope.errors import KDScopeError
from kdscope.figures.pictures import Pictures
from kdscope.measures.result import Result
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "role", "area", "region", "group", "a_group", "method", "architecture", "seed", "seeds", "control"),
    *("gain", "gain_low", "gain_high", "confidence", "excluded", "pictures"),
)
GALLERY = "detection-attention-gallery.npz"
DIRECTIONS = {
    **{"energy-in-boxes": "higher", "lift": "higher", "auroc": "higher", "area-matched-iou": "higher"},
    **{"gap-foreground": "lower", "gap-background": "lower", "gap-ratio": "none", "attention-overlap": "higher"},
    **{"error-share": "none", "error-density": "none", "normalised-error": "lower", "level-share": "none"},
}
TRUTH = {"energy-in-boxes": "energy", "lift": "lift", "auroc": "auroc", "area-matched-iou": "iou"}
GAP = {"gap-foreground": "foreground", "gap-background": "background", "attention-overlap": "iou"}
ERROR = {"error-share": "share", "error-density": "density", "normalised-error": "normalised"}


class Cell(NamedTuple):
    """What a number is of: a measure, a level ("" for the mean of all), a size of objects, a region."""

    measure: str
    layer: str
    area: str
    region: str


@analysis(
    "detection-attention",
    summary="Where do detectors look and differ: at the objects, around them, or far away?",
    citation="Yang et al., CVPR 2022; Wang et al., CVPR workshops 2020; kdscope",
    sources=("teacher", "baseline"),
)
def detection_attention(
    subjects: Sequence[Subject],
    *,
    splits: str = "test",
    temperature: float = 0.5,
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """Attention against boxes and against the teacher's, and errors of features by region and level, as a tidy table.

    Args:
        temperature: of the softmax over the cells of an image that makes attention of mean |F|; FGD has 0.5.
        splits, teacher, baseline, confidence: as for the analysis `detection`.

    Returns:
        A report whose table has, besides the shared columns: layer ("stride 8", empty for the mean over the levels),
        area (objects of that size; cells of others are left out), and region of an error.

    Raises:
        KDScopeError: a network that classifies images, caches of different images, a temperature that is not positive.
    """
    if not temperature > 0:
        raise KDScopeError(f"temperature {temperature} is not above 0; FGD has 0.5")
    roles, alone = cast_of(subjects, teacher, baseline)
    rows: list[dict[str, Any]] = []
    said: list[str] = []
    pictures: Pictures | None = None
    for split in [part.strip() for part in splits.split(",") if part.strip()]:
        networks = everyone(roles, alone, split)
        grids = {stride: grid_of(next(iter(networks.values())).cache, stride) for stride in strides_of(networks)}
        if not grids:
            raise KDScopeError("the networks have no level of the pyramid in common")
        maps = {
            key: {stride: attention_of(one.cache, stride, grid, temperature) for stride, grid in grids.items()}
            for key, one in networks.items()
        }
        own = list(_truth_rows(roles, networks, maps, grids, confidence))
        if roles is not None:
            found, left_out = _pair_findings(roles, maps, grids, split, confidence)
            own += [row_of(roles, f, seed) | cell._asdict() for cell, f, seed in found]
            said += left_out
            pictures = attention_pictures(roles, networks, maps, grids)
        rows += [{"view": "none", "definition": "kdscope", **row, "split": split} for row in own]
    named = {"analysis": "detection-attention", "confidence": confidence}
    table = ordered(tidy([row | named for row in rows], COLUMNS))
    words = (*(roles.notes if roles else ()), *said, *attention_notes(table))
    if pictures is None:
        return Report(table, attention_short(table), words)
    shown = {"measure": "attention-overlap", "layer": f"stride {min(grids)}", "area": EVERY, "split": split}
    there = (table[list(shown)] == list(shown.values())).all(axis=1)
    table["pictures"] = table["pictures"].astype(object).mask(there, GALLERY)
    return Report(table, attention_short(table), words, {GALLERY: pictures})


Maps = Mapping[tuple, Mapping[int, np.ndarray]]


def _truth_rows(
    roles: Cast | None, networks: Mapping[tuple, Seen], maps: Maps, grids: Mapping[int, Grid], confidence: float
) -> Iterator[dict[str, Any]]:
    """Each network against the boxes, and all seeds of a training together; beside it, the student alone."""
    pairs, measured = [], {}
    rivals = {
        Party((s.subject,)).key: Party(s.independent[:1]) for s in (roles.students if roles else ()) if s.independent
    }
    for key, one in networks.items():
        nobody = Party((one.subject,), "truth")  # the boxes are nobody's
        pairs.append(Pair("teacher-student" if key in rivals else "truth", nobody, one.party, rivals.get(key)))
        measured[pairs[-1].key] = against(maps[key], grids, confidence)
    for key, rival in rivals.items():  # the student alone in the frame of the student
        floor = Pair("floor:independent-student", Party((networks[key].subject,), "truth"), rival)
        pairs.append(floor)
        measured[floor.key] = measured[next(p.key for p in pairs if p.b.key == rival.key)]
    cells = dict.fromkeys(cell for results in measured.values() for cell in results)
    for cell in cells:
        of_cell = {pair: {cell: results[cell]} for pair, results in measured.items() if cell in results}
        framed = [f for f in in_frames(pairs, of_cell, confidence, DIRECTIONS) if f.pair.pair[:5] != "floor"]
        every = [(finding, str(finding.pair.b.seed)) for finding in framed]
        for finding, seed in [*every, *((together, "all") for together in _groups(framed, confidence))]:
            role = {"role": networks[finding.pair.b.key].role}
            yield _row(roles, finding, seed) | cell._asdict() | role


def _groups(framed: Sequence[Finding], confidence: float) -> list[Finding]:
    """All seeds of a training together: what `over_groups` does for pairs."""
    return over_groups(
        [Finding(Pair("truth", Party(f.pair.b.subjects[:1], "truth"), f.pair.b), f.result, f.gain) for f in framed],
        confidence,
    )


def _row(roles: Cast | None, finding: Finding, seed: str) -> dict[str, Any]:
    if roles is not None:
        row = row_of(roles, finding, seed)
    else:
        one = finding.pair.b.subjects[0]
        row = finding.result.row(b=one.name, group=one.name, method=one.method, architecture=one.architecture)
        row |= {"seed": "" if seed == "None" else seed, "seeds": 1}
    return row | {"a": "true boxes", "a_group": "", "pair": "truth"}


def against(maps: Mapping[int, np.ndarray], grids: Mapping[int, Grid], confidence: float = 0.95) -> dict[Cell, Result]:
    """Attention against the boxes of each size, at each level and on the mean over the levels."""
    values: dict[Cell, np.ndarray] = {}
    for stride, grid in grids.items():
        for area in (EVERY, *grid.sizes):
            inside, valid = grid.objects(area)
            found = against_boxes(maps[stride], inside, valid)
            for measure, column in TRUTH.items():
                values[Cell(measure, f"stride {stride}", area, "")] = getattr(found, column)
    return {cell: as_result(cell.measure, each, confidence) for cell, each in with_mean(values).items()}


def with_mean(values: Mapping[Cell, np.ndarray]) -> dict[Cell, np.ndarray]:
    """And of all levels the mean, image by image, over those where it is defined."""
    cells: dict[Cell, list[np.ndarray]] = {}
    for cell, each in values.items():
        cells.setdefault(cell._replace(layer=""), []).append(each)
    means = {}
    for cell, each in cells.items():
        stack = np.stack(each)
        known = ~np.isnan(stack)
        with np.errstate(invalid="ignore"):
            means[cell] = np.where(known, stack, 0.0).sum(axis=0) / known.sum(axis=0)
    return means | dict(values)


def _pair_findings(
    roles: Cast, maps: Maps, grids: Mapping[int, Grid], split: str, confidence: float
) -> tuple[list[tuple[Cell, Finding, str]], list[str]]:
    """Gaps of attention and errors of features of each pair and control."""
    every = [pair for pair in compared_pairs(roles) if pair.pair in PAIRS]
    measured: dict[tuple, dict[Cell, Result]] = {}
    notes: list[str] = []
    for pair in every:
        a, b = (maps.get(Party(party.subjects).key) for party in (pair.a, pair.b))
        if a is None or b is None:
            continue
        values = gaps(a, b, grids)
        try:
            values |= errors(beside(pair, split), grids)
        except KDScopeError as error:
            notes.append(f"features of {roles.name(pair.b)} beside {roles.name(pair.a)} were left out: {error}")
        measured[pair.key] = {cell: as_result(cell.measure, each, confidence) for cell, each in values.items()}
        measured[pair.key] |= ratios(values, confidence)
    found = []
    for cell in dict.fromkeys(cell for results in measured.values() for cell in results):
        of_cell = {pair: {cell: results[cell]} for pair, results in measured.items() if cell in results}
        framed = in_frames(every, of_cell, confidence, DIRECTIONS)
        found += [(cell, finding, str(finding.pair.b.seed)) for finding in framed]
        found += [(cell, finding, "all") for finding in over_groups(framed, confidence)]
    return found, notes


def gaps(a: Mapping[int, np.ndarray], b: Mapping[int, np.ndarray], grids: Mapping[int, Grid]) -> dict[Cell, np.ndarray]:
    """How far the attention of two networks is apart, on objects and elsewhere."""
    values: dict[Cell, np.ndarray] = {}
    for stride, grid in grids.items():
        for area in (EVERY, *grid.sizes):
            found = attention_gap(a[stride], b[stride], *grid.objects(area))
            for measure, column in GAP.items():
                values[Cell(measure, f"stride {stride}", area, "")] = getattr(found, column)
    return with_mean(values)


def ratios(values: Mapping[Cell, np.ndarray], confidence: float = 0.95) -> dict[Cell, Result]:
    """The mean gap on objects over the mean gap elsewhere: a mean of ratios would be that of a few images."""
    found = {}
    for cell, above in values.items():
        if cell.measure == "gap-foreground":
            both = above, values[cell._replace(measure="gap-background")]
            there = ~np.isnan(both[0]) & ~np.isnan(both[1])
            weights = image_weights(int(there.sum())) if there.sum() > 1 else np.zeros((0, int(there.sum())))
            with np.errstate(invalid="ignore", divide="ignore"):
                draws = (weights @ both[0][there]) / (weights @ both[1][there])
                value = both[0][there].sum() / both[1][there].sum()
            low, high = Score(float(value), draws).interval(confidence)
            found[cell._replace(measure="gap-ratio")] = Result(
                "gap-ratio", float(value), None, int(there.sum()), low, high, source="Yang et al., CVPR 2022"
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
