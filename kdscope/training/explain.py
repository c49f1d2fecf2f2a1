"""What a method would do on a given pair of networks, without training: its terms, layers, phases and what it costs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kdscope import models
from kdscope.methods import METHODS, Method, Objective, resolve
from kdscope.methods.method import FAMILIES, one_of, parts
from kdscope.methods.objective import changed
from kdscope.methods.term import COMMON, Phase, TrainingData
from kdscope.training.learner import Learner

UNITS = ("bytes", "KiB", "MiB", "GiB")


@dataclass(frozen=True)
class Explanation:
    """Of a method on a student and a teacher.

    Attributes:
        parts: the presets that it adds up, by name.
        terms: the weight and settings of each term; `pairs`: the layers of student and teacher that each hooks.
        phases: the trainings before the main one, with their terms.
        chain: "assistants", "generations" or "". gradients: the rule that combines those of labels and teacher.
        parameters: numbers that are trained beside the student; `state_bytes`: what the terms keep in memory (adapters,
            memory banks), `map_bytes`: the hooked maps of one batch of `images`.
    """

    parts: Mapping[str, Method]
    terms: Mapping[str, Mapping[str, Any]]
    pairs: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    phases: tuple[tuple[str, Phase], ...]
    chain: str
    gradients: str
    peers: int
    parameters: int
    state_bytes: int
    map_bytes: int


def explain(
    method: str,
    student: str = "resnet20",
    teacher: str = "resnet56",
    *,
    terms: Mapping[str, Mapping[str, Any]] | None = None,
    num_classes: int = 100,
    image_size: int = 32,
    images: int = 50_000,
    batch_size: int = 64,
) -> Explanation:
    """What `method` would do with these networks; by default those and the data of most papers' first column.

    Args:
        method: a name or a sum, such as "kd+at".
        student, teacher: names of models.
        terms: settings over those of the method, by term.
        num_classes, image_size, images: of the training part.
        batch_size: for the memory of maps.

    Raises:
        KDScopeError: an unknown name or setting, or a term that is not defined for this pair, and why.

    >>> found = explain("at", "resnet8", "resnet14", num_classes=10)
    >>> found.pairs["at"][0], found.parameters
    (('layer1', 'layer2', 'layer3'), 0)
    """
    resolved = resolve(method, terms)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = changed(models.build(student, num_classes, image_size=image_size), resolved)
        plain = sum(p.numel() for p in models.build(student, num_classes, image_size=image_size).parameters())
        learned_from = models.build(teacher, num_classes, image_size=image_size)
        peers = one_of(method, "peers", 0)
        labels = torch.arange(images) % num_classes
        objective = Objective(resolved, network, [learned_from], peers=peers, data=TrainingData(labels, num_classes))
        learner = Learner(network, objective, [learned_from])
        learner.build(torch.zeros(2, 3, image_size, image_size))
    return Explanation(
        parts=parts(method),
        terms=resolved,
        pairs={name: pairs[0] for name, pairs in objective.pairs.items()},
        phases=tuple(objective.phases),
        chain=one_of(method, "chain", ""),
        gradients=one_of(method, "gradients", "sum"),
        peers=peers,
        parameters=sum(p.numel() for p in learner.parameters()) - plain,
        state_bytes=sum(t.numel() * t.element_size() for t in (*objective.parameters(), *objective.buffers())),
        map_bytes=_map_bytes(learner, image_size) * batch_size,
    )


def _map_bytes(learner: Learner, image_size: int) -> int:
    """Bytes of the hooked maps of one image, of student and teacher, in float32."""
    learner.enter(None)
    learner.eval()
    image = torch.zeros(1, 3, image_size, image_size)
    with learner.capturing(), torch.no_grad():
        caught = [learner._listen(image), *learner.teach(image)]
    return sum(4 * value.numel() for features in caught for value in features.maps.values())


def weights_in_words(settings: Mapping[str, Any]) -> str:
    """A term's weight with its schedule, such as "8, rising over the first 8 % of epochs".

    >>> weights_in_words({"weight": 8.0, "warmup": 20 / 240})
    '8, rising over the first 8.3 % of epochs'
    """
    common = COMMON | {key: settings[key] for key in COMMON if key in settings}
    words = f"{common['weight']:g}"
    if common["warmup"]:
        words += f", rising over the first {100 * common['warmup']:.2g} % of epochs"
    if common["anneal"] != "none":
        words += f", falling to zero ({common['anneal']})"
    return words


def size_in_words(size: int) -> str:
    """Bytes with a unit.

    >>> size_in_words(0), size_in_words(51_200), size_in_words(51_200_000)
    ('0', '50 KiB', '49 MiB')
    """
    if size == 0:
        return "0"
    power = min(3, int(math.log(size, 1024)))
    amount = size / 1024**power
    return f"{amount:.0f} {UNITS[power]}" if amount >= 10 else f"{amount:.2g} {UNITS[power]}"


def all_methods() -> list[str]:
    """Names of all methods, by family and then by name: the order of the tables."""
    return sorted(METHODS, key=lambda name: (FAMILIES.index(METHODS[name].family), name))
