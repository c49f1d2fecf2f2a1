"""What only the network itself can say of its attributions, kept once: maps, their errors, and interventions by them.

`extract_causal` keeps for some images of a split, for each layer and baseline (a *map*, named `LAYER/BASELINE`):

    maps/integrated-gradients/MAP  [N, h, w]  signed, summed over channels      error/MAP, steps/MAP, change/MAP  [N]
    maps/activation/LAYER          [N, h, w]  where the features' energy lies   mask  [N, H, W], where it is known
    deletion/BY/MAP, insertion/BY/MAP  [N, F]  probability of the label; BY is `own`, `random` or `randomised-weights`

`extract_transfer` keeps the same curves of one network by the maps of *another* (a teacher's), or by its own maps of
other images: `deletion/MAP`, `insertion/MAP`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from kdscope.attention.activation import activation_map
from kdscope.attention.baselines import baseline
from kdscope.attention.cut import Cut
from kdscope.attention.integrated import Integrated, integrated_gradients
from kdscope.attention.intervention import MODES, intervention_curve
from kdscope.attention.randomised import randomised
from kdscope.attention.targets import check_target
from kdscope.data import Batches, Dataset, Split
from kdscope.data.batches import Batch
from kdscope.data.chance import Chance
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.hooks import unwrap
from kdscope.features.produce import Job, Producer, extract_arrays

SHARES = tuple(k / 10 for k in range(11))
IMAGES = 256
INPUT = "input"


def extract_causal(
    model: nn.Module,
    dataset: Dataset,
    split: str | Split,
    out: str | Path,
    *,
    images: int = IMAGES,
    layers: Sequence[str] | None = None,
    baselines: Sequence[str] = ("mean",),
    target: str = "centred-logit",
    imputation: str = "noisy-linear",
    tolerance: float = 0.01,
    most: int = 512,
    **options: Any,
) -> FeatureCache:
    """Attributions of a network by integrated gradients, and what deleting and inserting by them does to it.

    Args:
        model, dataset, split, out: as in `kdscope.features.extract.extract_features`.
        images: how many, evenly spread over the split.
        layers: module names, or `input`; default: the input and the last stage.
        baselines: `mean`, `black`, `blur`, `train:K` (K training images; 8 if K is not given).
        target: of the label's class, as in `kdscope.attention.targets`.
        imputation: as in `kdscope.attention.intervention`.
        tolerance, most: of the completeness error, and of steps.
        options: of `kdscope.features.produce.Job`.

    Raises:
        KDScopeError: an unknown layer, baseline, target or imputation, and what an extraction may raise.
    """
    check_target(target)
    part = dataset.split(split) if isinstance(split, str) else split
    options = {"batch_size": 64, "limit": spread(len(part), images), **options}
    network = unwrap(model)
    if layers is None:
        layers = (INPUT, last_stage(network, dataset.image_size))
    how = {"target": target, "imputation": imputation, "tolerance": tolerance, "most": most}
    producer = _Causal(network, dataset, part, tuple(layers), tuple(baselines), how, options.get("view", "none"))
    return extract_arrays(model, dataset, part, out, producer, Job(**options))


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


def spread(count: int, most: int) -> Tensor:
    """At most `most` positions, evenly spread over `count`: int64, ascending.

    >>> spread(10, 4).tolist(), spread(3, 4).tolist()
    ([0, 2, 5, 7], [0, 1, 2])
    """
    if most < 2:
        raise KDScopeError(f"{most} images are too few for an interval; give at least 2")
    return torch.arange(count) if count <= most else torch.arange(most) * count // most


def last_stage(model: nn.Module, image_size: int) -> str:
    """The deepest module that gives stage maps."""
    from kdscope.models import stages

    return stages(model, image_size)[-1]


def map_names(cache: FeatureCache) -> list[str]:
    """The maps of a causal cache, `LAYER/BASELINE`."""
    how = cache.identity["attribution"]
    return [f"{layer}/{name}" for layer in cache.layers for name in how["baselines"]]


class _Causal(Producer):
    kind: ClassVar[str] = "causal"
    gradients: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        part: Split,
        layers: tuple[str, ...],
        baselines: tuple[str, ...],
        how: dict[str, Any],
        view: str,
    ):
        self.model, self.layers, self.how = model, layers, how
        self.masks = part.masks if view == "none" else None  # a view moves the object, and its mask is not moved
        self.starts = {name: _baseline(name, dataset) for name in baselines}
        self.cuts: dict[tuple[int, str], Cut] = {}

    def __enter__(self) -> "_Causal":
        self.control = randomised(self.model)
        for weight in self.control.parameters():
            weight.requires_grad_(False)
        return self

    def identity(self, first: Mapping[str, Tensor]) -> dict[str, Any]:
        how = {"method": "integrated-gradients", "baselines": list(self.starts), "class": "label", **self.how}
        return {"layers": list(self.layers), "attribution": {**how, "shares": list(SHARES)}}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            made = {"logits": self.model(batch.image).float()}
        if self.masks is not None:
            made["mask"] = self.masks[batch.index.cpu()].to(batch.image)
        for layer in self.layers:
            if layer != INPUT:
                made[f"maps/activation/{layer}"] = activation_map(
                    self._cut(self.model, layer, batch).below(batch.image)
                )
            for name in self.starts:
                which = f"{layer}/{name}"
                found = self._attribution(self.model, layer, name, batch, self.how["tolerance"], self.how["most"])
                # That of the control need not be complete: it is random in any case.
                control = self._attribution(self.control, layer, name, batch, 1.0, 16)
                own = found.map().float()
                made[f"maps/integrated-gradients/{which}"] = own
                made |= {f"error/{which}": found.error, f"steps/{which}": found.steps, f"change/{which}": found.change}
                by = {"own": own, "random": _chance(batch.index, own), "randomised-weights": control.map().float()}
                made[f"maps/randomised-weights/{which}"] = by["randomised-weights"]
                for mask, attribution in by.items():
                    made |= _curves(self.model, batch, attribution, self.how["imputation"], f"{mask}/{which}")
        return made

    def _attribution(
        self, model: nn.Module, layer: str, name: str, batch: Batch, tolerance: float, most: int
    ) -> Integrated:
        return integrated_gradients(
            model, batch.image, batch.label, self.starts[name](batch.image),
            layer=None if layer == INPUT else self._cut(model, layer, batch), target=self.how["target"],
            tolerance=tolerance, most=most,
        )  # fmt: skip

    def _cut(self, model: nn.Module, layer: str, batch: Batch) -> Cut:
        key = (id(model), layer)
        if key not in self.cuts:
            self.cuts[key] = Cut(model, layer, batch.image)
        return self.cuts[key]


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
            made |= _curves(self.model, batch, attribution, self.maps.identity["attribution"]["imputation"], which)
        return made


def _curves(model: nn.Module, batch: Batch, attribution: Tensor, imputation: str, name: str) -> dict[str, Tensor]:
    return {
        f"{mode}/{name}": intervention_curve(
            model, batch.image, attribution, batch.label, mode=mode, imputation=imputation, shares=SHARES
        )
        for mode in MODES
    }


def _baseline(name: str, dataset: Dataset) -> Any:
    """`kdscope.attention.baselines.baseline`, with the training images that `train:K` stands for."""
    kind, _, count = name.partition(":")
    if kind != "train":
        return baseline(name, dataset.mean, dataset.std)
    k = int(count) if count.isdigit() else 8 if not count else 0
    if not 1 <= k <= len(dataset.train):
        raise KDScopeError(f"baseline {name!r}: train:K takes K from 1 to {len(dataset.train)}")
    shown = Batches(dataset.train, statistics=dataset, batch_size=k).batch(spread(len(dataset.train), max(2, k))[:k])
    return baseline("train", dataset.mean, dataset.std, shown.image)


def _chance(index: Tensor, like: Tensor) -> Tensor:
    """Random maps on the grid of `like` [B, h, w]: a function of the image alone."""
    each = like[0].numel()
    counter = index.cpu()[:, None] * each + torch.arange(each)
    return Chance(0, 0, counter).uniform("causal-random-mask").view(like.shape).to(like)
