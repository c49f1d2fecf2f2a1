"""kdscope trains knowledge-distillation methods and measures why they work.

`train`, `extract`, `analyze`, `export`, `Run` and `FeatureCache` do what the commands of the same names do. They are
loaded when they are first used, so that `import kdscope` and `kdscope --help` answer at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from kdscope.errors import KDScopeError

if TYPE_CHECKING:
    from kdscope.api import analyze, extract, train
    from kdscope.exporting import export
    from kdscope.features.cache import FeatureCache
    from kdscope.run import Run

__version__ = "0.1.0"
__all__ = ["FeatureCache", "KDScopeError", "Run", "analyze", "export", "extract", "train"]

_PLACES = {
    "train": "kdscope.api",
    "extract": "kdscope.api",
    "analyze": "kdscope.api",
    "export": "kdscope.exporting",
    "Run": "kdscope.run",
    "FeatureCache": "kdscope.features.cache",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'kdscope' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
