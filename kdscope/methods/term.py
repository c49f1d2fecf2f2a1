"""A term of a distillation objective: turns what student and teacher say of a batch into one number."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from kdscope.data import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.features import Features

Layers = str | Sequence[str] | Mapping[str, str | Sequence[str]]

# Settings that every term has, beside its own: its weight, the share of all epochs over which the weight rises from
# zero, and whether it then falls to zero by the end ("linear", "cosine").
COMMON = {"weight": 1.0, "warmup": 0.0, "anneal": "none"}


@dataclass(frozen=True)
class Phase:
    """A training before the main one that a term asks for, with an optimiser of its own.

    Attributes:
        name: such as "paraphraser".
        share: epochs of the phase as a share of the run's epochs, at least one; RepDistiller's 30 of 240 is 0.125.
        learns: "term" (its own parameters alone; the student is not even run) or "student" (both).
        lr: a constant learning rate; None is the run's own rate and schedule, over the length of the phase.
        weight_decay: of the phase; None is the run's own.
    """

    name: str
    share: float
    learns: str = "term"
    lr: float | None = None
    weight_decay: float | None = None

    def epochs(self, total: int) -> int:
        """Epochs of this phase before a main training of `total` epochs; no share is no phase."""
        return max(1, round(self.share * total)) if self.share > 0 else 0


def check_share(term: str, share: float) -> None:
    """Raise unless `share` of a run's epochs, the length of a phase of `term`, is a number in [0, 10]."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 10:
        raise KDScopeError(f"term {term!r}: init_share is a share of the run's epochs such as 0.125, not {share!r}")


@dataclass(frozen=True)
class TrainingData:
    """What a term may know of the training part: the label of every image [N] (int64), and the number of classes.

    `augment`: the augmentation under which its images will be shown; empty where that is not known yet.
    """

    labels: Tensor
    num_classes: int
    augment: str = ""


class Term(nn.Module):
    """Base of all terms. A subclass sets `name`, `reads` and `summary`, and defines `forward`; the rest is optional.

    Constructor arguments are the term's settings: they can be set from YAML and the command line, and are stored in the
    run's config. Trainable adapters and saved buffers are ordinary attributes; they are trained, saved and resumed.

    `reads` says what the term needs: "labels" (no teacher), "logits" (several teachers come as one `Ensemble`),
    "features" (called once for each teacher and averaged over them with their weights), or "peers" (networks that learn
    together with the student: `teacher` is then the tuple of their features, with gradients).
    A term that reads features is given exactly the maps that it asked for, shallow to deep, so that
    `zip(student.maps.values(), teacher.maps.values())` are its pairs.

    Attributes:
        layers: "stages", "preactivations", "blocks", "penultimate", one of them with an index from the deep end such as
            "stages:-1", patterns of `kdscope.features.select`, a list of those, or {student: ..., teacher: ...}.
        paired: whether layers are compared by position, so that there must be as many on both sides.
        maps_only: whether each layer must give feature maps [B, C, H, W], and not the vectors behind the pooling.
        least_images: the smallest batch (on one device) that the term is defined for.
        warmup: default of the setting of that name, which every term has.
        on_device: what was prepared is wanted on the device; False leaves it in the host's memory.
        changes_student: the term puts layers into the student (`change`), which are saved with it.
    """

    name: ClassVar[str]
    reads: ClassVar[str]
    summary: ClassVar[str] = ""
    paired: ClassVar[bool] = True
    maps_only: ClassVar[bool] = False
    least_images: ClassVar[int] = 1
    warmup: ClassVar[float] = 0.0
    on_device: ClassVar[bool] = True
    changes_student: ClassVar[bool] = False
    layers: Layers = ()

    # Before training, in this order. Each is called once, or once for each teacher where the term reads features.

    def change(self, student: nn.Module) -> nn.Module:
        """The student with what the term puts into it; only where `changes_student`."""
        return student

    def know(self, data: TrainingData) -> None:
        """Take what is needed of the training part, such as the number of its images."""

    def look(self, student: nn.Module, teacher: nn.Module) -> None:
        """Take what is needed of the networks themselves, such as the statistics of their batch norms."""

    def build(self, student: Features, teacher: Features) -> None:
        """Make adapters, knowing the shapes from one dry forward pass; before the optimiser is made."""

    # What is computed once from a teacher and the training images, and kept for all runs that need the same.

    def preparation(self) -> dict[str, Any] | None:
        """The settings that decide what `prepare` gives, as plain values; None where there is nothing to prepare."""
        return None

    def prepare(self, images: Any, teacher: Callable[[Tensor], Features]) -> Mapping[str, Tensor]:
        """Compute it: `images` is a `kdscope.training.preparation.TrainingImages`, `teacher` its answers to a batch.

        Random numbers come from torch's global generator, which is seeded for this.
        """
        raise NotImplementedError

    def use(self, prepared: Mapping[str, Tensor]) -> None:
        """Take what `prepare` gave, now or in an earlier run; it is not saved with the run."""

    # Phases before the main training.

    def phases(self) -> tuple[Phase, ...]:
        """Trainings that come before the main one."""
        return ()

    def phase_loss(self, phase: Phase, student: Features | None, teacher: Features, batch: Batch) -> Tensor:
        """The loss of a phase, one float32 scalar; `student` is None where the phase learns the term alone."""
        return self(student, teacher, batch)

    def trained(self, phase: Phase | None) -> Iterable[nn.Parameter]:
        """The term's own parameters that learn in `phase`, or in the main training (None)."""
        return self.parameters()

    @property
    def in_main(self) -> bool:
        """Whether the term has a part in the main training; one that only initialises the student has not."""
        return True

    # Every step.

    def shown(self, image: Tensor, k: int, m: int) -> Tensor:
        """What teacher k of m is shown where the student sees `image` [B, C, H, W]; of the same shape, and then all
        terms that read this teacher would hear of that: a term that changes it stands alone among them."""
        return image

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        """The loss, one float32 scalar."""
        raise NotImplementedError

    def patterns(self, role: str) -> tuple[str, ...]:
        """What to hook in the "student" or a "teacher": words such as "stages", or layer patterns."""
        layers = self.layers
        if isinstance(layers, Mapping):
            if role not in layers:
                raise KDScopeError(
                    f"term {self.name!r}: `layers` gives no layers for the {role}; it has {', '.join(layers)}"
                )
            layers = layers[role]
        layers = (layers,) if isinstance(layers, str) else layers
        if not isinstance(layers, Sequence) or not all(isinstance(layer, str) for layer in layers):
            raise KDScopeError(f"term {self.name!r}: `layers` takes names such as [layer2, layer3], not {layers!r}")
        return tuple(layers)

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Names and defaults of the term's settings."""
        parameters = inspect.signature(cls).parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return {p.name: p.default for p in parameters if p.kind in kinds}

    @classmethod
    def check_settings(cls, names: Iterable[str]) -> None:
        """Raise for a setting that the term does not have, with the nearest that it has."""
        known = [*cls.settings(), *COMMON]
        for name in names:
            if name not in known:
                raise unknown("setting", name, known, f"term {cls.name!r}")
