"""Which template each region of an image is nearest to in the KD layers of a network, and what the network is without.

`extract_templates` keeps for every image, for each layer (named as in the network):

    templates/code/LAYER      int32 [N, h, w]    the template with the largest assignment p, -1 where none is above 0
    templates/share/LAYER     float32 [N, h, w]  its share of all assignments there
    ablation/CHANGE           float32 [N, C]     logits when all layers are changed; with several layers also
    ablation/CHANGE@LAYER                        when that one alone is
    meta/image                uint8 [N, 3, H, W] thumbnails

CHANGE is `alpha=A` (what the layer adds counts A times as much as in training), `mean` (what it adds is its mean over
training images, whatever the place) or `without-top-K` (in each place the K largest assignments are put to 0).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdscope.data import Batches, Dataset, Split
from kdscope.data.batches import Batch
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.causal import spread
from kdscope.features.hooks import unwrap
from kdscope.features.plan import Plan
from kdscope.features.produce import Job, Producer, extract_arrays
from kdscope.features.thumbnails import THUMBNAIL, thumbnails
from kdscope.methods.letkd import KDLayer, kd_layers

ALPHAS = (0.0, 0.25, 0.5, 0.75)
TOPS = (1, 4, 16, 64)
MEAN_OF = 512  # training images


def extract_templates(
    model: nn.Module,
    dataset: Dataset,
    split: str | Split,
    out: str | Path,
    *,
    alphas: Sequence[float] = ALPHAS,
    tops: Sequence[int] = TOPS,
    **options: Any,
) -> FeatureCache | Plan:
    """Templates of each region, and logits without parts of the layers; see above.

    Args:
        model, dataset, split, out: as in `kdscope.features.extract.extract_features`.
        alphas: for `alpha=A`. tops: for `without-top-K`.
        options: of `kdscope.features.produce.Job`.

    Raises:
        KDScopeError: a network without such layers, and what an extraction may raise.
    """
    job = Job(**{"batch_size": 64, **options})
    return extract_arrays(model, dataset, split, out, _Templates(unwrap(model), dataset, alphas, tops, job.device), job)


class _Templates(Producer):
    kind: ClassVar[str] = "templates"

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        alphas: Sequence[float],
        tops: Sequence[int],
        device: str | torch.device,
    ):
        self.model, self.dataset, self.device = model, dataset, device
        self.layers = dict(kd_layers(model))
        if not self.layers:
            raise KDScopeError(
                f"this {type(model).__name__} has no KD layer; templates are of runs of --method letkd-1 or letkd-2"
            )
        self.alphas, self.tops = tuple(map(float, alphas)), tuple(map(int, tops))

    def __enter__(self) -> "_Templates":
        """What each layer adds on average, over training images and places."""
        train = self.dataset.train
        part = train.subset(spread(len(train), MEAN_OF))
        sums = dict.fromkeys(self.layers, 0.0)
        count = 0
        for batch in Batches(part, self.dataset, batch_size=64, device=self.device).epoch():
            added = {}
            with contextlib.ExitStack() as stack:
                for name, layer in self.layers.items():
                    stack.enter_context(_hooked(layer.values, _note(added, name)))
                self.model(batch.image)
            for name, value in added.items():
                sums[name] = sums[name] + value.float().mean((2, 3)).sum(0)
            count += len(batch.image)
        self.means = {name: value / count for name, value in sums.items()}
        return self

    def identity(self, first: Mapping[str, Tensor]) -> dict[str, Any]:
        how = {"alphas": list(self.alphas), "tops": list(self.tops), "mean_of": MEAN_OF}
        templates = {name: layer.templates for name, layer in self.layers.items()}
        return {"layers": list(self.layers), "reduction": "templates", "target": None, "templates": templates, **how}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        with contextlib.ExitStack() as stack:
            for name, layer in self.layers.items():
                stack.enter_context(_hooked(layer.match, _note(found, name)))
            made = {"logits": self.model(batch.image).float()}
        made[THUMBNAIL] = thumbnails(batch.image, self.dataset.mean, self.dataset.std)
        for name, assignment in found.items():
            top, code = assignment.float().max(1)
            made[f"templates/code/{name}"] = torch.where(top > 0, code, -1).to(torch.int32)
            made[f"templates/share/{name}"] = top / assignment.float().sum(1).clamp_min(1e-12)
        for where in ["", *self.layers] if len(self.layers) > 1 else [""]:
            chosen = {name: layer for name, layer in self.layers.items() if where in ("", name)}
            for change, changes in self._changes(chosen).items():
                with contextlib.ExitStack() as stack:
                    for each in changes:
                        stack.enter_context(each)
                    made[f"ablation/{change}{where and '@'}{where}"] = self.model(batch.image).float()
        return made

    def _changes(self, layers: Mapping[str, KDLayer]) -> dict[str, list[Any]]:
        changes = {
            f"alpha={alpha:g}": [_alpha(layer, alpha * layer.alpha) for layer in layers.values()]
            for alpha in self.alphas
        }
        changes["mean"] = [_hooked(layer.values, _constant(self.means[name])) for name, layer in layers.items()]
        for k in self.tops:
            changes[f"without-top-{k}"] = [_hooked(layer.match, _without_top(k)) for layer in layers.values()]
        return changes


def _note(found: dict[str, Tensor], name: str) -> Callable[[Tensor], None]:
    def note(output: Tensor) -> None:
        found[name] = output.clone()

    return note


def _constant(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda output: value[None, :, None, None].to(output).expand_as(output)


def _without_top(k: int) -> Callable[[Tensor], Tensor]:
    def less(output: Tensor) -> Tensor:
        return output.scatter(1, output.topk(min(k, output.shape[1]), dim=1).indices, 0.0)

    return less


@contextlib.contextmanager
def _alpha(layer: KDLayer, alpha: float) -> Iterator[None]:
    before, layer.alpha = layer.alpha, alpha
    try:
        yield
    finally:
        layer.alpha = before


@contextlib.contextmanager
def _hooked(module: nn.Module, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    handle = module.register_forward_hook(lambda module, inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()
