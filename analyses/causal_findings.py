"""What is found of attributions and interventions: of a network by its own maps, and by those of another."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdscope.analyses.cast import Party
from kdscope.features.cache import FeatureCache
from kdscope.features.causal import CONTROLS, map_names
from kdscope.measures.controls import derangement
from kdscope.measures.intervention import curve_area, mean_result, paired_result
from kdscope.measures.map_overlap import map_overlap, map_rank_correlation
from kdscope.measures.map_truth import energy_inside, left_out, mask_share
from kdscope.measures.result import Result
from kdscope.measures.seeds import EVERYTHING, differences, over_seeds
from kdscope.measures.statistics import exact_mean

MODES = ("deletion", "insertion")
SHUFFLED = "floor: shuffled images"
STRICT = ("smooth-random", "other-image", "randomised-weights", "own")  # what maps are held against, besides random
SHARE, CORRELATION = (0.0, 1.0), (-1.0, 1.0)
RANGES = {  # of means over seeds; probabilities are deleted and inserted
    **{"converged": SHARE, "completeness-error": (0.0, np.inf), "steps": (0.0, np.inf), "energy-inside": SHARE},
    **{f"{mode}-{what}": SHARE for mode in MODES for what in ("auc", "curve", "auc-spread")},
    **{f"{mode}-gain": differences(SHARE) for mode in MODES},
    **dict.fromkeys(("map-overlap", "activation-overlap", "baseline-overlap"), CORRELATION),
    "randomised-weights-correlation": CORRELATION,
}
Curves = Mapping[tuple[str, str], np.ndarray]  # [N, F] by mode and mask


@dataclass(frozen=True)
class Found:
    """One number about a network b and the maps of a.

    Attributes:
        by: whose map, or which control, images were changed by; against: in a paired difference, what it is held to.
        gain: by how much those maps beat random masks, paired.
        left_out: in words, which images do not count.
    """

    pair: str
    a: Party
    b: Party
    layer: str
    by: str
    result: Result
    gain: Result | None = None
    share: float | None = None
    seeds: int = 1
    against: str = ""
    left_out: str = ""
    epoch: int | None = None


def of_own_maps(party: Party, cache: FeatureCache, others: FeatureCache | None, level: float) -> Iterator[Found]:
    """A network and its own maps; `others`: what it does by those of other images, where that is known."""
    shares = how(cache, "shares")
    for which in map_names(cache):
        good = complete(cache, which)
        yield from _attributions(party, cache, which, good, level)
        curves = {
            (mode, by): kept(cache.array(f"{mode}/{by}/{which}")[:], good)
            for mode in MODES
            for by in ("own", *CONTROLS)
            if f"{mode}/{by}/{which}" in cache.names
        }
        if others is not None:
            curves |= {(mode, "other-image"): kept(others.array(f"{mode}/{which}")[:], good) for mode in MODES}
        yield from _intervened("own", party, party, which, curves, shares, level)
    yield from _over_baselines(party, cache, level)


def of_other_maps(
    pair: str, a: Party, b: Party, of_a: FeatureCache, of_b: FeatureCache, by_a: FeatureCache | None, level: float
) -> Iterator[Found]:
    """A network b and the maps of a, on the images for which both maps are complete; `by_a`: what b does by them."""
    for which in map_names(of_a):
        good, shared = complete(of_a, which), which in map_names(of_b)
        if shared:
            good &= complete(of_b, which)
            values, floor = _overlap(_maps(of_a, which), _maps(of_b, which), good)
            overlap = mean_result("map-overlap", values, confidence=level).with_frame(floor, control=SHUFFLED)
            yield Found(pair, a, b, which, "", overlap)
        if by_a is None:
            continue
        curves = {(mode, "teacher"): kept(by_a.array(f"{mode}/{which}")[:], good) for mode in MODES}
        if shared:
            curves |= {
                (mode, by): kept(of_b.array(f"{mode}/{by}/{which}")[:], good)
                for mode in MODES
                for by in ("own", "random", "smooth-random")
                if f"{mode}/{by}/{which}" in of_b.names
            }
        yield from _intervened(pair, a, b, which, curves, how(of_a, "shares"), level)


def of_epoch(party: Party, probe: FeatureCache, epoch: int, level: float) -> Iterator[Found]:
    """A network and its own maps as it was after an epoch; the points of the curves are left to its cache."""
    for found in of_own_maps(party, probe, None, level):
        if found.share is None:
            yield replace(found, epoch=epoch)


def overlap_at(
    pair: str, a: Party, b: Party, of_a: FeatureCache, probe: FeatureCache, epoch: int, level: float
) -> Iterator[Found]:
    """Overlap of the maps of b after an epoch with those of a, on the images that both caches hold."""
    _, rows, there = np.intersect1d(of_a.index, probe.index, return_indices=True)
    for which in map_names(probe) if len(rows) > 1 else ():
        if which in map_names(of_a):
            good = complete(of_a, which)[rows] & complete(probe, which)[there]
            values, floor = _overlap(_maps(of_a, which)[rows], _maps(probe, which)[there], good)
            overlap = mean_result("map-overlap", values, confidence=level).with_frame(floor, control=SHUFFLED)
            yield Found(pair, a, b, which, "", overlap, epoch=epoch)


def seeds_together(found: Iterable[Found], confidence: float) -> Iterator[Found]:
    """One more for all seeds of a group together, of each number that has at least two; its gain as well."""
    groups: dict[tuple, list[Found]] = {}
    for each in found:
        key = (each.pair, each.a.groups, each.b.groups, each.layer, each.by, each.against, each.result.measure)
        groups.setdefault((*key, each.share, each.epoch), []).append(each)
    for members in groups.values():
        if len({(m.a.key, m.b.key) for m in members}) > 1:
            within = RANGES.get(members[0].result.measure, EVERYTHING)
            result = over_seeds([m.result for m in members], confidence=confidence, within=within)
            gains = [m.gain for m in members]
            frame = [[getattr(m.result, side) for m in members] for side in ("floor", "ceiling")]
            framed = result.with_frame(*(None if None in side else float(np.mean(side)) for side in frame))
            gain = None if None in gains else over_seeds(gains, confidence=confidence, within=differences(within))
            yield replace(members[0], result=framed, gain=gain, seeds=sum(m.result.n > 0 for m in members), left_out="")


def _attributions(party: Party, cache: FeatureCache, which: str, good: np.ndarray, level: float) -> Iterator[Found]:
    """How complete the maps are, where they lie, and whether they depend on the weights."""
    own = _maps(cache, which)

    def found(measure: str, values: np.ndarray, floor: float | None = None, control: str = "", why: str = "") -> Found:
        result = mean_result(measure, values, confidence=level).with_frame(floor, control=control)
        return Found("own", party, party, which, "own", result, left_out=why)

    yield found("converged", good)
    yield found("completeness-error", np.where(good, cache.array(f"error/{which}")[:], np.nan))
    yield found("steps", cache.array(f"steps/{which}")[:].astype(float))
    if "mask" in cache.names:
        masks = cache.array("mask")[:]
        inside = kept(energy_inside(own, masks), good)
        area = mean_known(np.where(np.isnan(inside), np.nan, mask_share(masks)))
        why = left_out(own, masks, ~good)
        yield found("energy-inside", inside, area, "floor: share of the area", why)
    layer = which.rpartition("/")[0]
    if f"maps/activation/{layer}" in cache.names:
        active = cache.array(f"maps/activation/{layer}")[:]
        yield found("activation-overlap", *_overlap(own, active, good), SHUFFLED)
    control = cache.array(f"maps/randomised-weights/{which}")[:]
    yield found("randomised-weights-correlation", kept(map_rank_correlation(own, control), good))


def _over_baselines(party: Party, cache: FeatureCache, level: float) -> Iterator[Found]:
    """How far maps, and what deletion by them does, depend on where the path begins; nothing for one baseline."""
    baselines, shares = how(cache, "baselines"), how(cache, "shares")
    for layer in cache.layers if len(baselines) > 1 else ():
        own = {name: f"{layer}/{name}" for name in baselines}
        good = np.all([complete(cache, which) for which in own.values()], axis=0)
        for one, other in itertools.combinations(baselines, 2):
            values, floor = _overlap(_maps(cache, own[one]), _maps(cache, own[other]), good)
            result = mean_result("baseline-overlap", values, confidence=level).with_frame(floor, control=SHUFFLED)
            yield Found("own", party, party, layer, one, result, against=other)
        for mode in MODES:
            areas = [curve_area(cache.array(f"{mode}/own/{which}")[:], shares) for which in own.values()]
            result = mean_result(f"{mode}-auc-spread", kept(np.ptp(areas, axis=0), good), confidence=level)
            yield Found("own", party, party, layer, "own", result, against=", ".join(baselines))


def _intervened(
    pair: str, a: Party, b: Party, which: str, curves: Curves, shares: list, level: float
) -> Iterator[Found]:
    """The areas and points of curves; each area against random masks, and the maps against stricter controls."""
    areas = {key: curve_area(curve, shares) for key, curve in curves.items()}
    maps = "own" if pair == "own" else "teacher"

    def better(mode: str, by: str, than: str, measure: str) -> Result:
        """By how much the one mask finds more of the evidence: deletes more, or inserts more."""
        ends = areas[mode, by], areas[mode, than]
        return paired_result(measure, *(ends if mode == "insertion" else ends[::-1]), confidence=level)

    for (mode, by), values in areas.items():
        if pair != "own" and by != maps:
            continue
        result, gain = mean_result(f"{mode}-auc", values, confidence=level), None
        if (mode, "random") in areas and by != "random":
            gain = better(mode, by, "random", f"{mode}-auc")
            words = "floor: random masks" + ("; ceiling: own maps" if by == "teacher" else "")
            ceiling = mean_known(areas[mode, "own"]) if by == "teacher" else None
            result = result.with_frame(mean_known(areas[mode, "random"]), ceiling, words)
        yield Found(pair, a, b, which, by, result, gain)
        for k, share in enumerate(shares):
            point = mean_result(f"{mode}-curve", curves[mode, by][:, k], confidence=level)
            yield Found(pair, a, b, which, by, point, share=share)
    for mode, than in itertools.product(MODES, STRICT):
        if (mode, than) in areas and than != maps:
            yield Found(pair, a, b, which, maps, better(mode, maps, than, f"{mode}-gain"), against=than)


def complete(cache: FeatureCache, which: str) -> np.ndarray:
    """bool [N]: whose attribution is complete; the others belong in no statistics."""
    return cache.array(f"error/{which}")[:] < how(cache, "tolerance")


def how(cache: FeatureCache, what: str) -> Any:
    """How the attributions of a cache were made."""
    return cache.identity["attribution"][what]


def kept(values: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Rows of images whose attribution is complete; the others are NaN, and count for nothing."""
    return np.where(good.reshape(-1, *[1] * (values.ndim - 1)), values.astype(np.float64), np.nan)


def mean_known(values: np.ndarray) -> float:
    """The mean of what counts, NaN of nothing."""
    return exact_mean(values[~np.isnan(values)])


def _maps(cache: FeatureCache, which: str) -> np.ndarray:
    return cache.array(f"maps/integrated-gradients/{which}")[:]


def _overlap(a: np.ndarray, b: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, float]:
    """Overlap of two maps of each image, and its mean where the second is of another image."""
    mixed = kept(map_overlap(a, b[derangement(len(b))]), good)
    return kept(map_overlap(a, b), good), mean_known(mixed)
