"""What a method would do on a pair of detectors, without training: `kdscope.training.explain` for detectors."""

import torch

from kdscope.detection import models
from kdscope.detection.adapter import adapt
from kdscope.detection.learner import DetectionLearner
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.detection.methods.presets import DETECTION_METHODS, resolve
from kdscope.methods.method import parts
from kdscope.training.explain import Explanation


def explain(
    method: str,
    student: str = "fcos_resnet10_w16",
    teacher: str = "fcos_resnet18_w32",
    *,
    num_classes: int = 3,
    image_size: int = 128,
    batch_size: int = 8,
) -> Explanation:
    """What `method` would do with these detectors; by default those that are trained on scenes.

    Args:
        method: a name or a sum, such as "fgd+kd".
        student, teacher: names of detectors.
        num_classes, image_size: of the data, in objects and pixels.
        batch_size: for the memory of maps.

    Raises:
        KDScopeError: an unknown name, or a term that is not defined for this pair, and why.

    >>> found = explain("mimicry", "fcos_resnet10_w8")
    >>> found.pairs["mimicry"][0][0], found.parameters
    ('stride 8 (64 x 16 x 16)', 0)
    """
    resolved = resolve(method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = [models.build(name, num_classes, image_size=image_size) for name in (student, teacher)]
        objective = DetectionObjective(resolved, teacher=True)
        DetectionLearner(networks[0], objective, networks[1]).build(image_size)
    ours, theirs = maps = [_maps(network.eval(), image_size) for network in networks]
    pairs = {}
    for name, term in objective.terms.items():
        if term.asks:
            pairs[name] = (tuple(f"rows of {head}" for head in term.asks),) * 2
        elif term.reads == "features" and term.in_main:
            strides = getattr(term, "levels", term).strides or [stride for stride in ours if stride in theirs]
            pairs[name] = tuple(
                tuple(f"stride {stride} ({' x '.join(map(str, each[stride]))})" for stride in strides)
                for each in (ours, theirs)
            )
    return Explanation(
        parts=parts(method, DETECTION_METHODS),
        terms=resolved,
        pairs=pairs,
        phases=(),
        chain="",
        gradients="sum",
        peers=0,
        parameters=sum(p.numel() for p in objective.parameters()),
        state_bytes=sum(t.numel() * t.element_size() for t in (*objective.parameters(), *objective.buffers())),
        map_bytes=4 * batch_size * sum(torch.Size(shape).numel() for each in maps for shape in each.values()),
    )


@torch.no_grad()
def _maps(network: torch.nn.Module, size: int) -> dict[int, tuple[int, ...]]:
    """(C, H, W) of each level, by stride."""
    adapter = adapt(network)
    frame = adapter.frame(torch.zeros(1, 3, size, size), [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}],
                          torch.zeros(1).long())  # fmt: skip
    return {stride: tuple(value.shape[1:]) for stride, value in adapter.look(frame).maps.items()}
