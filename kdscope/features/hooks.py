"""Feature maps of any network by forward hooks on module names, safe against what the network does to them later.

A hook sees a tensor that the next operation may overwrite (ReLU in place after batch normalisation turns the captured
normalised map into the rectified one, silently), so that what is caught is cloned there and then, or reduced.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.features.select import ALL_CALLS, INPUT, PENULTIMATE, select, split_call

Reduce = Callable[[Tensor], Tensor]


class Capture:
    """Catches the outputs of chosen layers while a network runs; a context manager that always removes its hooks.

    Args:
        model: any network from images [B, 3, H, W] to logits [B, C]; DDP, Fabric and compiled ones are looked into.
        patterns: which layers (`kdscope.features.select`). A plain name is the module's last call of a forward pass,
            `name#0` its first, `name#*` all; `<name` is what enters the module, and `penultimate` what enters the
            classifier. What a glob or a class matches but does not run, or not so often, is left out.
        detach: cut the caught maps from the graph. Otherwise the gradient flows through them.
        reduce: applied to each map as it is caught, so that a large one need not be kept.

    Raises:
        KDScopeError: if a pattern matches nothing; when called, if a layer that is chosen by its name does not run in
            this forward pass, or runs fewer times than its number says; if a layer gives no tensor. Of a tuple or list
            the first element is taken.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8 * 4, 10))
    >>> with Capture(net, ["0", "@relu"]) as capture:
    ...     features = capture(torch.randn(2, 3, 2, 2))
    >>> features.logits.shape, features["0"].shape, bool((features["0"] < 0).any())
    (torch.Size([2, 10]), torch.Size([2, 8, 2, 2]), True)
    """

    def __init__(
        self, model: nn.Module, patterns: Sequence[str], *, detach: bool = False, reduce: Reduce | None = None
    ):
        self.model = model
        self.layers = select(unwrap(model), patterns)
        self._named = {patterns} if isinstance(patterns, str) else set(patterns)
        self._detach = detach
        self._reduce = reduce
        self._handles: list[Any] = []
        self._caught: dict[str, Tensor] | None = None
        self._calls: dict[str, int] = defaultdict(int)

    def __enter__(self) -> "Capture":
        wanted: dict[str, set[str | None]] = defaultdict(set)
        for layer in self.layers:
            name, call = split_call(layer)
            wanted[name].add(call)
        network = unwrap(self.model)
        modules = dict(network.named_modules(remove_duplicate=False))
        for name, calls in wanted.items():
            module = name.removeprefix(INPUT)
            before = module != name
            if name == PENULTIMATE and name not in modules:
                from kdscope.models import classifier

                module, before = classifier(network), True
            if before:
                hook = self._before(name, calls)
                self._handles.append(modules[module].register_forward_pre_hook(hook, with_kwargs=True))
            else:
                self._handles.append(modules[module].register_forward_hook(self._after(name, calls)))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def __call__(self, images: Tensor) -> Features:
        """Run the network on `images` [B, 3, H, W]: its logits [B, C] and the chosen maps, in the order of `layers`."""
        if self.layers and not self._handles:
            raise RuntimeError("a Capture is used inside `with Capture(...) as capture:`")
        self._caught = {}
        self._calls.clear()
        try:
            logits = self.model(images)
            maps = {key: value for layer in self.layers for key, value in self._of(layer).items()}
            if self.layers and not maps:
                raise self._absent(self.layers[0])
        finally:
            self._caught = None  # what runs later, as a recomputed checkpoint does in backward, is not of this pass
        if not isinstance(logits, Tensor):
            raise KDScopeError(
                f"{type(unwrap(self.model)).__name__} gives {type(logits).__name__}, not a tensor of logits"
            )
        return Features(logits, maps)

    def _after(self, name: str, calls: set[str | None]) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self._catch(name, calls, output)

        return hook

    def _before(self, name: str, calls: set[str | None]) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            self._catch(name, calls, inputs or tuple(options.values()))

        return hook

    def _catch(self, name: str, calls: set[str | None], output: Any) -> None:
        if self._caught is None:
            return
        call = str(self._calls[name])
        self._calls[name] += 1
        keys = [name] if None in calls else []
        if call in calls or ALL_CALLS in calls:
            keys.append(f"{name}#{call}")
        if keys:
            value = self._kept(_tensor(name, output))
            self._caught.update(dict.fromkeys(keys, value))

    def _kept(self, value: Tensor) -> Tensor:
        if self._detach:
            value = value.detach()
        if self._reduce is None:
            return value.clone()
        reduced = self._reduce(value)
        shared = reduced.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
        return reduced.clone() if shared else reduced

    def _of(self, layer: str) -> dict[str, Tensor]:
        assert self._caught is not None
        name, call = split_call(layer)
        count = self._calls[name]
        if call == ALL_CALLS and count:
            return {f"{name}#{i}": self._caught[f"{name}#{i}"] for i in range(count)}
        if layer in self._caught:
            return {layer: self._caught[layer]}
        if layer in self._named:
            raise self._absent(layer)
        return {}

    def _absent(self, layer: str) -> KDScopeError:
        name, _ = split_call(layer)
        count = self._calls[name]
        if not count:
            compiled = hasattr(self.model, "_orig_mod")
            hint = "; a compiled network must be captured before its first call" if compiled else ""
            return KDScopeError(f"layer {name!r} does not run in the forward pass of this network{hint}")
        often = "once, as #0" if count == 1 else f"{count} times, #0 to #{count - 1}"
        return KDScopeError(f"layer {layer!r} does not exist: {name!r} runs {often}")


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside what DDP, Fabric and torch.compile put around it: its own module names.

    >>> net = nn.Linear(2, 2)
    >>> unwrap(nn.DataParallel(net)) is net
    True
    """
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif type(model).__name__ in ("_FabricModule", "DataParallel", "DistributedDataParallel"):
            model = model.module
        else:
            return model


def _tensor(name: str, output: Any) -> Tensor:
    value = output[0] if isinstance(output, tuple | list) and len(output) else output
    if not isinstance(value, Tensor):
        raise KDScopeError(
            f"layer {name!r} gives {type(value).__name__}, not a tensor; choose one of the modules inside it"
        )
    return value
