"""Weights from measured sizes: weights of a paper belong to its images, widths and networks, and do not transfer.

FGD's sums grow with the channels, the places, the boxes and the square of the maps' scale: in a trial of small networks
from scratch the official weights made one part of it 200 times the detector's own loss. So the size of each part is
measured on a few batches before training, and the weights give distillation a chosen size beside the detector.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdscope.detection.batch import DetectionBatch, DetectionFeatures
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.errors import KDScopeError, unknown

SIZES = ("loss", "gradient")
View = tuple[DetectionFeatures, DetectionFeatures, DetectionBatch]


def calibrate(
    objective: DetectionObjective,
    views: Iterable[View],
    ratio: float = 2.0,
    by: str = "loss",
    shares: Mapping[str, float] | None = None,
    parameters: Iterable[Tensor] = (),
) -> dict[str, dict[str, float]]:
    """Settings for `terms` of the config, with which distillation starts at `ratio` times the detector's own loss.

    The same batches give the same numbers: nothing is drawn, and they are rounded to three digits. A term whose loss is
    in the units of the detector's own (`in_own_units`, the bounded regression of Chen et al.) keeps its weight unless
    `shares` names it: it begins near 0, for the first proposals are the boxes themselves, and grows; its size at the
    start says nothing of what it will be.

    Args:
        objective: built, and where it has terms that observe, shown some batches; it is not changed.
        views: what student and teacher say of a few training batches, the student with a gradient.
        ratio: of all distillation together to the detector's own losses as weighed in `objective`. In trials with a
            student from scratch 0.4 did little, 2 and 6 did well.
        by: "loss" compares values; "gradient" compares norms of gradients, of the parameters that the student's maps
            depend on, which all losses share (as GradNorm does: Chen et al., ICML 2018). A loss far from its minimum,
            such as a soft cross-entropy, is large with a small gradient. Norms of parts do not add up where their
            directions differ.
        shares: of `ratio`, by term; equal where not given. A term with parts of its own balance (FGD) shares what it
            has among them as that balance says.
        parameters: with "gradient", the student's; those that no map depends on (of the heads) are left out.

    Returns:
        By term, a new `weight`, or the settings that weigh its parts.

    Raises:
        KDScopeError: a ratio that is not above 0; no batch; a part that is zero or not finite on all of them, the
            detector's own losses among them; nothing to weigh; or a term `in_own_units` by "loss".
    """
    if by not in SIZES:
        raise unknown("by", str(by), SIZES, "calibrate")
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < math.inf:
        raise KDScopeError(f"calibrate: ratio must be a number above 0, not {ratio!r}")
    wanted = _shares(objective, shares)
    for name in wanted:
        if by == "loss" and objective.terms[name].in_own_units:
            raise KDScopeError(
                f"calibrate: {name} begins near 0 and grows, so that its loss at the start is no measure of it; leave "
                "it out (shares), and it keeps its weight, or measure by gradient"
            )
    measured = sizes(objective, views, by, parameters)
    own = measured["own"]
    if not 0 < own < math.inf:
        raise KDScopeError(
            f"calibrate: the {by} of the detector's own losses is {own} on these batches, so there is nothing to "
            "compare with; give more batches, of images with boxes"
        )
    found: dict[str, dict[str, float]] = {}
    for name, share in wanted.items():
        term, weight = objective.terms[name], objective.settings[name]["weight"]
        if not term.balanced:
            found[name] = {"weight": _rounded(weight * _factor(name, share * ratio * own, measured[name]))}
            continue
        kept = {part: term.balanced[part] for part in term.parts}
        whole = sum(balance for _, balance in kept.values())
        found[name] = {
            setting: _rounded(
                term.weights[part]
                * _factor(f"{name}.{part}", share * ratio * own * balance / whole, measured[f"{name}.{part}"])
            )
            for part, (setting, balance) in kept.items()
        }
    return found


def sizes(
    objective: DetectionObjective, views: Iterable[View], by: str = "loss", parameters: Iterable[Tensor] = ()
) -> dict[str, float]:
    """The weighed size of each part, of each term, and of the detector's own losses together ("own").

    Args and errors as of `calibrate`. With "loss" the mean over the batches; with "gradient" the root of the sum of
    squares over batches and parameters, divided by the root of the number of batches.
    """
    groups = _groups(objective)
    total: Tensor | None = None
    count, learning = 0, [each for each in parameters if each.requires_grad]
    for student, teacher, batch in views:
        values = objective.weights * objective(student, teacher, batch)
        each = [values[chosen].sum() for chosen in groups.values()]
        if by == "gradient":
            learning = learning if count else _under(student.maps, learning)
            each = [_squared_gradient(value, learning) for value in each]
        each = torch.stack(each).detach().double()
        total, count = each if total is None else total + each, count + 1
    if total is None:
        raise KDScopeError("calibrate: no batch was given to measure on")
    mean = (total / count).tolist()
    return {name: value**0.5 if by == "gradient" else value for name, value in zip(groups, mean, strict=True)}


def _groups(objective: DetectionObjective) -> dict[str, list[int]]:
    """Which values of the objective make up each part, each term, and the detector's own losses."""
    found: dict[str, list[int]] = {"own": []}
    for k, (name, task) in enumerate(zip(objective.names, objective.task, strict=True)):
        whole = "own" if task else name.partition(".")[0]
        for group in dict.fromkeys((whole, name)):
            found.setdefault(group, []).append(k)
    if not found["own"]:
        raise KDScopeError("calibrate: the objective has no loss of the detector's own to compare with")
    return found


def _under(maps: Mapping[int, Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parameters that the maps depend on.

    Gradients of the maps themselves would not do: a coarse level is often made from a finer one, and what comes back
    through both would count twice.
    """
    total = sum(each.sum() for each in maps.values())
    reached = (None,) * len(parameters)
    if parameters and total.requires_grad:
        reached = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    found = [each for each, gradient in zip(parameters, reached, strict=True) if gradient is not None]
    if not found:
        raise KDScopeError(
            "calibrate: by gradient needs the student's parameters, and its maps depend on none of these"
        )
    return found


def _squared_gradient(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(value)
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    given = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(given).sum() if given else torch.zeros_like(value)


def _shares(objective: DetectionObjective, shares: Mapping[str, float] | None) -> dict[str, float]:
    """The share of each term that is weighed; they sum to 1."""
    terms = [name for name, term in objective.terms.items() if term.reads != "labels" and term.in_main]
    if not terms:
        raise KDScopeError("calibrate: no term here distils, so there is nothing to weigh")
    if not shares:
        free = [name for name in terms if not objective.terms[name].in_own_units]
        if not free:
            raise KDScopeError(
                f"calibrate: {', '.join(terms)} has its weight; to measure it all the same, name it (shares)"
            )
        shares = dict.fromkeys(free, 1.0)
    for name in shares:
        if name not in terms:
            raise unknown("term", name, terms, "calibrate")
    given = {name: float(shares.get(name, 0.0)) for name in terms}
    if not all(0 <= share < math.inf for share in given.values()) or not sum(given.values()) > 0:
        raise KDScopeError("calibrate: shares are numbers of at least 0, of which one is above 0")
    return {name: share / sum(given.values()) for name, share in given.items() if share > 0}


def _factor(name: str, wanted: float, size: float) -> float:
    if not 0 < size < math.inf:
        what = "zero" if size == 0 else f"{size}"
        raise KDScopeError(f"calibrate: {name} is {what} on these batches; leave it out (shares), or give more batches")
    return wanted / size


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def settings_of(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What to give to the command line for the result of `calibrate`.

    >>> settings_of({"fgd": {"alpha": 0.01, "lambda_": 2.5}})
    ['terms.fgd.alpha=0.01', 'terms.fgd.lambda_=2.5']
    """
    return [f"terms.{term}.{name}={value}" for term, settings in found.items() for name, value in settings.items()]
