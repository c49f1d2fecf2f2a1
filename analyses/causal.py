"""Where does a network's evidence lie, do its maps survive an intervention, and does the student use the same evidence?

Sundararajan et al., ICML 2017 (integrated gradients); Petsiuk et al., BMVC 2018 (deletion, insertion); Rong et al.,
ICML 2022 (imputation); Adebayo et al., NeurIPS 2018 (randomised weights). Maps are *attributions*; only what deletion
by them does may be called causal. Each network by its own maps, beside random masks, the masks of other images, and
those of the same network with random weights; each student by its teacher's maps (attribution transfer).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kdscope.analyses import gallery
from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import Cast, Pair, Party, cast, pairs
from kdscope.analyses.causal_findings import (
    Found,
    complete,
    kept,
    of_epoch,
    of_other_maps,
    of_own_maps,
    overlap_at,
    seeds_together,
)
from kdscope.analyses.causal_words import notes, short
from kdscope.features.cache import FeatureCache
from kdscope.features.causal import map_names
from kdscope.figures.pictures import Pictures
from kdscope.measures.map_overlap import map_overlap
from kdscope.measures.map_truth import energy_inside
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "by", "against", "share", "group", "a_group", "method", "architecture", "seed", "seeds", "epoch"),
    *("control", "gain", "gain_low", "gain_high", "confidence", "excluded", "left_out", "pictures"),
)
TRANSFERS = ("teacher-student", "floor:independent-student")
BASELINES = "mean,black,blur,train:8"  # what "all" stands for
GALLERY = "causal-gallery.npz"
Maps = dict[tuple, tuple[Party, FeatureCache]]


@analysis(
    "causal",
    summary="Where is a network's evidence, does deleting it matter, and does the student use the same?",
    citation="Sundararajan et al., ICML 2017; Petsiuk et al., BMVC 2018",
    sources=("teacher", "baseline"),
)
def causal(
    subjects: Sequence[Subject],
    *,
    splits: str = "test",
    view: str = "none",
    images: int = 256,
    layers: Sequence[str] | str | None = None,
    baselines: Sequence[str] | str = "mean",
    target: str = "centred-logit",
    imputation: str = "noisy-linear",
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """Completeness, localisation, and deletion and insertion of each network, and of students by teachers' maps.

    Args:
        splits: one split.
        view: the augmentation under which all are shown the same images.
        images: how many of the split, evenly spread.
        layers: "input" or modules of every network; default: the input and the last stage.
        baselines: where paths begin: "mean", "black", "blur", "train:K", or "all" of these, with K = 8; from two on
            there are rows of how far the maps, and deletion by them, depend on that. "zero" is no activation of the
            layer: with target="raw-logit" and the layer of the run, the maps are those that `cakd` makes its masks of.
        target, imputation: as in `kdscope.attention`.
        teacher, baseline: as in the analysis of fidelity.
        confidence: of all intervals.

    Returns:
        A report whose table has, besides the shared columns: pair ("own": a network and its own maps), by (whose map,
        or which control, images were changed by), against (what that is held to in a paired difference, `deletion-gain`
        and `insertion-gain`: positive where it finds more of the evidence), share (of pixels, for the points of a
        curve), epoch, left_out (which images do not count), and gain: by how much those maps beat random masks, image
        by image, with its interval. `layer` is LAYER/BASELINE.

    Raises:
        KDScopeError: no student or no teacher among the sources, an unknown layer, baseline, target or imputation.
    """
    roles = cast(subjects, teacher, baseline)
    asked: dict[str, Any] = {"images": images, "target": target, "imputation": imputation}
    asked["baselines"] = _list(BASELINES if baselines == "all" else baselines)
    asked |= {"layers": _list(layers)} if layers else {}
    default = {"images": 256, "target": "centred-logit", "imputation": "noisy-linear", "baselines": ["mean"]}
    options = {} if asked == default else asked
    maps: Maps = {}
    compared = [pair for pair in pairs(roles) if pair.pair in TRANSFERS and len(pair.a.subjects) == 1]
    compared = list({(pair.pair, pair.a.key, pair.b.key): pair for pair in reversed(compared)}.values())[::-1]
    for party in (party for pair in compared for party in (pair.a, pair.b)):
        maps.setdefault(party.key, (party, party.subjects[0].cache(splits, view, kind="causal", options=options)))
    found = [*_final(compared, maps, splits, view, confidence)]
    if view == "none" and asked | {"images": 256} == default:  # probes are made as the default is
        found += _over_epochs(compared, maps, splits, confidence)
    rows = [_row(roles, splits, view, each, confidence) for each in [*found, *seeds_together(found, confidence)]]
    table = tidy(rows, COLUMNS)
    table["epoch"] = table["epoch"].astype("Int64")
    which, pictures = _gallery(roles, compared, maps)
    if pictures is not None:
        there = (table["measure"] == "map-overlap") & (table["layer"] == which) & table["epoch"].isna()
        table["pictures"] = table["pictures"].astype(object).mask(there, GALLERY)
    said = (*roles.notes, *notes(table))
    return Report(table, short(table), said, {} if pictures is None else {GALLERY: pictures})


def _final(compared: Sequence[Pair], maps: Maps, split: str, view: str, confidence: float) -> Iterator[Found]:
    """Each network by its own maps, and students by those of teachers."""

    def shown(party: Party, cache: FeatureCache, others: bool) -> FeatureCache | None:
        """What a network does by the maps of a cache: None for a bare cache, whose network is not known."""
        options = {"maps": cache, "others": True} if others else {"maps": cache}
        subject = party.subjects[0]
        return None if subject.load is None else subject.cache(split, view, kind="transfer", options=options)

    for party, cache in maps.values():
        yield from of_own_maps(party, cache, shown(party, cache, others=True), confidence)
    for pair in compared:
        of_a, of_b = maps[pair.a.key][1], maps[pair.b.key][1]
        of_a.check_compatible(of_b)
        yield from of_other_maps(pair.pair, pair.a, pair.b, of_a, of_b, shown(pair.b, of_a, others=False), confidence)


def _over_epochs(compared: Sequence[Pair], maps: Maps, split: str, confidence: float) -> Iterator[Found]:
    """Students at each epoch whose probe kept causal maps."""
    for party, _ in maps.values():
        for epoch in party.subjects[0].probe_epochs(split, "causal"):
            yield from of_epoch(party, party.subjects[0].probe(epoch, split, "causal"), epoch, confidence)
    for pair in compared:
        for epoch in pair.b.subjects[0].probe_epochs(split, "causal"):
            probe = pair.b.subjects[0].probe(epoch, split, "causal")
            yield from overlap_at(pair.pair, pair.a, pair.b, maps[pair.a.key][1], probe, epoch, confidence)


def _gallery(roles: Cast, compared: Sequence[Pair], maps: Maps) -> tuple[str, Pictures | None]:
    """Some images with the first of the maps of the first teacher and its students."""
    caches = {party: maps[party.key][1] for party in gallery.shown(compared)}
    common = [n for n in map_names(next(iter(maps.values()))[1]) if all(n in map_names(c) for c in caches.values())]
    if len(caches) < 2 or not common:
        return "", None
    which = common[0]
    own = {party: cache.array(f"maps/integrated-gradients/{which}")[:] for party, cache in caches.items()}
    good = {party: complete(cache, which) for party, cache in caches.items()}
    a, first = next(iter(own)), next(iter(caches.values()))
    overlap = [kept(map_overlap(own[a], own[b]), good[a] & good[b]) for b in own if b is not a]
    values = {"overlap": np.stack([np.full(len(own[a]), np.nan), *overlap], axis=1)}
    if "mask" in first.names:
        masks = first.array("mask")[:]
        values["inside"] = np.stack([energy_inside(each, masks) for each in own.values()], axis=1)
    return which, gallery.pictures(f"integrated gradients, {which}", roles, own, first, "mask", values)


def _row(roles: Cast, split: str, view: str, each: Found, confidence: float) -> dict[str, Any]:
    together = each.seeds > 1
    name, b, gain = roles.group_name if together else roles.name, each.b.subjects[0], each.gain
    return each.result.row(
        analysis="causal", a=name(each.a), b=name(each.b), layer=each.layer, split=split, view=view, pair=each.pair,
        by=each.by, against=each.against, share=each.share, group=roles.group_name(each.b),
        a_group=roles.group_name(each.a), method=b.method, architecture=b.architecture,
        seed="all" if together else "" if b.seed is None else str(b.seed), seeds=each.seeds, epoch=each.epoch,
        control=each.result.control, gain=gain and gain.value, gain_low=gain and gain.ci_low,
        gain_high=gain and gain.ci_high, confidence=confidence, excluded=each.result.excluded, left_out=each.left_out,
    )  # fmt: skip


def _list(names: Sequence[str] | str) -> list[str]:
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
