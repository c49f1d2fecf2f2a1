"""Networks that kdscope did not write: `torchvision:NAME`, `timm:NAME`, and any `package.module:callable`."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from kdscope.errors import KDScopeError, unknown


def build(name: str, num_classes: int, *, image_size: int = 32, pretrained: bool = False, **options: Any) -> nn.Module:
    """The network that `name` says, with `num_classes` logits; see `kdscope.models.build`.

    >>> import torch
    >>> network = build("torchvision:squeezenet1_1", 7)
    >>> network(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 7])
    """
    source, _, rest = name.partition(":")
    if source.lower() == "torchvision":
        return _torchvision(rest.lower(), num_classes, image_size, pretrained, options)
    if source.lower() == "timm":
        return _timm(rest, num_classes, image_size, pretrained, options)
    return _callable(source, rest, num_classes, image_size, pretrained, options)


def _torchvision(name: str, num_classes: int, image_size: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)  # classifiers alone: no detectors
    if name not in known:
        raise unknown("torchvision model", name, known)
    full = f"torchvision:{name}"
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": not pretrained, **options}  # said outright, else torchvision warns
    # Published weights have their own number of classes; their head is replaced below.
    head = {"weights": "DEFAULT"} if pretrained else {"num_classes": num_classes}
    network = create(full, torchvision.models.get_model, (name,), {**head, **options}, "image_size", image_size)
    for auxiliary in ("AuxLogits", "aux1", "aux2"):  # Inception's second heads: a network gives its logits alone
        if hasattr(network, auxiliary):
            setattr(network, auxiliary, None)
            network.aux_logits = False
    if pretrained:
        _replace_head(full, network, num_classes)
    return network


def _timm(name: str, num_classes: int, image_size: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise KDScopeError(f"model 'timm:{name}' needs timm: pip install kdscope[timm]") from error
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    options = {"pretrained": pretrained, "num_classes": num_classes, **options}
    return create(f"timm:{name}", timm.create_model, (name,), options, "img_size", image_size)


def _callable(
    module: str, attribute: str, num_classes: int, image_size: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    full = f"{module}:{attribute}"
    maker = _import(module, attribute)
    given: dict[str, Any] = {"num_classes": num_classes, "image_size": image_size, "pretrained": pretrained}
    accepted = _parameters(maker)
    if pretrained and "pretrained" not in accepted:
        raise KDScopeError(
            f"model {full!r} makes no weights of its own (it takes no argument `pretrained`); give it a file of them: "
            f"--checkpoint FILE, or as a teacher {full}@FILE"
        )
    given = {key: value for key, value in given.items() if key in accepted}
    if "**" in accepted:
        given["num_classes"] = num_classes
    network = create(full, maker, (), {**given, **options})
    if not isinstance(network, nn.Module):
        raise KDScopeError(f"model {full!r} is a {type(network).__name__}, not a torch.nn.Module")
    return network


def _import(module: str, attribute: str) -> Callable[..., Any]:
    """The callable; the current directory can be imported from, as with `python -m`."""
    parts = [*module.split("."), attribute]
    if not all(part.isidentifier() for part in parts) or module.endswith(".py"):
        raise KDScopeError(
            f"model '{module}:{attribute}' is no name: write torchvision:NAME, timm:NAME or package.module:callable"
        )
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the user's module does when it is imported
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise KDScopeError(f"no module {error.name!r} in {here} or among the installed packages") from error
        raise KDScopeError(f"module {module!r} cannot be imported: {_line(error)}") from error
    if not hasattr(found, attribute):
        public = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        raise unknown("callable", attribute, public, f"module {module!r}")
    maker = getattr(found, attribute)
    if not callable(maker) or isinstance(maker, nn.Module):
        raise KDScopeError(f"'{module}:{attribute}' is a {type(maker).__name__}, not a callable that makes a network")
    return maker


def _parameters(maker: Callable[..., Any]) -> set[str]:
    """Names that `maker` takes as keyword arguments, and "**" if it takes any; none where Python cannot tell."""
    try:
        parameters = inspect.signature(maker).parameters.values()
    except ValueError:
        return set()
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL
    return {
        "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else parameter.name
        for parameter in parameters
        if parameter.kind not in positional
    }


def create(
    full: str,
    maker: Callable[..., Any],
    arguments: tuple[str, ...],
    options: dict[str, Any],
    size_key: str | None = None,
    image_size: int = 32,
) -> Any:
    """`maker(*arguments, **options)`, with the image size for networks that take one; any error becomes one line."""
    try:
        if size_key is not None and size_key not in options:
            try:
                return maker(*arguments, **options, **{size_key: image_size})
            except TypeError as error:  # convolutional networks take images of any size
                if f"'{size_key}'" not in str(error):
                    raise
        return maker(*arguments, **options)
    except Exception as error:  # what another package raises is its own affair
        wanted = options.get("pretrained") or options.get("weights")
        if wanted and not isinstance(error, TypeError | ValueError | KeyError):
            raise KDScopeError(
                f"the pretrained weights of {full!r} could not be fetched ({_line(error)}); "
                "without a network, build it without them and load a checkpoint"
            ) from error
        raise KDScopeError(f"model {full!r} cannot be built: {_line(error)}") from error


def _replace_head(full: str, network: nn.Module, num_classes: int) -> None:
    """A new last layer of `num_classes` logits, linear or (SqueezeNet) 1x1 convolution, unless it has that many."""
    heads = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    heads = heads or [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    if not heads:
        raise KDScopeError(f"model {full!r} has no last layer that could be replaced by one of {num_classes} classes")
    old = network.get_submodule(heads[-1])
    if isinstance(old, nn.Linear):
        new: nn.Module = nn.Linear(old.in_features, num_classes)
        unchanged = old.out_features == num_classes
    else:
        new = nn.Conv2d(old.in_channels, num_classes, old.kernel_size)
        unchanged = old.out_channels == num_classes
    if not unchanged:
        network.set_submodule(heads[-1], new)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
