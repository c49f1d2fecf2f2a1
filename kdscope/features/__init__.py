"""Hooks, extraction, and the feature cache. What needs h5py or a forward pass is loaded when it is first used."""

import importlib
from typing import Any

_HOMES = {
    "Capture": "hooks",
    "Ensemble": "features",
    "FeatureCache": "cache",
    "Features": "features",
    "extract_features": "extract",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
