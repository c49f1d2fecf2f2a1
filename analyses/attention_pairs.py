"""The maps of pairs of networks compared: what `attention-iou` measures, pair by pair and epoch by epoch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kdscope.analyses import gallery
from kdscope.analyses.attention_truth import against_truth
from kdscope.analyses.cast import Cast, Pair, Party
from kdscope.analyses.compare import Finding, in_frames
from kdscope.analyses.map_library import MASK, Excerpt, MapLibrary, matched, methods_of
from kdscope.analyses.relations import accuracy_of
from kdscope.features.cache import FeatureCache
from kdscope.figures.pictures import Pictures
from kdscope.measures import MEASURES
from kdscope.measures.controls import derangement
from kdscope.measures.joint import bootstrap_columns
from kdscope.measures.map_measures import ThresholdIoU
from kdscope.measures.map_overlap import above_chance, area_under, map_overlap, ranked_correlation, ranked_iou, soft_iou
from kdscope.measures.map_truth import energy_inside
from kdscope.measures.result import Result

GUO, GUO_BATCH = "guo2024-code", 128
OVERLAPS = ("attention-iou", "soft-iou", "map-rank-correlation")
SHOWN = ("cam", "grad-cam", "rollout", "cls-attention", "activation")  # the first that there is, in the gallery
EVERYWHERE = -1.0  # the area of a cell over all areas, in keys, where NaN would not equal itself
Cell = tuple[str, str, str, str, float]  # map, layers, measure, definition, area


class Comparison:
    """All pairs of one split; `facts` are the grid, the chance level and who is left out, by pair, epoch and cell."""

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

    def framed(self) -> Iterator[tuple[Cell, Finding]]:
        """What was measured of each pair, in its frame; one kind of map at a time is held in memory."""
        measured: dict[Cell, dict[tuple, dict[Cell, Result]]] = {}
        for method in self.methods:
            for pair in self.every:
                a, b = self.library.cache(pair.a), self.library.cache(pair.b)
                if b is not None and len(pair.a.subjects) == 1:
                    for names in self._layers(a, b, method):
                        for cell, result in self._overlap(pair, a, b, *names):
                            measured.setdefault(cell, {})[pair.key] = {cell: result}
            self.library.forget()
        for pair in self.every if self.guo else ():
            for cell, result in self._guo(pair):
                measured.setdefault(cell, {})[pair.key] = {cell: result}
            self.library.forget()
        for cell, found in measured.items():
            yield from ((cell, finding) for finding in in_frames(self.every, found, self.confidence))

    def over_epochs(self) -> Iterator[tuple[Cell, Finding]]:
        """Taught and independent students at each epoch whose probe kept maps, with their teachers and the truth."""
        seen: set[tuple] = set()
        for pair in self.every:
            if pair.pair not in ("teacher-student", "floor:independent-student"):
                continue
            student = pair.b.subjects[0]
            for epoch in student.probe_epochs(self.library.split, "maps"):
                probe = student.probe(epoch, self.library.split, "maps")
                teacher = Excerpt(self.library.cache(pair.a), probe)
                for method in self.methods:
                    for names in self._layers(teacher, probe, method):
                        for cell, result in self._overlap(pair, teacher, probe, *names, epoch):
                            if cell[4] == EVERYWHERE:
                                yield cell, Finding(pair, result, epoch=epoch)
                if (pair.b.key, epoch) not in seen:
                    yield from self._true(pair.b, probe, epoch)
                seen.add((pair.b.key, epoch))
                self.library.forget()

    def truth(self) -> Iterator[tuple[Cell, Finding]]:
        """Each network against the true masks."""
        for party in self.parties:
            cache = self.library.cache(party)
            if cache is not None:
                yield from self._true(party, cache)
            self.library.forget()

    def accuracies(self) -> dict[tuple, float]:
        """Of each trained network, by the key of its party."""
        known = [(party, self.library.cache(party)) for party in self.parties if party.kind == "trained"]
        return {party.key: accuracy_of(cache) for party, cache in known if cache is not None}

    def _true(self, party: Party, cache: FeatureCache, epoch: int | None = None) -> Iterator[tuple[Cell, Finding]]:
        known = against_truth(party, cache, self.library, self.methods, self.confidence, epoch)
        for name, finding, facts in known:
            method, _, layer = name.partition("/")
            cell = (method, layer, finding.result.measure, "kdscope", EVERYWHERE)
            self.facts[finding.pair.key, epoch, cell] = facts
            yield cell, finding

    def gallery(self, roles: Cast) -> tuple[str, Pictures | None]:
        """The kind of map that is shown, and some images with the maps of the first teacher and its students."""
        method, parties = (
            next(name for name in (*SHOWN, *self.methods) if name in self.methods),
            gallery.shown(self.every),
        )
        if len(parties) < 2:
            return method, None
        caches = [self.library.cache(party) for party in parties]
        last = [
            [name for name in self.library.names(cache) if name.partition("/")[0] == method][-1] for cache in caches
        ]
        maps = [self.library.maps(cache, name) for cache, name in zip(caches, last, strict=True)]
        nothing = np.full(len(maps[0]), np.nan)
        values = {"overlap": np.stack([nothing, *(map_overlap(maps[0], own) for own in maps[1:])], axis=1)}
        if MASK in caches[0].names:
            masks = caches[0].array(MASK)[:]
            values["inside"] = np.stack([energy_inside(own, masks) for own in maps], axis=1)
        self.library.forget()
        title = " ~ ".join(dict.fromkeys(last))
        return method, gallery.pictures(title, roles, dict(zip(parties, maps, strict=True)), caches[0], MASK, values)

    def _layers(self, a: FeatureCache | Excerpt, b: FeatureCache, method: str) -> list[tuple[str, str]]:
        found = matched(self.library.names(a), self.library.names(b), method)
        return found if self.every_layer or method != "grad-cam" else found[-1:]

    def _overlap(
        self,
        pair: Pair,
        a: FeatureCache | Excerpt,
        b: FeatureCache,
        name_a: str,
        name_b: str,
        epoch: int | None = None,
    ) -> Iterator[tuple[Cell, Result]]:
        library = self.library
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
            cell = (name_a.partition("/")[0], layer, measure, "kdscope", EVERYWHERE if area != area else area)
            level = float(chance[k - len(OVERLAPS)]) if k >= len(OVERLAPS) else float("nan")
            self.facts[pair.key, epoch, cell] = {"grid": f"{grid[0]}x{grid[1]}", "chance": level}
            yield cell, Result(
                measure, float(means[k]), values[:, k] if k < len(OVERLAPS) else None, known, float(lows[k]),
                float(highs[k]), source=MEASURES[measure].card.citation, excluded=len(values) - known,
            )  # fmt: skip

    def _guo(self, pair: Pair) -> Iterator[tuple[Cell, Result]]:
        """IoU of the all-class maps as in the code of Guo et al.; of three networks where there are two teachers."""
        found = guo_iou(self.library, (*_members(pair.a), pair.b), self.confidence, pair.b.kind == "shuffled")
        if found is not None:
            layer, size, result = found
            cell = ("cam-sum", layer, "threshold-iou", GUO, EVERYWHERE)
            self.facts[pair.key, None, cell] = {"grid": f"{size[0]}x{size[1]}", "chance": float("nan")}
            yield cell, result


def guo_iou(
    library: MapLibrary, parties: Sequence[Party], confidence: float, shuffled: bool = False
) -> tuple[str, tuple[int, int], Result] | None:
    """The layer, the size and the IoU of the all-class maps of two networks or more; None where one has none.

    With `shuffled` the images of the last are exchanged within their class.
    """
    caches = [library.cache(party) for party in parties]
    if None in caches:
        return None
    names = [next((n for n in library.names(c) if n.startswith("cam-sum/")), None) for c in caches]
    if None in names:
        return None
    maps = [library.maps(cache, name) for cache, name in zip(caches, names, strict=True)]
    if shuffled:
        maps[-1] = maps[-1][derangement(len(maps[-1]), within=caches[0].labels)]
    size = tuple(caches[0].identity["transform"]["size"])
    state = ThresholdIoU(GUO, size, GUO_BATCH)
    for start in range(0, len(maps[0]), GUO_BATCH):
        state.update(*(each[start : start + GUO_BATCH] for each in maps))
    return names[0].partition("/")[2], size, state.compute(confidence)


def _members(party: Party) -> list[Party]:
    return [Party((subject,), party.kind) for subject in party.subjects]
