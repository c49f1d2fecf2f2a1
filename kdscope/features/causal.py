"""What only the network itself can say of its attributions, kept once: maps, their errors, and interventions by them.

`extract_causal` keeps for some images of a split, for each layer and baseline (a *map*, named `LAYER/BASELINE`):

    maps/integrated-gradients/MAP  [N, h, w]  signed, summed over channels      error/MAP, steps/MAP, change/MAP  [N]
    maps/activation/LAYER          [N, h, w]  where the features' energy lies   mask  [N, H, W], where it is known
    deletion/BY/MAP, insertion/BY/MAP  [N, F]  probability of the label; BY is `own` or one of `CONTROLS`
    meta/image  uint8 [N, 3, h, w]  thumbnails of the images as they were shown

What the maps do to another network: `kdscope.features.transfer`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdscope.attention.activation import activation_map
from kdscope.attention.baselines import baseline
from kdscope.attention.cut import Cut
from kdscope.attention.integrated import Integrated, integrated_gradients
from kdscope.attention.intervention import MODES, intervention_curve
from kdscope.attention.randomised import randomised
from kdscope.attention.surrogate import smooth_surrogate
from kdscope.attention.targets import check_target
from kdscope.data import Batches, Dataset, Split
from kdscope.data.batches import Batch
from kdscope.data.chance import Chance
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.hooks import unwrap
from kdscope.features.produce import Job, Producer, extract_arrays
from kdscope.features.thumbnails import THUMBNAIL, thumbnails

SHARES = tuple(k / 10 for k in range(11))
CONTROLS = ("random", "smooth-random", "randomised-weights")
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
        baselines: `mean`, `black`, `blur`, `train:K` (K training images; 8 if K is not given), or `zero`, which is
            that of the layer itself: no activation at all, from where the masks of `cakd` are made.
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
        self.colours = dataset.mean, dataset.std
        self.starts = {name: _baseline(name, dataset) for name in baselines}
        self.cuts: dict[tuple[int, str], Cut] = {}

    def __enter__(self) -> "_Causal":
        self.control = randomised(self.model)
        for weight in self.control.parameters():
            weight.requires_grad_(False)
        return self

    def identity(self, first: Mapping[str, Tensor]) -> dict[str, Any]:
        how = {"method": "integrated-gradients", "baselines": list(self.starts), "class": "label", **self.how}
        how |= {"controls": list(CONTROLS), "shares": list(SHARES)}
        return {"layers": list(self.layers), "attribution": how}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            made = {"logits": self.model(batch.image).float()}
        made[THUMBNAIL] = thumbnails(batch.image, *self.colours)
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
                by = {"own": own, "random": _chance(batch.index, own), "smooth-random": _smooth(batch.index, own)}
                by["randomised-weights"] = control.map().float()
                made[f"maps/randomised-weights/{which}"] = by["randomised-weights"]
                for mask, attribution in by.items():
                    made |= curves(self.model, batch, attribution, self.how["imputation"], f"{mask}/{which}")
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


def curves(model: nn.Module, batch: Batch, attribution: Tensor, imputation: str, name: str) -> dict[str, Tensor]:
    """Deletion and insertion curves [B, F] of a batch by an attribution [B, h, w], as MODE/NAME."""
    return {
        f"{mode}/{name}": intervention_curve(
            model, batch.image, attribution, batch.label, mode=mode, imputation=imputation, shares=SHARES
        )
        for mode in MODES
    }


def _baseline(name: str, dataset: Dataset) -> Any:
    """`kdscope.attention.baselines.baseline`, with the training images that `train:K` stands for."""
    kind, _, count = name.partition(":")
    if kind == "zero":
        return lambda images: None
    if kind != "train":
        return baseline(name, dataset.mean, dataset.std)
    k = int(count) if count.isdigit() else 8 if not count else 0
    if not 1 <= k <= len(dataset.train):
        raise KDScopeError(f"baseline {name!r}: train:K takes K from 1 to {len(dataset.train)}")
    shown = Batches(dataset.train, statistics=dataset, batch_size=k).batch(spread(len(dataset.train), max(2, k))[:k])
    return baseline("train", dataset.mean, dataset.std, shown.image)


def _chance(index: Tensor, like: Tensor) -> Tensor:
    """Random maps on the grid of `like` [B, h, w]: a function of the image alone."""
    return _uniform(index, like.shape[1:], "causal-random-mask").to(like)


def _smooth(index: Tensor, like: Tensor) -> Tensor:
    """Random maps as smooth as those of `like` [B, h, w]; the chance in them is a function of the image alone."""
    height, width = like.shape[1:]
    return smooth_surrogate(like, _uniform(index, (2 * height, 2 * width), "causal-smooth-mask").to(like.device))


def _uniform(index: Tensor, grid: Sequence[int], stream: str) -> Tensor:
    each = grid[0] * grid[1]
    counter = index.cpu()[:, None] * each + torch.arange(each)
    return Chance(0, 0, counter).uniform(stream).view(-1, *grid)
