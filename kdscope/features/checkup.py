"""What can go wrong between a network and the numbers that are read from it, tried on the network itself.

Every test gives numbers, one for each layer or map it concerns; what they mean is for `kdscope.analyses.doctor` to say.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.data import Dataset
from kdscope.data.batches import Batch, Batches
from kdscope.errors import KDScopeError
from kdscope.features.extract import default_layers
from kdscope.features.hooks import Capture, unwrap
from kdscope.features.maps import MapProducer
from kdscope.models import classifier
from kdscope.models.watch import evaluating

IMAGES = 32
FEW = 4  # images whose every activation, or gradient, is held
Findings = dict[str, dict[str, float]]


def check_network(
    model: nn.Module, dataset: Dataset, split: str = "test", *, images: int = IMAGES, device: str = "cpu"
) -> Findings:
    """Run a network over some images of a split in several ways that should agree. It is given back as it was.

    Args:
        model: images [B, 3, H, W] to logits [B, C].
        images: how many of the split, evenly strided.

    Returns:
        A number for each name, by test; lengths are relative to the largest absolute value of the right tensor:

        - weights: parameters and buffers that hold NaN or infinity, and how many such numbers.
        - finite: images whose map is NaN or infinite, for each default layer and "logits".
        - determinism: how far two passes are apart ("logits").
        - batch-independence: how far the logits are from those of the same images one by one (the first few).
        - statistics: buffers that a pass in eval mode changed, and by how much; "" if there is none.
        - in-place: for each module, how far what a plain hook holds at the end is from what it was handed.
        - capture: the same of kdscope's own hooks, for the default layers.
        - float16: the largest absolute value of each default layer, in units of the largest of float16 (65504).
        - gauge: how far each kind of attention map moves when one vector is added to all rows of the head.

    >>> from kdscope.data import load
    >>> from kdscope.models import build
    >>> found = check_network(build("resnet8", num_classes=10), load("digits:8"), images=8)
    >>> found["determinism"], max(found["capture"].values()), sorted(found["gauge"])[0]
    ({'logits': 0.0}, 0.0, 'activation/layer1')
    """
    part = dataset.split(split)
    rows = torch.arange(min(images, len(part))) * len(part) // min(images, len(part))
    batches = Batches(part.subset(rows), statistics=dataset, batch_size=len(rows), device=device)
    batch = batches.batch(torch.arange(len(rows)), 0)
    network = unwrap(model)
    home = next((weight.device for weight in network.parameters()), None)
    try:
        with evaluating(network):
            network.to(device)
            found = {"weights": _bad_weights(network), **_passes(network, batch.image)}
            if any(found["weights"].values()) or found["finite"]["logits"]:
                return found  # the rest would be NaN against NaN
            found |= {"in-place": plain_hooks(network, batch.image[:FEW])}
            layers = default_layers(network, part.shape[-1])
            found |= _of_layers(network, layers, batch.image)
            few = batches.batch(torch.arange(min(FEW, len(rows))), 0)
            found["gauge"] = gauge_of_maps(network, few, part.shape[-1])
            return found
    finally:
        if home is not None:
            network.to(home)


def plain_hooks(model: nn.Module, images: Tensor) -> dict[str, float]:
    """For each module that gives a tensor, how far its output is at the end of the pass from what it was (0: the same).

    What an operation in place has overwritten since is caught wrong by a hook that does not clone.

    >>> net = nn.Sequential(nn.BatchNorm2d(1), nn.ReLU(inplace=True), nn.Flatten()).eval()
    >>> moved = plain_hooks(net, torch.tensor([[[[-1.0, 0.5]]]]))
    >>> moved["0"] > 0.9, moved["1"]
    (True, 0.0)
    """
    held: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                held[name] = (output, output.clone())

        return hook

    handles = [m.register_forward_hook(keep(name)) for name, m in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: apart(now, then) for name, (now, then) in held.items()}


def gauge_of_maps(model: nn.Module, batch: Batch, image_size: int, seed: int = 0) -> dict[str, float]:
    """How far each attention map METHOD/LAYER moves with the gauge of the head; {} without a linear head or maps."""
    try:
        head = model.get_submodule(classifier(model, image_size))
        before = _maps(model, batch, image_size)
        with moved_gauge(head, seed):
            after = _maps(model, batch, image_size)
    except KDScopeError:
        return {}
    return {name.removeprefix("maps/"): apart(after[name], value) for name, value in before.items()}


@contextmanager
def moved_gauge(head: nn.Linear, seed: int = 0) -> Iterator[None]:
    """One random vector, three times as long as a row, added to all rows of a head: no probability changes."""
    kept = head.weight.detach().clone()
    vector = torch.randn(kept.shape[1], generator=torch.Generator().manual_seed(seed)).to(kept)
    vector *= 3 * kept.norm(dim=1).mean() / vector.norm()
    try:
        with torch.no_grad():
            head.weight.add_(vector)
        yield
    finally:
        with torch.no_grad():
            head.weight.copy_(kept)


def apart(now: Tensor, then: Tensor) -> float:
    """Largest |now - then|, relative to the largest |then|; infinite where one of them is no number.

    >>> apart(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    0.5
    """
    now, then = now.detach().double(), then.detach().double()
    if now.shape != then.shape:
        return float("inf")
    gap, size = float((now - then).abs().max()), float(then.abs().max())
    return 0.0 if gap == 0 else (gap / size if size > 0 and gap == gap else float("inf"))


def _maps(model: nn.Module, batch: Batch, image_size: int) -> dict[str, Tensor]:
    learns = {weight: weight.requires_grad for weight in model.parameters()}
    try:
        for weight in learns:
            weight.requires_grad_(False)
        with torch.enable_grad(), MapProducer(model, image_size) as producer:
            return {name: value for name, value in producer(batch).items() if name.startswith("maps/")}
    finally:
        for weight, learned in learns.items():
            weight.requires_grad_(learned)


def _bad_weights(model: nn.Module) -> dict[str, float]:
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: float((~value.isfinite()).sum())
        for name, value in held.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    }


def _passes(model: nn.Module, images: Tensor) -> Findings:
    before = {name: value.clone() for name, value in model.named_buffers()}
    first, second = model(images), model(images)
    changed = {name: apart(value.float(), before[name].float()) for name, value in model.named_buffers()}
    singly = torch.cat([model(one[None]) for one in images[:FEW]])
    return {
        "finite": {"logits": float((~first.isfinite()).any(1).sum())},
        "determinism": {"logits": apart(second, first)},
        "batch-independence": {"logits": apart(singly, first[:FEW])},
        "statistics": {name: gap for name, gap in changed.items() if gap} or {"": 0.0},
    }


def _of_layers(model: nn.Module, layers: list[str], images: Tensor) -> Findings:
    """The default layers as kdscope catches them: finite, in the range of float16, and not overwritten."""
    bad, largest = dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 0.0)
    truth: dict[str, Tensor] = {}
    with Capture(model, layers, detach=True) as capture:
        for start in range(0, len(images), 16):
            features = capture(images[start : start + 16])
            for name, value in features.maps.items():
                flat = value.flatten(1).double()
                bad[name] += float((~flat.isfinite()).any(1).sum())
                largest[name] = max(largest[name], float(flat.nan_to_num().abs().max()) / 65504)
    with Capture(model, layers, detach=True) as capture:
        handles = [
            model.get_submodule(name).register_forward_hook(
                lambda m, i, output, name=name: truth.__setitem__(name, output.detach().clone())
            )
            for name in layers
            if name in dict(model.named_modules())
        ]
        try:
            caught = capture(images[:FEW]).maps
        finally:
            for handle in handles:
                handle.remove()
    same = {name: apart(caught[name], value) for name, value in truth.items() if isinstance(value, Tensor)}
    return {"finite": {"logits": 0.0, **bad}, "float16": largest, "capture": same}
