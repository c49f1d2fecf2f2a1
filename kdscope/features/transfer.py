"""Interventions on one network by the maps of *another* (a teacher's), or by its own maps of other images.

`extract_transfer` keeps `deletion/MAP` and `insertion/MAP`, the probability of the label [N, F], for each map of a
causal cache (`kdscope.features.causal`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from kdscope.data import Dataset, Split
from kdscope.data.batches import Batch
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.causal import curves, map_names
from kdscope.features.hooks import unwrap
from kdscope.features.produce import Job, Producer, extract_arrays


def extract_transfer(
    model: nn.Module,
    dataset: Dataset,
    split: str | Split,
    out: str | Path,
    *,
    maps: FeatureCache,
    others: bool = False,
    **options: Any,
) -> FeatureCache:
    """What deleting and inserting by the maps of the causal cache `maps` does to another network, image by image.

    Args:
        others: by the map of another image each: a control that has the shape and smoothness of a map.
        options: of `kdscope.features.produce.Job`.

    Raises:
        KDScopeError: maps of another split or view, or of data that differ.
    """
    part = dataset.split(split) if isinstance(split, str) else split
    options = {"batch_size": 64, **options}
    wanted = {"data": part.fingerprint, "split": part.name, "view": options.get("view", "none")}
    found = {"data": maps.identity["data"], "split": maps.split, "view": maps.view}
    if wanted != found:
        differ = next(name for name in wanted if wanted[name] != found[name])
        raise KDScopeError(f"the maps in {maps.path} are of other images: their {differ} is {found[differ]!r}")
    options["limit"] = torch.from_numpy(maps.index)
    return extract_arrays(model, dataset, part, out, _Transfer(unwrap(model), maps, others), Job(**options))


class _Transfer(Producer):
    kind: ClassVar[str] = "transfer"

    def __init__(self, model: nn.Module, maps: FeatureCache, others: bool):
        self.model, self.maps, self.others = model, maps, others
        count = len(maps)
        self.row = np.roll(np.arange(count), 1) if others else np.arange(count)
        self.names = map_names(maps)

    def identity(self, first: Mapping[str, Tensor]) -> dict[str, Any]:
        how = {**self.maps.identity["attribution"], "maps": self.maps.key, "others": self.others}
        return {"layers": list(self.maps.layers), "attribution": how}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        made = {"logits": self.model(batch.image).float()}
        at = np.minimum(np.searchsorted(self.maps.index, batch.index.cpu().numpy()), len(self.maps) - 1)
        for which in self.names:
            shown = self.maps.array(f"maps/integrated-gradients/{which}")[self.row[at]]
            attribution = torch.from_numpy(shown).to(batch.image)
            made |= curves(self.model, batch, attribution, self.maps.identity["attribution"]["imputation"], which)
        return made
