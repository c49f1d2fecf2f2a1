"""A term of a detection objective: turns what two detectors say of a batch with boxes into a few named numbers."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from kdscope.detection.batch import DetectionBatch, DetectionFeatures
from kdscope.methods.term import Term


class DetectionTerm(Term):
    """Base of all terms of detectors. A subclass sets `name` and `summary`, and defines `forward`.

    As in classification, constructor arguments are the settings, and trainable adapters and saved buffers are ordinary
    attributes; they are trained, saved and resumed. The settings `weight`, `warmup` and `anneal` are the objective's.

    The engine calls, in this order: `build` once on what a dry forward pass of both detectors gives; of a run that is
    new `begin`, and where `observes` is true `observe` on a few training batches; then `forward` in every step,
    outside of autocast, the teacher's tensors without a gradient.

    Attributes:
        reads: "features" (of student and teacher), or "labels" (`teacher` is then None): no teacher is needed.
        parts: names of what `forward` gives, in order; known when `build` is done. Empty: one number without a name.
        asks: heads whose rows the teacher must be asked for, known when `build` is done (which is shown all heads).
        observes: whether `observe` must be called before training.
        in_main: whether the term has a loss; one that only changes what the student begins with has none.
        in_own_units: for `calibrate`: whether the loss is in the units of the detector's own and begins near 0, so that
            its first size says nothing.
        balanced: for `calibrate`: part to (the setting that weighs it, the share of the term's loss it should have).
    """

    reads: ClassVar[str] = "features"
    balanced: ClassVar[Mapping[str, tuple[str, float]]] = {}
    in_own_units: ClassVar[bool] = False
    parts: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    observes: bool = False

    def build(self, student: DetectionFeatures, teacher: DetectionFeatures | None) -> None:
        """Make adapters and set `parts`, knowing the shapes; raise where the two cannot be compared."""

    def begin(self, student: nn.Module, teacher: nn.Module) -> None:
        """Change the weights that the student starts from, in place; raise where the two do not fit."""

    def observe(self, teacher: DetectionFeatures, batch: DetectionBatch) -> None:
        """Take statistics of the teacher from a training batch, kept in saved buffers."""

    def forward(
        self, student: DetectionFeatures, teacher: DetectionFeatures | None, batch: DetectionBatch
    ) -> Tensor | dict[str, Tensor]:
        """The loss, one float32 scalar, or one for each of `parts`, already weighed by the term's own settings."""
        raise NotImplementedError
