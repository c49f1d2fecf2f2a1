"""The kinds of cache that there are, each with the function that extracts it.

All take what `kdscope.features.extract.extract_features` takes of (model, dataset, split, out) and of the options of
`kdscope.features.produce.Job`, and have options of their own. A module is loaded when its kind is asked for.
"""

import importlib
from collections.abc import Callable

from kdscope.errors import unknown
from kdscope.features.cache import FeatureCache

KINDS = {
    "features": ("kdscope.features.extract", "extract_features"),
    "causal": ("kdscope.features.causal", "extract_causal"),
    "transfer": ("kdscope.features.transfer", "extract_transfer"),
    "maps": ("kdscope.features.maps", "extract_maps"),
    "graph": ("kdscope.features.graph", "extract_graph"),
    "templates": ("kdscope.features.templates", "extract_templates"),
}


def extract_kind(kind: str) -> Callable[..., FeatureCache]:
    """The function that extracts caches of that kind; an unknown one is a KDScopeError.

    >>> extract_kind("features").__name__
    'extract_features'
    """
    if kind not in KINDS:
        raise unknown("kind of cache", kind, KINDS)
    module, name = KINDS[kind]
    return getattr(importlib.import_module(module), name)
