"""Layers put behind (or before) modules of any network, in the module tree: they are saved and exported with it."""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdscope import models
from kdscope.errors import KDScopeError
from kdscope.features.hooks import Capture
from kdscope.features.select import INPUT
from kdscope.models.watch import SIZES, watch


class WithLayer(nn.Module):
    """A module and the layer that was put behind it, or before it, in its place."""

    def __init__(self, block: nn.Module, name: str, layer: nn.Module, before: bool):
        super().__init__()
        self.block = block
        self.add_module(name, layer)
        self._added, self._before = name, before

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        layer = self._modules[self._added]
        return self.block(layer(x), *others) if self._before else layer(self.block(x, *others))


def insert(network: nn.Module, places: Mapping[str, str], make: Callable[[str, Tensor, int], nn.Module]) -> nn.Module:
    """`network` itself, with new layers that take a map and give one of its shape.

    A module that is an `nn.Sequential` gets the layer as its last part. Any other is replaced by a `WithLayer`, which
    holds it as `block`. So the names of modules stay, save those below a module that was replaced
    (`NAME.conv1` becomes `NAME.block.conv1`); stages and blocks stay what they were.

    Args:
        network: any; it is changed.
        places: by the name of the new layer, the module whose output it takes, or `<NAME`, what enters that module.
        make: called with (name, the map there [1, C, H, W], the number of classes), in the order of `places`.

    Raises:
        KDScopeError: a place that gives no map, or that runs more than once in a forward pass.
    """
    maps, classes = _shown(network, tuple(dict.fromkeys(places.values())))
    layers = {name: make(name, maps[place], classes) for name, place in places.items()}
    words = {}
    for word in ("stage", "block"):
        with contextlib.suppress(KDScopeError):  # a transformer has no stages
            words[f"{word}_names"] = getattr(models, f"{word}s")(network)
    for name, layer in layers.items():
        moved = _put(network, places[name], name, layer)
        words = {word: tuple(map(moved, names)) for word, names in words.items()}
    for word, names in words.items():
        if not isinstance(getattr(type(network), word, None), property):  # a property counts them itself
            setattr(network, word, names)
    return network


def _put(network: nn.Module, place: str, name: str, layer: nn.Module) -> Callable[[str], str]:
    """Put one layer in; gives the function from old names of modules to new ones."""
    module_name = place.removeprefix(INPUT)
    module = network.get_submodule(module_name)
    parent, _, key = module_name.rpartition(".")
    if place == module_name and type(module) is nn.Sequential:
        module.add_module(name, layer)
        return lambda other: other
    both = WithLayer(module, name, layer, before=place != module_name)
    network.get_submodule(parent).register_module(key, both)
    inner = f"{module_name}."
    return lambda other: f"{inner}block.{other.removeprefix(inner)}" if other.startswith(inner) else other


def _shown(network: nn.Module, places: tuple[str, ...]) -> tuple[Mapping[str, Tensor], int]:
    """The map at each place [1, C, H, W] for a black image, and the number of classes."""
    calls = Counter(step.name for step in watch(network))
    for place in places:
        if calls[place.removeprefix(INPUT)] != 1:
            often = calls[place.removeprefix(INPUT)]
            raise KDScopeError(f"a layer can be put where a module runs once; {place!r} runs {often} times")
    like = next(network.parameters())
    for size in SIZES:
        modes = {module: module.training for module in network.modules()}
        try:
            with torch.no_grad(), Capture(network.eval(), places) as capture:
                seen = capture(torch.zeros(1, 3, size, size, device=like.device, dtype=like.dtype))
            break
        except Exception as error:  # a network that is not ours fails in its own way; `watch` found a size that fits
            reason = error
        finally:
            for module, training in modes.items():
                module.training = training
    else:
        raise reason
    for place in places:
        if seen[place].dim() != 4:
            raise KDScopeError(f"a layer can be put at a map [B, C, H, W]; {place!r} gives {list(seen[place].shape)}")
    return seen.maps, seen.logits.shape[1]
