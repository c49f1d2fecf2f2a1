"""Where does a network's evidence lie, do its maps survive an intervention, and does the student use the same evidence?

Sundararajan et al., ICML 2017 (integrated gradients); Petsiuk et al., BMVC 2018 (deletion, insertion); Rong et al.,
ICML 2022 (imputation); Adebayo et al., NeurIPS 2018 (randomised weights). Maps are *attributions*; only what deletion
by them does may be called causal. Each network by its own maps, beside random masks, the masks of other images, and
those of the same network with random weights; each student by its teacher's maps (attribution transfer).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import Cast, Party, cast, pairs
from kdscope.features.cache import FeatureCache
from kdscope.measures.controls import derangement
from kdscope.measures.intervention import curve_area, mean_result
from kdscope.measures.map_overlap import map_overlap, map_rank_correlation
from kdscope.measures.map_truth import energy_inside, mask_share
from kdscope.measures.result import Result
from kdscope.measures.seeds import over_seeds
from kdscope.measures.statistics import exact_mean, paired_bootstrap
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "by", "share", "group", "a_group", "method", "architecture", "seed", "seeds"),
    *("control", "gain", "gain_low", "gain_high", "confidence", "excluded"),
)
MODES = ("deletion", "insertion")
TRANSFERS = ("teacher-student", "floor:independent-student")


@dataclass(frozen=True)
class Found:
    """One number about a network b and the maps of a; `gain`: by how much those beat random masks, paired."""

    pair: str
    a: Party
    b: Party
    layer: str
    by: str
    result: Result
    gain: tuple[float, float, float] | None = None
    share: float | None = None
    seeds: int = 1


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
        baselines: where paths begin: "mean", "black", "blur", "train:K".
        target, imputation: as in `kdscope.attention`.
        teacher, baseline: as in the analysis of fidelity.
        confidence: of all intervals.

    Returns:
        A report whose table has, besides the shared columns: pair ("own": a network and its own maps), by (whose map,
        or which control, images were changed by), share (of pixels, for the points of a curve), and gain: by how much
        those maps beat random masks, image by image, with its interval. `layer` is LAYER/BASELINE.

    Raises:
        KDScopeError: no student or no teacher among the sources, an unknown layer, baseline, target or imputation.
    """
    roles = cast(subjects, teacher, baseline)
    asked: dict[str, Any] = {
        "images": images,
        "target": target,
        "imputation": imputation,
        "baselines": _list(baselines),
    }
    asked |= {"layers": _list(layers)} if layers else {}
    default = {"images": 256, "target": "centred-logit", "imputation": "noisy-linear", "baselines": ["mean"]}
    options = {} if asked == default else asked
    maps = {}
    compared = [pair for pair in pairs(roles) if pair.pair in TRANSFERS and len(pair.a.subjects) == 1]
    for party in (party for pair in compared for party in (pair.a, pair.b)):
        maps.setdefault(party.key, (party, party.subjects[0].cache(splits, view, kind="causal", options=options)))
    found = [each for party, cache in maps.values() for each in _own(party, cache, splits, view, confidence)]
    for pair in compared:
        found += _transfer(pair.pair, pair.a, pair.b, maps, splits, view, confidence)
    rows = [_row(roles, splits, view, each, confidence) for each in [*found, *_over_seeds(found, confidence)]]
    table = tidy(rows, COLUMNS)
    return Report(table, _short(table), (*roles.notes, *_said(table)))


def _own(party: Party, cache: FeatureCache, split: str, view: str, confidence: float) -> Iterator[Found]:
    """A network and its own maps."""

    def found(measure: str, values: np.ndarray, floor: float | None = None, control: str = "") -> Found:
        result = mean_result(measure, values, confidence=confidence)
        return Found("own", party, party, which, "own", result.with_frame(floor, control=control))

    shares, tolerance = _how(cache, "shares"), _how(cache, "tolerance")
    for which in names(cache):
        error = cache.array(f"error/{which}")[:]
        good = error < tolerance
        own = cache.array(f"maps/integrated-gradients/{which}")[:]
        yield found("converged", good)
        yield found("completeness-error", np.where(good, error, np.nan))
        yield found("steps", cache.array(f"steps/{which}")[:].astype(float))
        if "mask" in cache.names:
            masks = cache.array("mask")[:]
            area = _kept(mask_share(masks), good)
            floor = _mean(area)
            yield found(
                "energy-inside", _kept(energy_inside(own, masks), good), floor=floor, control="floor: share of the area"
            )
        layer = which.rpartition("/")[0]
        if f"maps/activation/{layer}" in cache.names:
            active = cache.array(f"maps/activation/{layer}")[:]
            yield found("activation-overlap", *_overlap(own, active, good), control="floor: shuffled images")
        control = cache.array(f"maps/randomised-weights/{which}")[:]
        yield found("randomised-weights-correlation", _kept(map_rank_correlation(own, control), good))
        curves = {
            (mode, by): _kept(cache.array(f"{mode}/{by}/{which}")[:], good)
            for mode in MODES
            for by in ("own", "random", "randomised-weights")
        }
        subject = party.subjects[0]
        if subject.load is not None:
            swapped = subject.cache(split, view, kind="transfer", options={"maps": cache, "others": True})
            curves |= {(mode, "other-image"): _kept(swapped.array(f"{mode}/{which}")[:], good) for mode in MODES}
        yield from _intervened("own", party, party, which, curves, shares, confidence)


def _transfer(
    pair: str, a: Party, b: Party, maps: Mapping[tuple, tuple[Party, FeatureCache]], split: str, view: str, level: float
) -> Iterator[Found]:
    """A network b by the maps of a: those of its images for which both maps are complete."""
    of_a, of_b = maps[a.key][1], maps[b.key][1]
    of_a.check_compatible(of_b)
    if b.subjects[0].load is None:
        return
    shown = b.subjects[0].cache(split, view, kind="transfer", options={"maps": of_a})
    for which in names(of_a):
        good = of_a.array(f"error/{which}")[:] < _how(of_a, "tolerance")
        if which in names(of_b):
            good &= of_b.array(f"error/{which}")[:] < _how(of_b, "tolerance")
            values, floor = _overlap(*(c.array(f"maps/integrated-gradients/{which}")[:] for c in (of_a, of_b)), good)
            overlap = mean_result("map-overlap", values, confidence=level)
            yield Found(pair, a, b, which, "", overlap.with_frame(floor, control="floor: shuffled images"))
        curves = {(mode, "teacher"): _kept(shown.array(f"{mode}/{which}")[:], good) for mode in MODES}
        if which in names(of_b):
            for mode in MODES:
                for by in ("own", "random"):
                    curves[mode, by] = _kept(of_b.array(f"{mode}/{by}/{which}")[:], good)
        yield from _intervened(pair, a, b, which, curves, _how(of_a, "shares"), level)


def _intervened(
    pair: str, a: Party, b: Party, which: str, curves: Mapping[tuple[str, str], np.ndarray], shares: list, level: float
) -> Iterator[Found]:
    """The areas and points of curves; each area against that of random masks."""
    areas = {key: curve_area(curve, shares) for key, curve in curves.items()}
    for (mode, by), values in areas.items():
        result, gain = mean_result(f"{mode}-auc", values, confidence=level), None
        if (mode, "random") in areas and by != "random":
            chance = areas[mode, "random"]
            worse, better = (values, chance) if mode == "deletion" else (chance, values)
            gain = paired_bootstrap(better, worse, confidence=level)
            words = "floor: random masks" + ("; ceiling: own maps" if by == "teacher" else "")
            ceiling = _mean(areas[mode, "own"]) if by == "teacher" else None
            result = result.with_frame(_mean(chance), ceiling, words)
        if pair == "own" or by == "teacher":
            yield Found(pair, a, b, which, by, result, gain)
            for k, share in enumerate(shares):
                point = mean_result(f"{mode}-curve", curves[mode, by][:, k], confidence=level)
                yield Found(pair, a, b, which, by, point, share=share)


def _over_seeds(found: Iterable[Found], confidence: float) -> Iterator[Found]:
    """One more for all seeds of a group together."""
    groups: dict[tuple, list[Found]] = {}
    for each in found:
        key = (each.pair, each.a.groups, each.b.groups, each.layer, each.by, each.result.measure, each.share)
        groups.setdefault(key, []).append(each)
    for members in groups.values():
        if len({(m.a.key, m.b.key) for m in members}) > 1:
            result = over_seeds([m.result for m in members], confidence=confidence)
            frame = [[getattr(m.result, side) for m in members] for side in ("floor", "ceiling")]
            framed = result.with_frame(*(None if None in side else float(np.mean(side)) for side in frame))
            yield replace(members[0], result=framed, gain=None, seeds=len(members))


def _row(roles: Cast, split: str, view: str, each: Found, confidence: float) -> dict[str, Any]:
    together = each.seeds > 1
    name, b = roles.group_name if together else roles.name, each.b.subjects[0]
    low_high = each.gain or (None, None, None)
    seed = "all" if together else "" if b.seed is None else str(b.seed)
    return each.result.row(
        analysis="causal", a=name(each.a), b=name(each.b), layer=each.layer, split=split, view=view, pair=each.pair,
        by=each.by, share=each.share, group=roles.group_name(each.b), a_group=roles.group_name(each.a),
        method=b.method, architecture=b.architecture, seed=seed, seeds=each.seeds, control=each.result.control,
        gain=low_high[0], gain_low=low_high[1], gain_high=low_high[2], confidence=confidence,
        excluded=each.result.excluded,
    )  # fmt: skip


def names(cache: FeatureCache) -> list[str]:
    """The maps of a causal cache, LAYER/BASELINE."""
    return [f"{layer}/{name}" for layer in cache.layers for name in _how(cache, "baselines")]


def _how(cache: FeatureCache, what: str) -> Any:
    return cache.identity["attribution"][what]


def _kept(values: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Rows of images whose attribution is complete; the others are NaN, and count for nothing."""
    return np.where(good.reshape(-1, *[1] * (values.ndim - 1)), values.astype(np.float64), np.nan)


def _overlap(a: np.ndarray, b: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, float]:
    """Overlap of two maps of each image, and its mean where the second is of another image."""
    mixed = _kept(map_overlap(a, b[derangement(len(b))]), good)
    return _kept(map_overlap(a, b), good), _mean(mixed)


def _mean(values: np.ndarray) -> float:
    """The mean of what counts, NaN of nothing."""
    return exact_mean(values[~np.isnan(values)])


def _list(names: Sequence[str] | str) -> list[str]:
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each network, map and mask: deletion (lower is better) and insertion (higher is)."""
    rows = table[table["measure"].isin([f"{mode}-auc" for mode in MODES]) & (table["seed"] != "all")]
    lines = []
    for (b, layer, a, by), group in rows.groupby(["b", "layer", "a", "by"], sort=False):
        by_measure = group.drop_duplicates("measure").set_index("measure")
        line = {"network": b, "map": layer, "by": f"{by}: {a}" if by == "teacher" else by}
        for mode in MODES:
            row = by_measure.loc[f"{mode}-auc"]
            line[f"{mode} AUC"] = f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"
        lines.append(line)
    return pd.DataFrame(lines)


def _said(table: pd.DataFrame) -> list[str]:
    said = []
    rows = table[table["seed"] != "all"]
    for row in rows[(rows["measure"] == "converged") & (rows["value"] < 1)].itertuples():
        said.append(f"{row.b}, {row.layer}: {1 - row.value:.1%} of attributions did not converge, and are left out")
    for row in rows[(rows["measure"] == "deletion-auc") & rows["by"].isin(["own", "teacher"])].itertuples():
        whose = "its own map" if row.by == "own" else f"the map of {row.a}"
        gain = f"{row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]"
        verdict = "more than random masks" if row.gain_low > 0 else "no more than random masks: not called causal"
        said.append(f"{row.b}, {row.layer}: deleting by {whose} takes {gain} of probability, {verdict}")
    return said
