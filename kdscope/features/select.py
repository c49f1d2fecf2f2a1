"""Which layers: a small grammar over the module names of any network.

| pattern              | what it chooses                                                                     |
|----------------------|-------------------------------------------------------------------------------------|
| `layer2`             | the module of that name                                                             |
| `layer2.*`           | everything below it (`*` crosses dots; `?` and `[0-3]` as in file names)             |
| `blocks.{3,7}`       | alternatives                                                                        |
| `@relu`              | every module of that class, whatever its case; `@*norm*` works too                  |
| `conv1#0`, `@relu#1` | the first, the second call of a module that is called more than once in one forward |
| `@relu#*`            | every call, each under its own number                                               |
| `<relu`, `<@relu#1`  | what enters the module, cloned before it runs: in place or not, it does no harm     |
| `!*.downsample.*`    | leaves out what it matches, and what enters it; `!<NAME` only what enters it        |
| `penultimate`        | the vector that enters the classifier: the word for `<CLASSIFIER`                   |

A plain name stands for the module's only call, or for its last when it has several. The output of a module is the first
element if it is a tuple; the input is its first argument.
"""

import fnmatch
import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from kdscope.errors import KDScopeError, nearest

PENULTIMATE = "penultimate"
ALL_CALLS = "*"
INPUT = "<"
Point = tuple[str, str | None]  # a module, after `<` if its input is meant, and a call of it


class Layer(NamedTuple):
    """One line of `listing`: a chosen layer, the class of its module and the number of its parameters."""

    name: str
    kind: str
    parameters: int


def select(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The layers of `model` that `patterns` choose, in the order of its modules, each once.

    Args:
        model: any network.
        patterns: patterns of the grammar above; no pattern chooses nothing, exclusions alone choose from everything.

    Returns:
        Names: `name`, `name#call` or `name#*`, each with `<` before it for an input; or `penultimate`.

    Raises:
        KDScopeError: if a pattern (not an exclusion) matches nothing, with the nearest names; or is malformed.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()))
    >>> select(net, ["@relu", "2.*"])
    ['1', '2.0', '2.1']
    >>> select(net, ["2.{0,1}", "!@relu", "0#0"])
    ['0#0', '2.0']
    >>> select(net, ["2", "<2.1", "<2"])
    ['<2', '2', '<2.1']
    """
    if isinstance(patterns, str):
        patterns = [patterns]
    names = _names(model, PENULTIMATE in {pattern.lstrip("!") for pattern in patterns})
    order = {name: position for position, name in enumerate(names)}
    order.update({f"{INPUT}{name}": position - 0.5 for name, position in order.items()})
    chosen: dict[Point, None] = {}
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    for pattern in wanted if wanted or not patterns else ["*"]:
        body, call = _parse(pattern)
        matched = _match(names, body)
        if not matched:
            raise _nothing(names, pattern, body)
        chosen.update(dict.fromkeys((name, call) for name in matched))
    for pattern in patterns:
        if pattern.startswith("!"):
            body, call = _parse(pattern[1:])
            out = set(_match(names, body))
            if not body.startswith(INPUT):
                out |= {f"{INPUT}{name}" for name in out}
            chosen = {point: None for point in chosen if point[0] not in out or call not in (None, point[1])}
    if patterns and not chosen:
        raise KDScopeError(f"nothing is left of the layers {', '.join(wanted) or '*'} after the exclusions")
    points = sorted(chosen, key=lambda point: (order[point[0]], point[1] or ""))
    return [name if call is None else f"{name}#{call}" for name, call in _each_module_once(points, names)]


def listing(model: nn.Module, patterns: Sequence[str] = ("*",)) -> list[Layer]:
    """What `patterns` choose, with the class and the parameters of each module: to look before extracting.

    >>> listing(nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    [Layer(name='0', kind='Linear', parameters=10), Layer(name='1', kind='ReLU', parameters=0)]
    """
    layers = select(model, patterns)
    names = _names(model, PENULTIMATE in layers)
    rows = []
    for layer in layers:
        module = names[split_call(layer)[0].removeprefix(INPUT)]
        rows.append(Layer(layer, type(module).__name__, sum(weight.numel() for weight in module.parameters())))
    return rows


def split_call(layer: str) -> Point:
    """`name#call` as the name and the call: a number, `*`, or None for a plain name.

    >>> split_call("layer1.0.relu#1"), split_call("<layer1")
    (('layer1.0.relu', '1'), ('<layer1', None))
    """
    name, mark, call = layer.partition("#")
    return name, call if mark else None


def _names(model: nn.Module, penultimate: bool) -> dict[str, nn.Module]:
    """Every name of every module but the root's, and where it is asked for, `penultimate` before the classifier."""
    named = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    if not penultimate or PENULTIMATE in named:
        return named
    from kdscope.models import classifier

    head = classifier(model)
    names: dict[str, nn.Module] = {}
    for name, module in named.items():
        if name == head:
            names[PENULTIMATE] = module
        names[name] = module
    return names


def _parse(pattern: str) -> Point:
    body, call = split_call(pattern)
    name = body.removeprefix(INPUT)
    if not name or name.startswith(INPUT) or (call is not None and call != ALL_CALLS and not call.isdecimal()):
        raise KDScopeError(
            f"{pattern!r} is not a layer pattern; write NAME, NAME#CALL (a number or *), @CLASS, <INPUT or !PATTERN"
        )
    if body.count("{") != body.count("}"):
        raise KDScopeError(f"the layer pattern {pattern!r} has a brace without its partner")
    return body, call


def _match(names: dict[str, nn.Module], body: str) -> list[str]:
    if body.startswith(INPUT):
        return [f"{INPUT}{name}" for name in _match(names, body[1:]) if name != PENULTIMATE]
    kinds = body.startswith("@")
    globs = [re.compile(fnmatch.translate(glob.lower() if kinds else glob)) for glob in _alternatives(body.lstrip("@"))]
    if kinds:
        known = {name: type(module).__name__.lower() for name, module in names.items() if name != PENULTIMATE}
    else:  # a glob means modules; the classifier's input is chosen by its word alone
        known = {name: name for name in names if name != PENULTIMATE or body == PENULTIMATE}
    return [name for name, text in known.items() if any(glob.match(text) for glob in globs)]


def _alternatives(body: str) -> list[str]:
    """`a.{b,c}` as `a.b` and `a.c`."""
    found = re.search(r"\{([^{}]*)\}", body)
    if not found:
        return [body]
    before, after = body[: found.start()], body[found.end() :]
    return [glob for part in found[1].split(",") for glob in _alternatives(before + part.strip() + after)]


def _each_module_once(points: list[Point], names: dict[str, nn.Module]) -> list[Point]:
    """A module that stands in two places under two names is caught once, under the first chosen."""
    seen: set[tuple[str, int, str | None]] = set()
    once = []
    for name, call in points:
        end = name if name == PENULTIMATE else name[:1] if name.startswith(INPUT) else ""
        identity = (end, id(names[name.removeprefix(INPUT)]), call)
        if identity not in seen:
            seen.add(identity)
            once.append((name, call))
    return once


def _nothing(names: dict[str, nn.Module], pattern: str, body: str) -> KDScopeError:
    mark, name = (INPUT, body[1:]) if body.startswith(INPUT) else ("", body)
    if name.startswith("@"):
        kinds = {f"@{type(module).__name__.lower()}" for module in names.values()}
        near = ", ".join(f"{mark}{kind}" for kind in nearest(name.lower(), kinds))
        return KDScopeError(f"no module is of the class {pattern!r}; nearest: {near}")
    near = ", ".join(f"{mark}{known}" for known in nearest(name, names))
    return KDScopeError(f"no layer matches {pattern!r}; nearest: {near}")
