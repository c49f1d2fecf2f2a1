"""Each network's attention against the boxes: the rows of `detection-attention` that need one network."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kdscope.analyses.cast import Cast, Pair, Party
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.detection import row_of
from kdscope.analyses.detection_maps import EVERY, Cell, Grid, Maps, with_mean
from kdscope.analyses.detection_views import Seen, as_result
from kdscope.detection.measures.attention_boxes import against_boxes
from kdscope.measures.result import Result

TRUTH = {"energy-in-boxes": "energy", "lift": "lift", "auroc": "auroc", "area-matched-iou": "iou"}
DIRECTIONS = dict.fromkeys(TRUTH, "higher")


def truth_rows(
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
