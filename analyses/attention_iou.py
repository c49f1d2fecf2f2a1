"""Do student and teacher look at the same place, more than two networks that never met, and is it where the object is?

Zagoruyko & Komodakis, ICLR 2017; Guo et al., arXiv 2405.00739. Maps of every pair of networks, by their most attended
cells at a sweep of areas, corrected for chance; beside them the same of images exchanged within their class (what is
shared by knowing the class, and by looking at the centre), of an untrained network and of one trained alone. Where the
images have true masks, each network against those.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses.attention_words import notes, short
from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import PAIRS, Cast, Pair, Party, cast, pairs
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.map_library import MASK, MapLibrary, matched, methods_of
from kdscope.errors import KDScopeError, unknown
from kdscope.measures import MEASURES
from kdscope.measures.controls import derangement
from kdscope.measures.joint import bootstrap_columns
from kdscope.measures.map_measures import ThresholdIoU
from kdscope.measures.map_overlap import above_chance, area_under, ranked_correlation, ranked_iou, soft_iou
from kdscope.measures.map_truth import energy_inside, mask_share, pointing_game
from kdscope.measures.result import Result
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "map", "area", "chance", "grid", "group", "a_group", "method", "architecture", "seed", "seeds"),
    *("control", "gain", "gain_low", "gain_high", "confidence", "excluded"),
)
GUO, GUO_BATCH = "guo2024-code", 128
TRUTH = "truth"
OVERLAPS = ("attention-iou", "soft-iou", "map-rank-correlation")
Cell = tuple[str, str, str, str, float]  # map, layers, measure, definition, area (NaN: over all areas)


@analysis(
    "attention-iou",
    summary="Do student and teacher look at the same place, and is it the object?",
    citation="Zagoruyko & Komodakis, ICLR 2017; Guo et al., arXiv 2405.00739",
    sources=("teacher", "baseline"),
)
def attention_iou(
    subjects: Sequence[Subject],
    *,
    splits: Sequence[str] | str = "test",
    view: str = "none",
    maps: Sequence[str] | str | None = None,
    every_layer: bool = False,
    definition: Sequence[str] | str = "kdscope",
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """Overlap of the attention maps of each pair and control, and of each network with the true masks, as a table.

    Args:
        splits: names, or one text with commas.
        view: the augmentation under which all are shown the same images; only "none" has true masks.
        maps: of "activation", "cam", "grad-cam", "cls-attention", "rollout"; default: all that all networks have.
        every_layer: compare Grad-CAM at every stage; else at the last one, where it says most (activation maps are
            compared at every stage in any case).
        definition: "guo2024-code" adds the IoU of Guo et al. on their all-class maps, with three-way IoU of two
            teachers and a student.
        teacher, baseline: as for fidelity.
        confidence: of all intervals.

    Returns:
        A report whose table has, besides the shared columns: pair (`kdscope.analyses.cast.PAIRS`, or "truth" for a
        network against the masks), map, area (share of the cells in the sets; empty: the mean over all areas), chance
        (IoU of unrelated maps at that area), grid, seed ("all": mean over `seeds` trainings), control, and gain over
        the floor with its paired interval. Floors named "shuffled" exchange images within their class.

    Raises:
        KDScopeError: no student or no teacher among the sources, caches of different images, a kind of map that a
            network does not have, values that are not finite.
    """
    roles = cast(subjects, teacher, baseline)
    asked = [d.strip() for d in definition.split(",")] if isinstance(definition, str) else list(definition)
    for name in asked:
        if name not in ThresholdIoU.definitions:
            raise unknown("definition", name, ThresholdIoU.definitions, "analysis 'attention-iou'")
    every = list({(p.pair, p.a.key, p.b.key): p for p in reversed(pairs(roles))}.values())[::-1]
    rows: list[dict[str, Any]] = []
    for part in [s.strip() for s in (splits.split(",") if isinstance(splits, str) else splits) if s.strip()]:
        work = _Comparison(every, MapLibrary(part, view), maps, every_layer, GUO in asked, confidence)
        for cell, finding, seed in _findings(every, work.measured(), confidence):
            rows.append(_row(roles, part, view, cell, finding, seed) | work.facts.get((finding.pair.key, cell), {}))
        rows += [row | {"split": part, "view": view} for row in work.truth(roles)]
    table = _ordered(tidy([row | {"analysis": "attention-iou", "confidence": confidence} for row in rows], COLUMNS))
    return Report(table, short(table), (*roles.notes, *notes(table, GUO in asked)))


class _Comparison:
    """All pairs of one split; `facts` are the grid and the chance level of each cell."""

    def __init__(
        self,
        every: Sequence[Pair],
        library: MapLibrary,
        maps: Sequence[str] | str | None,
        every_layer: bool,
        guo: bool,
        confidence: float,
    ):
        self.every, self.library, self.every_layer = every, library, every_layer
        self.guo, self.confidence = guo, confidence
        self.facts: dict[tuple, dict[str, Any]] = {}
        alone = [party for pair in every for party in (*_members(pair.a), pair.b)]
        self.parties = list({(p.kind == "random-init", *p.key[2:]): p for p in alone if p.kind != "shuffled"}.values())
        caches = [cache for cache in map(library.cache, self.parties) if cache is not None]
        for other in caches[1:]:
            caches[0].check_compatible(other)
        self.methods = methods_of(maps, [library.names(cache) for cache in caches])

    def measured(self) -> dict[tuple, dict[Cell, Result]]:
        """What was measured of each pair, one kind of map after another, so that only that is held in memory."""
        found: dict[tuple, dict[Cell, Result]] = {}
        for method in self.methods:
            for pair in self.every:
                a, b = self.library.cache(pair.a), self.library.cache(pair.b)
                if b is None or len(pair.a.subjects) > 1:
                    continue
                for names in self._layers(self.library.names(a), self.library.names(b), method):
                    found.setdefault(pair.key, {}).update(self._overlap(pair, *names))
            self.library.forget()
        if self.guo:
            for pair in self.every:
                found.setdefault(pair.key, {}).update(self._guo(pair))
            self.library.forget()
        return {key: cells for key, cells in found.items() if cells}

    def _layers(self, a: Sequence[str], b: Sequence[str], method: str) -> list[tuple[str, str]]:
        found = matched(a, b, method)
        return found if self.every_layer or method != "grad-cam" else found[-1:]

    def _overlap(self, pair: Pair, name_a: str, name_b: str) -> Iterator[tuple[Cell, Result]]:
        library, a, b = self.library, self.library.cache(pair.a), self.library.cache(pair.b)
        grid = tuple(min(sides) for sides in zip(library.grid(a, name_a), library.grid(b, name_b), strict=True))
        places = [library.ranked(a, name_a, grid), library.ranked(b, name_b, grid)]
        amounts = [library.maps(a, name_a, grid), library.maps(b, name_b, grid)]
        count, lone = len(amounts[0]), np.zeros(len(amounts[0]), dtype=bool)
        if pair.b.kind == "shuffled":
            order = derangement(count, within=a.labels)
            places[1], amounts[1], lone = places[1].at(order), amounts[1][order], order == np.arange(count)
        areas, iou, chance = ranked_iou(*places)
        kappa = above_chance(iou, chance)
        columns = [area_under(areas, kappa), soft_iou(*amounts), ranked_correlation(*places), *kappa.T]
        values = np.stack(columns, axis=1)
        values[lone] = np.nan  # alone in its class, an image cannot be exchanged
        layer = name_a.partition("/")[2]
        layer = layer if name_a == name_b else f"{layer} ~ {name_b.partition('/')[2]}"
        labels = [(measure, float("nan")) for measure in OVERLAPS]
        labels += [("attention-iou", round(float(area), 6)) for area in areas]
        means, lows, highs = bootstrap_columns(values, confidence=self.confidence)
        for k, (measure, area) in enumerate(labels):
            known = int(np.count_nonzero(~np.isnan(values[:, k])))
            cell = (name_a.partition("/")[0], layer, measure, "kdscope", _NONE if area != area else area)
            level = float(chance[k - len(OVERLAPS)]) if k >= len(OVERLAPS) else float("nan")
            self.facts[pair.key, cell] = {"grid": f"{grid[0]}x{grid[1]}", "chance": level}
            yield cell, Result(
                measure, float(means[k]), values[:, k] if k < len(OVERLAPS) else None, known, float(lows[k]),
                float(highs[k]), source=MEASURES[measure].card.citation, excluded=len(values) - known,
            )  # fmt: skip

    def _guo(self, pair: Pair) -> Iterator[tuple[Cell, Result]]:
        """IoU of the all-class maps as in the code of Guo et al.; of three networks where there are two teachers."""
        parties = (*_members(pair.a), pair.b)
        caches = [self.library.cache(party) for party in parties]
        if None in caches:
            return
        names = [next((n for n in self.library.names(c) if n.startswith("cam-sum/")), None) for c in caches]
        if None in names:
            return
        maps = [self.library.maps(cache, name) for cache, name in zip(caches, names, strict=True)]
        if pair.b.kind == "shuffled":
            maps[-1] = maps[-1][derangement(len(maps[-1]), within=caches[0].labels)]
        size = tuple(caches[0].identity["transform"]["size"])
        state = ThresholdIoU(GUO, size, GUO_BATCH)
        for start in range(0, len(maps[0]), GUO_BATCH):
            state.update(*(each[start : start + GUO_BATCH] for each in maps))
        cell = ("cam-sum", names[0].partition("/")[2], "threshold-iou", GUO, _NONE)
        self.facts[pair.key, cell] = {"grid": f"{size[0]}x{size[1]}", "chance": float("nan")}
        yield cell, state.compute(self.confidence)

    def truth(self, roles: Cast) -> Iterator[dict[str, Any]]:
        """Each network against the true masks, where the caches have them; the floor is the mask's share."""
        for party in self.parties:
            cache = self.library.cache(party)
            if cache is None or MASK not in cache.names:
                continue
            masks = cache.array(MASK)[:]
            share = mask_share(masks)
            for method in self.methods:
                last = [name for name in self.library.names(cache) if name.partition("/")[0] == method][-1]
                maps = self.library.maps(cache, last)
                values = np.stack([pointing_game(maps, masks), energy_inside(maps, masks)], axis=1)
                gains = values - share[:, None]
                estimates = bootstrap_columns(np.concatenate([values, gains], axis=1), confidence=self.confidence)
                for k, measure in enumerate(("pointing-game", "energy-inside")):
                    (value, low, high), (gain, gain_low, gain_high) = (
                        [float(estimate[column]) for estimate in estimates] for column in (k, k + 2)
                    )
                    known = int(np.count_nonzero(~np.isnan(values[:, k])))
                    b = party.subjects[0]
                    yield {
                        "measure": measure, "definition": "kdscope", "a": "true mask", "b": roles.name(party),
                        "layer": last.partition("/")[2], "map": method, "value": value, "ci_low": low, "ci_high": high,
                        "n": known, "floor": float(np.nanmean(share)), "pair": TRUTH, "grid": _size(maps),
                        "control": "floor: the mask's share of the image", "gain": gain, "gain_low": gain_low,
                        "gain_high": gain_high, "excluded": len(values) - known, "group": roles.group_name(party),
                        "architecture": b.architecture, "method": b.method, "seeds": 1,
                        "seed": "" if b.seed is None else str(b.seed),
                    }  # fmt: skip
            self.library.forget()


_NONE = -1.0  # the area of a cell over all areas, in keys, where NaN would not equal itself


def _size(maps: np.ndarray) -> str:
    return "x".join(map(str, maps.shape[1:]))


def _members(party: Party) -> list[Party]:
    return [Party((subject,), party.kind) for subject in party.subjects]


def _findings(
    every: Sequence[Pair], measured: dict[tuple, dict[Cell, Result]], confidence: float
) -> Iterator[tuple[Cell, Finding, str]]:
    """Each cell of each pair in its frame, for each training and for all the seeds together."""
    for cell in dict.fromkeys(cell for cells in measured.values() for cell in cells):
        own = {key: {cell: cells[cell]} for key, cells in measured.items() if cell in cells}
        found = in_frames(every, own, confidence)
        for finding in found:
            yield cell, finding, str(finding.pair.b.seed)
        for finding in over_groups(found, confidence):
            yield cell, finding, "all"


def _row(roles: Cast, split: str, view: str, cell: Cell, finding: Finding, seed: str) -> dict[str, Any]:
    pair, result, gain = finding.pair, finding.result, finding.gain
    name = roles.group_name if seed == "all" else roles.name
    b = pair.b.subjects[0]
    return result.row(
        a=name(pair.a), b=name(pair.b), layer=cell[1], split=split, view=view, pair=pair.pair, map=cell[0],
        area=None if cell[4] == _NONE else cell[4], group=roles.group_name(pair.b), a_group=roles.group_name(pair.a),
        method=b.method, architecture=b.architecture, seed="" if seed == "None" else seed, seeds=finding.seeds,
        control=result.control, gain=gain and gain.value, gain_low=gain and gain.ci_low,
        gain_high=gain and gain.ci_high, excluded=result.excluded,
    )  # fmt: skip


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Split by split, the pairs in the order of `PAIRS`, all seeds before each; areas last."""
    if not len(table):
        raise KDScopeError("the networks have no maps that can be compared")
    pair = table["pair"].map({name: k for k, name in enumerate((*PAIRS, TRUTH))})
    keys = pd.DataFrame({"split": table["split"].map(list(dict.fromkeys(table["split"])).index), "pair": pair})
    keys["all"] = (table["seed"] != "all").astype(int)
    keys["area"] = table["area"].fillna(-1.0).astype(float)
    return table.loc[keys.sort_values(list(keys), kind="stable").index].reset_index(drop=True)
