"""A registry is a dictionary and a decorator: names to methods, datasets, models, measures or analyses.

What lies in the package that a registry stands for is found by itself (one new file and nothing else), and so is
what other installed packages offer under the entry-point group of the same name.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from kdscope.errors import KDScopeError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one `kind` ("method", "dataset", ...), collected from the modules of `package` on first use.

    >>> colours = Registry("colour")
    >>> @colours.register("red")
    ... def red():
    ...     return "#f00"
    >>> colours["red"]()
    '#f00'
    """

    def __init__(self, kind: str, package: str | None = None, group: str | None = None):
        self.kind = kind
        self._package = package
        self._group = group
        self._entries: dict[str, T] = {}
        self._loaded = package is None and group is None

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters what it decorates under `name`; two things under one name are an error."""

        def enter(entry: T) -> T:
            known = self._entries.get(name)
            if known is not None and _origin(known) != _origin(entry):
                raise KDScopeError(f"{self.kind} {name!r} is registered twice: {_origin(known)} and {_origin(entry)}")
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        self._load()
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        if self._package is not None:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
                importlib.import_module(module.name)
        if self._group is not None:
            for point in entry_points(group=self._group):
                self.register(point.name)(point.load())


def _origin(entry: Any) -> str:
    return f"{getattr(entry, '__module__', '')}.{getattr(entry, '__qualname__', repr(entry))}"
