"""Integrated gradients, with as many steps as each image needs (Sundararajan, Taly & Yan, ICML 2017, eq. 1).

IG_i(x) = (x_i - x'_i) * integral_0^1 dF/dx_i (x' + t (x - x')) dt, along the straight path from a baseline x' to x. In
exact arithmetic sum_i IG_i = F(x) - F(x') (completeness); what is missing is the error of the quadrature, and is known
for each image. captum does the integration. Its trapezoid rule is not offered: its weights sum to (n - 1) / n.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdscope.attention.cut import Cut
from kdscope.attention.targets import check_target, runner_up, score
from kdscope.errors import KDScopeError, unknown

RULES = {"midpoint": "riemann_middle", "gauss-legendre": "gausslegendre"}
Scores = Callable[[Tensor, Tensor], Tensor]  # points [M, ...], rows [M] -> [M]: whose image each point belongs to


@dataclass(frozen=True)
class Integrated:
    """Attributions of some images, and how far each can be trusted.

    Attributes:
        values: [B, ...], of the shape of the input (or activation): signed, in the unit of the target.
        error: float32 [B], |sum of values - (F(x) - F(x'))| / |F(x) - F(x')|; NaN or infinite where F does not change.
        steps: int64 [B], of the quadrature, of the last attempt.
        change: float32 [B], F(x) - F(x').
    """

    values: Tensor
    error: Tensor
    steps: Tensor
    change: Tensor

    def converged(self, tolerance: float = 0.01) -> Tensor:
        """bool [B]: whose error is below the tolerance; the others belong in no statistics."""
        return self.error < tolerance

    def map(self) -> Tensor:
        """The attribution of each position, summed over channels: [B, H, W]."""
        return self.values.sum(1)


def integrate(
    scores: Scores,
    inputs: Tensor,
    baselines: Tensor,
    *,
    rule: str = "midpoint",
    steps: int = 16,
    most: int = 512,
    tolerance: float = 0.01,
    batch_size: int = 256,
) -> Integrated:
    """Integrated gradients of any function of rows, steps doubled for each row until its error is below `tolerance`.

    Args:
        scores: differentiable; takes points [M, ...] and int64 [M], which of the inputs each belongs to; gives [M].
        inputs, baselines: [B, ...], ends of the paths.
        rule: `midpoint` or `gauss-legendre`.
        steps, most: of the first attempt (at least 2), and at the utmost.
        batch_size: points that go through at once: several rows if they fit, else one row in several parts. Halved for
            the rest of the call when memory runs out.

    Raises:
        KDScopeError: an unknown rule (the trapezoid among them), shapes that differ, or memory that does not even
            suffice for one point.

    >>> x = torch.tensor([[1.0, 2.0]])
    >>> found = integrate(lambda points, rows: points.square().sum(1) / 2, x, torch.zeros_like(x))
    >>> found.values.tolist(), found.steps.tolist()
    ([[0.5, 2.0]], [16])
    """
    if rule not in RULES:
        hint = "; its weights sum to (n - 1) / n, so that it cannot be complete" if "trapez" in rule else ""
        raise KDScopeError(f"{unknown('rule', rule, RULES)}{hint}")
    if inputs.shape != baselines.shape or not 2 <= steps <= most:
        raise KDScopeError(
            f"integrated gradients from {list(baselines.shape)} to {list(inputs.shape)} in {steps} to {most} steps"
        )
    inputs, baselines = inputs.detach(), baselines.detach()
    room = _Room(batch_size)
    everything = torch.arange(len(inputs), device=inputs.device)
    ends = room.split(lambda rows: _change(scores, inputs, baselines, rows), everything, 2)
    values = torch.zeros_like(inputs)
    error = inputs.new_full((len(inputs),), float("nan"))
    used = torch.zeros_like(everything)
    pending = everything
    while len(pending):
        attempt = room.split(
            lambda rows, n=steps: _attempt(scores, inputs, baselines, rows, rule, n, room.points), pending, steps
        )
        change = ends[pending]
        values[pending], used[pending] = attempt, steps
        error[pending] = (attempt.flatten(1).sum(1) - change).abs() / change.abs()
        if steps == most:  # before we ask who is done: with a fixed number of steps the host never waits for the device
            break
        pending = pending[~(error[pending] < tolerance)]
        steps = min(2 * steps, most)
    return Integrated(values, error.float(), used, ends.float())


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    baselines: Tensor | None,
    *,
    layer: str | Cut | None = None,
    target: str = "centred-logit",
    **options,
) -> Integrated:
    """Integrated gradients of a network, on its input or on the output of a layer.

    On a layer the path lies in the layer's own space, from its output for the baseline to that for the image, as in
    captum's `LayerIntegratedGradients`; the layers below run once for each end (`kdscope.attention.cut`).

    Args:
        model: images to logits; should be in eval mode. It is given back as it was, gradients of weights untouched.
        images: float [B, 3, H, W]. classes: int64 [B], of which class.
        baselines: [B, 3, H, W], or [K, B, 3, H, W]: the mean over K baselines (expected gradients: Erion et al.,
            Nature Machine Intelligence 2021), with the completeness of the mean and the most steps of any. None starts
            at zero in the space of the layer, an activation that no picture may have.
        layer: a module's name, or its `Cut`; None for the input.
        target: as in `kdscope.attention.targets`.
        options: of `integrate`.

    Raises:
        KDScopeError: an unknown target, rule or layer.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    >>> x = torch.rand(2, 3, 2, 2)
    >>> found = integrated_gradients(net, x, torch.tensor([0, 2]), torch.zeros_like(x))
    >>> found.values.shape, bool(found.converged().all())
    (torch.Size([2, 3, 2, 2]), True)
    """
    check_target(target)
    if baselines is None and layer is None:
        baselines = torch.zeros_like(images)
    several = [None] if baselines is None else baselines if baselines.dim() == images.dim() + 1 else baselines[None]
    frozen = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        for weight, _ in frozen:
            weight.requires_grad_(False)
        cut = Cut(model, layer, images) if isinstance(layer, str) else layer
        found = []
        for baseline in several:
            ends = images, baseline
            if cut is not None:
                start = None if baseline is None else cut.below(baseline)
                above = cut.below(images)  # last, for what goes past the layer is that of the images
                ends = above, torch.zeros_like(above) if start is None else start
            with torch.no_grad():
                rivals = runner_up(model(images), classes) if target == "margin" else None

            def scores(points: Tensor, rows: Tensor, rivals: Tensor | None = rivals) -> Tensor:
                logits = model(points) if cut is None else cut.above(points, rows)
                return score(logits, classes[rows], target, None if rivals is None else rivals[rows])

            found.append(integrate(scores, *ends, **options))
    finally:
        for weight, required in frozen:
            weight.requires_grad_(required)
    return found[0] if len(found) == 1 else _mean(found)


def _mean(found: list[Integrated]) -> Integrated:
    values = torch.stack([each.values for each in found]).mean(0)
    change = torch.stack([each.change for each in found]).mean(0)
    error = (values.flatten(1).sum(1) - change).abs() / change.abs()
    return Integrated(values, error.float(), torch.stack([each.steps for each in found]).amax(0), change)


def _change(scores: Scores, inputs: Tensor, baselines: Tensor, rows: Tensor) -> Tensor:
    with torch.no_grad():
        both = scores(torch.cat([inputs[rows], baselines[rows]]), torch.cat([rows, rows]))
    return both[: len(rows)] - both[len(rows) :]


def _attempt(
    scores: Scores, inputs: Tensor, baselines: Tensor, rows: Tensor, rule: str, steps: int, points: int
) -> Tensor:
    from captum.attr import IntegratedGradients

    with torch.enable_grad():
        found = IntegratedGradients(scores).attribute(
            inputs[rows],
            baselines[rows],
            additional_forward_args=(rows,),
            n_steps=steps,
            method=RULES[rule],
            internal_batch_size=points if steps * len(rows) > points else None,
        )
    return found.detach()


class _Room:
    """How many points go through at once: learned when memory runs out."""

    def __init__(self, points: int):
        self.points = max(1, points)

    def split(self, work: Callable[[Tensor], Tensor], rows: Tensor, each: int) -> Tensor:
        """`work` on parts of `rows` that have at most so many points, at `each` a row; parts shrink if they must."""
        done, at = [], 0
        while at < len(rows):
            part = rows[at : at + max(1, self.points // each)]
            try:
                done.append(work(part))
            except torch.cuda.OutOfMemoryError as error:
                if self.points == 1:
                    raise KDScopeError("not enough memory for integrated gradients of one image in one step") from error
                self.points = max(1, min(self.points, len(part) * each) // 2)
                torch.cuda.empty_cache()
                continue
            at += len(part)
        return torch.cat(done)
