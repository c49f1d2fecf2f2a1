"""Where do detectors look and where do their features differ: at the objects, around them, or far away?

The attention of FGD (Yang et al., CVPR 2022, equation 1) of each network against the boxes, by object size; the gap
between student and teacher, on objects and elsewhere; and the squared error of features by region and level, whose
shares add up to one. What it costs in average precision says `detection-patch-in`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import Party
from kdscope.analyses.detection import cast_of, ordered, row_of
from kdscope.analyses.detection_attention_pairs import FITTED, pair_findings
from kdscope.analyses.detection_attention_pixels import GUO, NORMALISED, PIXELS, Look, Sight
from kdscope.analyses.detection_attention_truth import truth_rows
from kdscope.analyses.detection_attention_words import attention_notes, attention_short
from kdscope.analyses.detection_dense import FLOORS
from kdscope.analyses.detection_gallery import attention_pictures
from kdscope.analyses.detection_maps import EVERY, Framing, Grid, attention_of, grid_of, strides_of
from kdscope.analyses.detection_views import Seen, everyone
from kdscope.analyses.options import chosen
from kdscope.detection.subjects import random_init_cache
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.figures.pictures import Pictures
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "role", "area", "region", "group", "a_group", "method", "architecture", "seed", "seeds", "control"),
    *("gain", "gain_low", "gain_high", "confidence", "excluded", "pictures"),
)
DEFINITIONS = ("kdscope", NORMALISED, FITTED, PIXELS, GUO)
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
    definition: Sequence[str] | str = (NORMALISED, FITTED),
    untrained: bool = True,
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """Attention against boxes and against the teacher's, and errors of features by region and level, as a tidy table.

    Args:
        temperature: of the softmax over the cells of an image that makes attention of mean |F|; FGD has 0.5.
        definition: what stands beside "kdscope", which is always there: FGD's attention, and errors with the run's own
            adapters. "normalised" is attention of mean |F| over its mean, which does not depend on the unit of
            features; "fitted" errors with adapters that least squares finds on up to 200 training images, of all
            students alike: one more cache of each pair. "image-size" is of maps that are interpolated to the image,
            against the pixels of the boxes; "guo2024-code" the IoU of Guo et al., cut at 0.4 of a map's range and
            pooled over batches of 128 images.
        untrained: whether each student's architecture is shown the images (500 at the most) before any training, too:
            a floor that costs as much as its student's own cache, once.
        splits, teacher, baseline, confidence: as for the analysis `detection`.

    Returns:
        A report whose table has, besides the shared columns: layer ("stride 8", empty for the mean over the levels),
        area (objects of that size; cells of others are left out), and region of an error. Beside a student alone
        there are two floors more: the architecture before training, and maps of other images ("shuffled").

    Raises:
        KDScopeError: a network that classifies images, caches of different images, an unknown definition, a temperature
            that is not positive.
    """
    if not temperature > 0:
        raise KDScopeError(f"temperature {temperature} is not above 0; FGD has 0.5")
    asked = list(dict.fromkeys(["kdscope", *chosen(definition, DEFINITIONS, "detection-attention")]))
    pictured = NORMALISED if NORMALISED in asked else "kdscope"  # plain ones can be one lit cell, by their unit
    roles, alone = cast_of(subjects, teacher, baseline)
    rows: list[dict[str, Any]] = []
    said: list[str] = []
    pictures: Pictures | None = None
    for split in [part.strip() for part in splits.split(",") if part.strip()]:
        networks = everyone(roles, alone, split)
        grids = {stride: grid_of(next(iter(networks.values())).cache, stride) for stride in strides_of(networks)}
        if not grids:
            raise KDScopeError("the networks have no level of the pyramid in common")
        sight = Sight(grids, Framing.of(next(iter(networks.values())).cache))
        begun = untrained_caches(networks, split) if untrained else {}
        looks: dict[tuple, Look] = {}
        by_definition: dict[str, list[dict[str, Any]]] = {}
        for name in sorted(asked, key=lambda name: name == NORMALISED):  # the maps of all others are the same
            if not looks or name == NORMALISED:
                looks.clear()
                looks |= looks_of(networks, begun, grids, temperature, name == NORMALISED)
            if roles is not None and name == pictured:
                title = "attention" if name == "kdscope" else f"{name} attention"
                maps = {key: one.maps for key, one in looks.items()}
                pictures = attention_pictures(roles, networks, maps, grids, title)
            own = list(truth_rows(roles, networks, looks, sight, name, confidence)) if name != FITTED else []
            if roles is not None:
                found, left_out = pair_findings(roles, looks, sight, name, split, confidence)
                own += [row_of(roles, f, seed) | cell._asdict() for cell, f, seed in found]
                said += left_out
            by_definition[name] = [{"view": "none", **row, "split": split, "definition": name} for row in own]
        rows += [row for name in asked for row in by_definition[name]]
    named = {"analysis": "detection-attention", "confidence": confidence}
    table = ordered(tidy([row | named for row in rows], COLUMNS))
    words = (*(roles.notes if roles else ()), *said, *attention_notes(table))
    if pictures is None:
        return Report(table, attention_short(table), words)
    shown = {"measure": "attention-overlap", "layer": f"stride {min(grids)}", "area": EVERY, "split": split}
    shown |= {"definition": pictured}
    there = (table[list(shown)] == list(shown.values())).all(axis=1) & ~table["pair"].isin(FLOORS)
    table["pictures"] = table["pictures"].astype(object).mask(there, GALLERY)
    return Report(table, attention_short(table), words, {GALLERY: pictures})


def looks_of(
    networks: Mapping[tuple, Seen],
    untrained: Mapping[tuple, FeatureCache],
    grids: Mapping[int, Grid],
    temperature: float,
    normalised: bool = False,
) -> dict[tuple, Look]:
    """The attention of each network and of each untrained one, of some images, at the levels that all have."""
    index = next(iter(networks.values())).cache.index
    found = {}
    for key, cache in ({key: one.cache for key, one in networks.items()} | dict(untrained)).items():
        rows = np.flatnonzero(np.isin(index, cache.index)) if key in untrained else np.arange(len(index))
        own = {stride: Grid(grid.region[rows]) for stride, grid in grids.items()}
        maps = {s: attention_of(cache, s, grid, temperature, normalised=normalised) for s, grid in own.items()}
        found[key] = Look(maps, rows)
    return found


def untrained_caches(networks: Mapping[tuple, Seen], split: str) -> dict[tuple, FeatureCache]:
    """Of each student's architecture before training, by the key of its party; of all where there is no student."""
    roles = {one.role for one in networks.values()}
    chosen = {
        one.subject.architecture: one.subject
        for one in reversed(networks.values())
        if one.role == ("student" if "student" in roles else "network")
    }
    found = {Party((subject,), "random-init").key: random_init_cache(subject, split) for subject in chosen.values()}
    return {key: cache for key, cache in found.items() if cache is not None}
