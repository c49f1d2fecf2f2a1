"""Where do detectors look and where do their features differ: at the objects, around them, or far away?

The attention of FGD (Yang et al., CVPR 2022, equation 1) of each network against the boxes, by object size; the gap
between student and teacher, on objects and elsewhere; and the squared error of features by region and level, whose
shares add up to one. What it costs in average precision says `detection-patch-in`.
"""

from collections.abc import Sequence
from typing import Any

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.detection import cast_of, ordered, row_of
from kdscope.analyses.detection_attention_pairs import pair_findings
from kdscope.analyses.detection_attention_truth import truth_rows
from kdscope.analyses.detection_gallery import attention_pictures
from kdscope.analyses.detection_maps import EVERY, attention_of, grid_of, strides_of
from kdscope.analyses.detection_views import everyone
from kdscope.analyses.detection_words import attention_notes, attention_short
from kdscope.errors import KDScopeError
from kdscope.figures.pictures import Pictures
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "role", "area", "region", "group", "a_group", "method", "architecture", "seed", "seeds", "control"),
    *("gain", "gain_low", "gain_high", "confidence", "excluded", "pictures"),
)
GALLERY = "detection-attention-gallery.npz"


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
        own = list(truth_rows(roles, networks, maps, grids, confidence))
        if roles is not None:
            found, left_out = pair_findings(roles, maps, grids, split, confidence)
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
