"""The methods for detectors, by name: presets of weighted terms, which add up as those of classifiers do (`fgd+kd`)."""

from collections.abc import Mapping
from typing import Any

from kdscope.detection.methods.own import DetectorLoss
from kdscope.methods import method as presets
from kdscope.methods.method import Method
from kdscope.registry import Registry

DETECTION_METHODS: Registry[Method] = Registry("detection method", group="kdscope.detection.methods")


def resolve(method: str, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """The complete settings of each term of `method`, as `kdscope.methods.resolve` does for classifiers.

    >>> resolve("none")
    {'detection': {'classification': 1.0, 'regression': 1.0, 'weight': 1.0}}
    """
    return presets.resolve(method, overrides, DETECTION_METHODS)


DETECTION_METHODS.register("none")(
    Method(
        terms={DetectorLoss: 1.0},
        title="No distillation",
        citation="the detector's own paper: the control of every table",
        family="baseline",
        transfers="nothing",
        equation="L = the detector's own losses",
    )
)
