"""A network cut in two at the output of one of its modules, so that what lies above can run without what lies below.

An attribution along a path in the space of a layer asks for the head some 32 times an image; running the layers below
each time, and throwing away what they say, as captum's `LayerIntegratedGradients` does, costs several times the head.

The forward functions of the modules *around* the layer are traced symbolically (torch.fx) and the graph is cut; all
other modules stay closed, and may do what they like. Where a trace is not possible (control flow that depends on
values), modules below the layer are replaced by what they said the first time while the head runs: only the functional
operations between them are done again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdscope.errors import KDScopeError, unknown


class Cut:
    """`below(images)` gives the output of `layer`; `above(activation, rows)` the logits with that in its place.

    Weights are shared with the model, which should be in eval mode. What reaches the head past the layer (a skip
    connection around it) is kept as it was for the images of the last `below`, whose row of each activation is `rows`.

    Args:
        model: images [B, 3, H, W] to logits [B, C].
        layer: name of a module that runs once in a forward pass and gives one tensor [B, ...].
        images: some images, two are enough, to see what runs.

    Attributes:
        traced: whether the graph could be cut, or modules are replaced.

    Raises:
        KDScopeError: no such module; one that runs several times, not at all, or gives no tensor.

    >>> from kdscope.models import build
    >>> net, images = build("resnet8", num_classes=10).eval(), torch.randn(2, 3, 32, 32)
    >>> cut = Cut(net, "layer2", images)
    >>> activation = cut.below(images)
    >>> cut.traced, activation.shape, torch.equal(cut.above(activation), net(images))
    (True, torch.Size([2, 32, 16, 16]), True)
    """

    def __init__(self, model: nn.Module, layer: str, images: Tensor):
        modules = dict(model.named_modules())
        if layer not in modules or not layer:
            raise unknown("layer", layer, filter(None, modules), type(model).__name__)
        self.model, self.layer = model, layer
        self._check_runs_once(modules[layer], images[:2])
        try:
            self._parts: tuple[nn.Module, nn.Module] | None = _cut_graph(model, layer, images[:2])
        except Exception:  # torch.fx gives up in many ways
            self._parts = None
            self._order = _runs_before(model, layer, images[:2])
        self._beside: Sequence[Any] = ()
        self._said: dict[str, list[Any]] = {}

    @property
    def traced(self) -> bool:
        return self._parts is not None

    @property
    def closed(self) -> bool:
        """Whether the head needs the activation alone, so that `above` takes any, without a `below` first."""
        return self._parts is not None and sum(n.op == "placeholder" for n in self._parts[1].graph.nodes) == 1

    def below(self, images: Tensor) -> Tensor:
        """The output of the layer, without gradient."""
        with torch.no_grad():
            if self._parts is not None:
                activation, *self._beside = self._parts[0](images)
                return activation
            self._images = images
            return self._record(images)

    def above(self, activation: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits [M, C] of activations [M, ...]; `rows`: int64 [M], which image each stems from (default: in order)."""

        def taken(value: Any) -> Any:
            return value[rows] if rows is not None and isinstance(value, Tensor) else value

        if self._parts is not None:
            return self._parts[1](activation, *map(taken, self._beside))
        with self._replaced({name: [taken(v) for v in said] for name, said in self._said.items()}, activation):
            return self.model(taken(self._images))

    def _check_runs_once(self, module: nn.Module, images: Tensor) -> None:
        outputs: list[Any] = []
        handle = module.register_forward_hook(lambda m, i, output: outputs.append(output))
        try:
            with torch.no_grad():
                self.model(images)
        finally:
            handle.remove()
        if len(outputs) != 1:
            raise KDScopeError(
                f"layer {self.layer!r} runs {len(outputs)} times in a forward pass; choose a module that runs once"
            )
        if not isinstance(outputs[0], Tensor):
            raise KDScopeError(f"layer {self.layer!r} gives {type(outputs[0]).__name__}, not a tensor")

    def _record(self, images: Tensor) -> Tensor:
        """Run all, and remember what the modules below said."""
        modules = dict(self.model.named_modules())
        self._said = {name: [] for name in [*self._order, self.layer]}
        done = self._said[self.layer]
        handles = [
            modules[name].register_forward_hook(partial(_keep, said, done if name != self.layer else []))
            for name, said in self._said.items()
        ]
        try:
            self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        return self._said.pop(self.layer)[0]

    @contextmanager
    def _replaced(self, said: dict[str, list[Any]], activation: Tensor) -> Iterator[None]:
        modules = dict(self.model.named_modules())
        try:
            for name, outputs in {**said, self.layer: [activation]}.items():
                modules[name].forward = partial(_repeat, iter(outputs), modules[name].forward)
            yield
        finally:
            for name in (*said, self.layer):
                vars(modules[name]).pop("forward", None)


class _Tracer(fx.Tracer):
    """Looks into the modules around the layer only."""

    def __init__(self, layer: str):
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        return not self.layer.startswith(f"{name}.")


def _cut_graph(model: nn.Module, layer: str, images: Tensor) -> tuple[nn.Module, nn.Module]:
    """The two halves as graph modules; the first gives (activation, what goes past it ...), the second takes them."""
    graph = _Tracer(layer).trace(model)
    (at,) = (node for node in graph.nodes if node.op == "call_module" and node.target == layer)
    keeps_images = _Watch(fx.GraphModule(model, graph), len(images)).of(images)
    after = {at}
    for node in graph.nodes:
        if any(source in after for source in node.all_input_nodes):
            after.add(node)
    upper, here, beside = fx.Graph(), {}, []
    here[at] = upper.placeholder("activation")
    taken: list[fx.Node] = []

    def needed(node: fx.Node) -> fx.Node:
        """A node from before the cut, as it comes into the head: handed in, or done again where it is a mere number."""
        if node not in here:
            if node.op == "placeholder" or node in keeps_images:
                taken.append(node)
                beside.append(node)
                here[node] = upper.placeholder(f"beside_{len(beside)}")
            else:
                for source in node.all_input_nodes:
                    needed(source)
                here[node] = upper.node_copy(node, here.__getitem__)
        return here[node]

    order = [node for node in graph.nodes if node in after and node is not at]
    for node in order:
        for source in node.all_input_nodes:
            if source not in after:
                needed(source)
    for node in order:
        here[node] = upper.node_copy(node, here.__getitem__)
    lower, there = fx.Graph(), {}
    for node in graph.nodes:
        if node.op != "output" and (node not in after or node is at):
            there[node] = lower.node_copy(node, there.__getitem__)
    lower.output(tuple(there[node] for node in (at, *beside)))
    halves = fx.GraphModule(model, lower), fx.GraphModule(model, upper)
    for half in halves:
        half.graph.eliminate_dead_code()
        half.recompile()
    return halves


class _Watch(fx.Interpreter):
    """Which nodes give a tensor with a row for each image."""

    def __init__(self, module: fx.GraphModule, count: int):
        super().__init__(module)
        self.count, self.found = count, set()

    def of(self, images: Tensor) -> set[fx.Node]:
        with torch.no_grad():
            self.run(images)
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op != "get_attr" and isinstance(value, Tensor) and value.dim() and len(value) == self.count:
            self.found.add(n)
        return value


def _runs_before(model: nn.Module, layer: str, images: Tensor) -> list[str]:
    """The outermost modules that are not around the layer and that run before it is done."""
    around = [layer[:k] for k, letter in enumerate(layer) if letter == "."]
    outer = [
        name
        for name, _ in model.named_modules()
        if name and name not in (layer, *around) and name.rpartition(".")[0] in ("", *around)
    ]
    modules = dict(model.named_modules())
    ran: dict[str, None] = {}
    done: list[bool] = []
    handles = [modules[layer].register_forward_hook(lambda *_: done.append(True))]
    for name in outer:
        handles.append(modules[name].register_forward_hook(partial(_note, name, ran, done)))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return list(ran)


def _note(name: str, ran: dict[str, None], done: list[bool], *_: Any) -> None:
    """A forward hook that remembers a module, if it ran before the layer was done."""
    if not done:
        ran[name] = None


def _keep(said: list[Any], done: list[Any], _: nn.Module, __: Any, output: Any) -> None:
    """A forward hook that writes down what a module said, if that was before the layer was done."""
    if not done:
        said.append(output)


def _repeat(outputs: Iterator[Any], forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A forward function that says what is written down, and then what it says itself (above the layer)."""
    for output in outputs:
        return output
    return forward(*args, **options)
