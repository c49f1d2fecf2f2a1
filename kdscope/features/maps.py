"""Attention maps of one network, each at its native resolution: what `kdscope extract --maps` keeps.

maps/activation/LAYER    sum of |a|^2 over channels, at every stage: what the AT loss transfers
maps/grad-cam/LAYER      Grad-CAM of a class, at every stage
maps/cam/LAYER           class activation map, at the last stage, where a linear head reads its average
maps/cam-sum/LAYER       that of Guo et al., for their numbers only (`kdscope.attention.cam.SUM_WARNING`)
maps/cls-attention/LAYER, maps/rollout/all    of a vision transformer
meta/mask                the true foreground of the image as it was shown, where it is known: uint8 [H, W]
meta/image               a thumbnail of the image as it was shown: uint8 [3, h, w], at most 64 pixels a side
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.attention.activation import activation_map
from kdscope.attention.cam import cam_sum, class_activation_map, pools_into
from kdscope.attention.grad_cam import GradCam
from kdscope.attention.tokens import token_grid
from kdscope.attention.transformer import AttentionWeights, cls_attention, is_transformer, rollout
from kdscope.data import Dataset, Split
from kdscope.data.batches import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.cache import FeatureCache
from kdscope.features.hooks import unwrap
from kdscope.features.plan import Plan
from kdscope.features.produce import Job, Producer, extract_arrays
from kdscope.features.thumbnails import THUMBNAIL, thumbnails
from kdscope.models import classifier, stages

CONVOLUTIONAL = ("activation", "cam", "cam-sum", "grad-cam")
TRANSFORMER = ("activation", "cls-attention", "rollout")
METHODS = tuple(dict.fromkeys((*CONVOLUTIONAL, *TRANSFORMER)))
ABOUT = ("label", "predicted")


class MapProducer(Producer):
    """Logits and attention maps of a batch; arguments as those of `extract_maps`.

    Args:
        colours: mean and standard deviation of the images' channels, for thumbnails of them; None keeps none.
    """

    kind = "maps"

    def __init__(
        self,
        model: nn.Module,
        image_size: int,
        methods: Sequence[str] | None = None,
        layers: Sequence[str] | None = None,
        about: str = "label",
        target: str = "centred-logit",
        masks: Tensor | None = None,
        colours: tuple[Sequence[float], Sequence[float]] | None = None,
    ):
        self._model, self._about, self._target = unwrap(model), about, target
        self._masks, self._colours = masks, colours
        if about not in ABOUT:
            raise unknown("class of a map", about, ABOUT)
        self._tokens = is_transformer(self._model)
        able = TRANSFORMER if self._tokens else CONVOLUTIONAL
        for method in methods or ():
            if method not in METHODS:
                raise unknown("map", method, METHODS)
            if method not in able:
                what = "a vision transformer" if self._tokens else "this network: it has no attention blocks"
                raise KDScopeError(f"map {method!r} is not known for {what}; it has {', '.join(able)}")
        self._asked, self._methods = methods is not None, list(methods or able)
        self._attention = AttentionWeights(self._model)
        if layers is None:
            blocks = self._attention.blocks
            layers = [blocks[-1].rpartition(".")[0]] if self._tokens else stages(self._model, image_size)
        self._catch = GradCam(self._model, layers)
        self._head = self._linear_head(image_size) if self._wants("cam") or self._wants("cam-sum") else None
        self._checked = False
        self.gradients = "grad-cam" in self._methods

    def __enter__(self) -> "MapProducer":
        self._catch.__enter__()
        if self._tokens:
            self._attention.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._catch.__exit__(kind, error, trace)
        self._attention.__exit__(kind, error, trace)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        logits = self._catch.forward(batch.image) if self.gradients else self._model(batch.image)
        features = {layer: value.detach() for layer, value in self._catch.caught.items()}
        classes = batch.label if self._about == "label" else logits.detach().argmax(1)
        made = {"logits": logits.detach().float()}
        maps = self._of_tokens(features) if self._tokens else self._of_maps(features, logits, classes)
        made |= {f"maps/{name}": value.float() for name, value in maps.items()}
        if self._masks is not None:
            made["meta/mask"] = self._masks[batch.index.cpu()].to(torch.uint8)
        if self._colours is not None:
            made[THUMBNAIL] = thumbnails(batch.image, *self._colours)
        self._catch.caught = {}
        return made

    def identity(self, first: Mapping[str, Tensor]) -> dict[str, Any]:
        maps = [name.removeprefix("maps/") for name in first if name.startswith("maps/")]
        return {
            "layers": maps, "reduction": "map", "dtype": "float32", "masks": "meta/mask" in first,
            "thumbnails": THUMBNAIL in first, "target": {"score": self._target, "class": self._about},
        }  # fmt: skip

    def _of_maps(self, features: dict[str, Tensor], logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
        for layer, value in features.items():
            if value.dim() != 4:
                raise KDScopeError(f"layer {layer!r} gives {list(value.shape)}, which is no map [B, C, H, W]")
        last = self._catch.layers[-1]
        if not self._checked:
            self._check_pooling(features[last].float(), logits.detach().float(), last)
        maps = {f"activation/{k}": activation_map(v) for k, v in features.items()} if self._wants("activation") else {}
        if self._wants("cam"):
            maps[f"cam/{last}"] = class_activation_map(features[last].float(), self._head.weight.float(), classes)
        if self._wants("cam-sum"):
            maps[f"cam-sum/{last}"] = cam_sum(features[last].float(), self._head.weight.float())
        if self.gradients:
            found = self._catch.maps(logits, classes, self._target)
            maps |= {f"grad-cam/{layer}": value for layer, value in found.items()}
        return {name: value.detach() for name, value in maps.items()}

    def _of_tokens(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        maps = {}
        if self._wants("activation"):
            for layer, value in features.items():
                leading, rows, columns = token_grid(self._model, value.shape[1])
                grid = value[:, leading:].transpose(1, 2).unflatten(2, (rows, columns))
                maps[f"activation/{layer}"] = activation_map(grid)
        leading, grid = self._attention.grid()
        weights = self._attention.weights
        if self._wants("cls-attention") and (leading or self._asked):
            maps[f"cls-attention/{self._attention.blocks[-1]}"] = cls_attention(weights[-1], leading, grid)
        if self._wants("rollout"):
            maps["rollout/all"] = rollout(weights, leading, grid)
        return maps

    def _wants(self, method: str) -> bool:
        return method in self._methods

    def _linear_head(self, image_size: int) -> nn.Linear | None:
        try:
            return self._model.get_submodule(classifier(self._model, image_size))
        except KDScopeError as error:
            if self._asked:
                raise KDScopeError(f"a class activation map needs a linear head: {error}") from error
            self._leave_out()
            return None

    def _check_pooling(self, feature: Tensor, logits: Tensor, layer: str) -> None:
        """The maps of the head are left out where they do not explain it, or refused where they were asked for."""
        self._checked = True
        if self._head is None or pools_into(feature, logits, self._head):
            return
        if self._asked:
            raise KDScopeError(
                f"no class activation map: the logits are not a linear head's of the average of layer {layer!r}; "
                "ask for grad-cam"
            )
        self._leave_out()

    def _leave_out(self) -> None:
        self._methods = [method for method in self._methods if not method.startswith("cam")]


def extract_maps(
    model: nn.Module,
    dataset: Dataset,
    split: str | Split,
    out: str | Path,
    *,
    methods: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    about: str = "label",
    target: str = "centred-logit",
    **options: Any,
) -> FeatureCache | Plan:
    """Write the attention maps of one view of one split to a cache, with logits and, where known, the true masks.

    Args:
        model, dataset, split, out: as in `kdscope.features.extract.extract_features`.
        methods: "activation", "cam", "cam-sum", "grad-cam"; of a transformer "activation", "cls-attention", "rollout".
            By default all that the network has; class activation maps need a linear head on an average.
        layers: module names; by default the stages. Class activation maps are of the last one.
        about: which class a class map is about: "label", so that two networks are asked the same, or "predicted".
        target: of Grad-CAM: "centred-logit" or "log-prob" (which fades where the network is sure).
        options: view, batch_size, device, identity, ... (`kdscope.features.produce.Job`).

    Returns:
        The cache, of kind "maps": `cache.array("maps/cam/layer3")` is [N, h, w], float32.

    Raises:
        KDScopeError: an unknown map; a map that the network does not have; and as `extract_features`.

    >>> from kdscope.data import load
    >>> from kdscope.models import build
    >>> cache = extract_maps(build("resnet8", num_classes=10), load("digits"), "test", "maps", methods=["cam"])
    >>> cache.array("maps/cam/layer3").shape[1:], cache.kind
    ((4, 4), 'maps')
    """
    part = dataset.split(split) if isinstance(split, str) else split
    job = Job(**options)
    masks = part.masks if job.view == "none" else None  # another view may have moved the pixels
    colours = (dataset.mean, dataset.std)
    producer = MapProducer(model, part.shape[-1], methods, layers, about, target, masks, colours)
    return extract_arrays(model, dataset, part, out, producer, job)
