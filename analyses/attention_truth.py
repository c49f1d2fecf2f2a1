"""Each network's maps against the true masks, where caches have them; the floor is the mask's share of the image."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kdscope.analyses.cast import Pair, Party
from kdscope.analyses.compare import Finding
from kdscope.analyses.map_library import MASK, MapLibrary
from kdscope.features.cache import FeatureCache
from kdscope.measures import MEASURES
from kdscope.measures.joint import bootstrap_columns
from kdscope.measures.map_truth import energy_inside, left_out, mask_share, pointing_game
from kdscope.measures.result import Result

TRUTH = "truth"
CONTROL = "floor: the mask's share of the image"
MEASURED = {"pointing-game": pointing_game, "energy-inside": energy_inside}


def against_truth(
    party: Party,
    cache: FeatureCache,
    library: MapLibrary,
    methods: Sequence[str],
    confidence: float,
    epoch: int | None = None,
) -> Iterator[tuple[str, Finding, dict[str, Any]]]:
    """For each kind of map at its last layer: the map's name, what was found, and the grid and who is left out."""
    if MASK not in cache.names:
        return
    masks = cache.array(MASK)[:]
    share = mask_share(masks)
    pair = Pair(TRUTH, party, party)
    for method in methods:
        name = library.last(cache, method)
        maps = library.maps(cache, name)
        values = np.stack([each(maps, masks) for each in MEASURED.values()], axis=1)
        gains = values - share[:, None]
        means, lows, highs = bootstrap_columns(np.concatenate([values, gains], axis=1), confidence=confidence)
        for k, (measure, measured) in enumerate(MEASURED.items()):
            known = int(np.count_nonzero(~np.isnan(values[:, k])))
            g = k + len(MEASURED)
            result = Result(
                measure, float(means[k]), values[:, k], known, float(lows[k]), float(highs[k]),
                floor=float(np.nanmean(share)), control=CONTROL, source=MEASURES[measure].card.citation,
                excluded=len(values) - known,
            )  # fmt: skip
            gain = replace(
                result, value=float(means[g]), ci_low=float(lows[g]), ci_high=float(highs[g]), per_sample=gains[:, k]
            )
            why = left_out(maps, masks, energy=measured is energy_inside)
            facts = {"grid": "x".join(map(str, maps.shape[1:])), "left_out": why}
            yield name, Finding(pair, result, gain, epoch=epoch), facts
