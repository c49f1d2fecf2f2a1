"""The rows of ablation tables, as settings of terms over a method: what a study runs to tell the parts apart."""

from collections.abc import Mapping
from typing import Any

Overrides = Mapping[str, Mapping[str, Any]]

_OFF: dict[str, dict[str, Any]] = {
    "detection": {"classification": 1.0},  # without soft labels the hard ones have their whole weight
    "soft-class": {"weight": 0.0},
    "bounded-box": {"weight": 0.0},
    "hint": {"weight": 0.0},
}
_SOFT: dict[str, dict[str, Any]] = {"detection": {"classification": 0.5}}
_FGD = {"foreground": "alpha", "background": "beta", "attention": "gamma", "global": "lambda_"}


def _without(*parts: str) -> dict[str, dict[str, Any]]:
    return {"fgd": {_FGD[part]: 0.0 for part in parts}}


# By method, by row. Chen et al. (NeurIPS 2017): each part alone over the student, in both of its forms.
ABLATIONS: dict[str, dict[str, Overrides]] = {
    "chen2017": {
        "CLS": _OFF | _SOFT | {"soft-class": {"background_weight": 1.0}},
        "CLS-W": _OFF | _SOFT | {"soft-class": {"background_weight": 1.5}},
        "L2": _OFF | {"bounded-box": {"kind": "mimic"}},
        "L2-B": _OFF | {"bounded-box": {"kind": "bounded"}},
        "Hints": _OFF | {"hint": {"adapter": "needed"}},
        "Hints-A": _OFF | {"hint": {"adapter": "always"}},
        "all": {},
    },
    # Yang et al. (CVPR 2022): the focal and the global part alone, each part alone, and all but one.
    "fgd": {
        "focal": _without("global"),
        "global": _without("foreground", "background", "attention"),
        **{f"only {part}": _without(*(other for other in _FGD if other != part)) for part in list(_FGD)[:3]},
        **{f"without {part}": _without(part) for part in list(_FGD)[:3]},
        "all": {},
    },
}
ABLATIONS["fgd-normalised"] = ABLATIONS["fgd"]
