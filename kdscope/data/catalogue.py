"""Datasets by name: the registry, and `load`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdscope.data.split import Dataset, hold_out
from kdscope.errors import KDScopeError
from kdscope.registry import Registry


@dataclass(frozen=True)
class Request:
    """What a dataset's function is asked for; `argument` is what stands behind the colon of the name, or ""."""

    name: str
    argument: str = ""
    root: Path | None = None
    image_size: int | None = None
    download: bool = False
    cache_dir: Path | None = None
    progress: bool = False


DATASETS: Registry[Callable[[Request], Dataset]] = Registry("dataset", "kdscope.data", "kdscope.datasets")


def load(
    name: str,
    *,
    root: str | Path | None = None,
    validation: float = 0.0,
    image_size: int | None = None,
    seed: int = 0,
    download: bool = False,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> Dataset:
    """The dataset `name`.

    Args:
        name: "digits", "digits:32", "shapes", "shapes:64:5", "cifar10", "cifar100-lt:100", "folder:PATH",
            "imagenet:PATH", ...; see `DATASETS`.
        root: where `cifar10` and `cifar100` lie; default: KDSCOPE_DATA, or else ~/.cache/kdscope.
        validation: fraction of train to hold out, by class, 0 <= validation < 1.
        image_size: height and width in pixels; default: the dataset's own.
        seed: which training images are held out; nothing else depends on it.
        download: whether `cifar10` and `cifar100` may be fetched.
        cache_dir: where `folder:PATH` and `tiny-imagenet:PATH` keep the decoded images; default: KDSCOPE_CACHE, or else
            ~/.cache/kdscope.
        progress: whether to show a progress bar on standard error, when that is a terminal.

    Raises:
        KDScopeError: unknown name (with the nearest), data that is absent or unreadable, an option out of range.

    >>> dataset = load("digits", validation=0.1)
    >>> dataset.num_classes, tuple(dataset.train.images.shape[1:]), len(dataset.validation)
    (10, (3, 16, 16), 144)
    """
    kind, _, argument = name.partition(":")
    factory = DATASETS[kind]
    if image_size is not None and not 1 <= image_size <= 4096:
        raise KDScopeError(f"image_size={image_size} is out of range; give 1 to 4096 pixels")
    root, cache_dir = (None if path is None else Path(path).expanduser() for path in (root, cache_dir))
    dataset = factory(Request(name, argument, root, image_size, download, cache_dir, progress))
    return hold_out(dataset, validation, seed)


def home(variable: str) -> Path:
    """The folder that the environment's `variable` names, or else ~/.cache/kdscope."""
    return Path(os.environ.get(variable) or "~/.cache/kdscope").expanduser()


def sizes(request: Request, *names: str) -> list[int | None]:
    """The whole numbers behind the colons of a dataset's name, one for each of `names`, None where left out.

    >>> sizes(Request("shapes:64:5", "64:5"), "SIZE", "CLASSES", "COUNT")
    [64, 5, None]
    """
    words = request.argument.split(":") if request.argument else []
    kind = request.name.partition(":")[0]
    grammar = ":".join([kind, *names])
    if len(words) > len(names) or not all(word.isdecimal() for word in words):
        raise KDScopeError(f"dataset {request.name!r} is not understood; write {grammar} with whole numbers")
    return [int(word) for word in words] + [None] * (len(names) - len(words))


def one_size(request: Request, size: int | None, default: int) -> int:
    """The image size asked for, in the name or by `image_size`; both at once must agree."""
    if size is not None and request.image_size is not None and size != request.image_size:
        raise KDScopeError(
            f"dataset {request.name!r} says {size} px and image_size says {request.image_size}; give one"
        )
    return size or request.image_size or default
