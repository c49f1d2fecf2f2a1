"""Student, objective and teacher of a detection run as one module; the counterpart of `kdscope.training.learner`."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.detection.adapter import Step, adapt
from kdscope.detection.batch import PROPOSED, DetectionBatch, DetectionFeatures
from kdscope.detection.data.batches import Scenes
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.methods.term import Phase
from kdscope.models.watch import evaluating

Given = tuple[Tensor | list[Tensor], list[dict[str, Tensor]], Tensor]


class DetectionLearner(nn.Module):
    """Student and objective are trained; the teacher stays outside of the module tree: frozen, in eval mode.

    Of the teacher, backbone and neck run, and of its heads those that a term compares, on the student's own rows; it
    proposes rows only where a term asks for its proposals, and it detects nothing.

    Args:
        student: a detector that `kdscope.detection.adapter.adapt` knows.
        objective: of this student.
        teacher: the network that it learns from, if there is one.

    Attributes:
        records: JSON that a new run keeps beside its config, by the name of the file.
    """

    def __init__(self, student: nn.Module, objective: DetectionObjective, teacher: nn.Module | None = None):
        super().__init__()
        self.student, self.objective = student, objective
        self.records: dict[str, list] = {}
        self.peers = nn.ModuleList()
        self.teachers = () if teacher is None else (teacher.eval().requires_grad_(False),)
        self._adapter = adapt(student)
        self._teacher = adapt(teacher) if teacher is not None and objective.compares else None
        self._frozen = {p for p in student.parameters() if not p.requires_grad}
        self.enter(None)

    @property
    def least_images(self) -> int:
        """The smallest batch that the student can be trained with."""
        return self._adapter.least_images

    def enter(self, phase: tuple[str, Phase] | None) -> None:
        """Which parameters learn; there are no phases."""
        self.phase = phase
        learning = self.objective.learning(phase) | set(self.student.parameters())
        for parameter in self.parameters():
            parameter.requires_grad_(parameter in learning and parameter not in self._frozen)

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Nothing is hooked: adapters call the parts of a detector themselves."""
        yield

    def arguments(self, batch: Scenes) -> Given:
        """What `forward` is given of a batch."""
        return batch.images, batch.targets, batch.index

    def forward(
        self, images: Tensor | list[Tensor], targets: list[dict[str, Tensor]], index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The value of each part of each term [K] (float32), and 0: images have no right answer."""
        student, teacher, batch = self.look(images, targets, index)
        return self.objective(student, teacher, batch), torch.zeros((), device=batch.images.device)

    def look(
        self, images: Tensor | list[Tensor], targets: list[dict[str, Tensor]], index: Tensor
    ) -> tuple[DetectionFeatures, DetectionFeatures | None, DetectionBatch]:
        """What both say of a batch, the transform having run once, and the batch with the targets of its rows."""
        step, teacher = self._taught(self._adapter.learn(self._adapter.frame(images, targets, index)))
        return step.features, teacher, step.batch

    def _taught(self, step: Step) -> tuple[Step, DetectionFeatures | None]:
        """What the teacher says of the same images and the same rows; to the step are added those that it proposes."""
        if self._teacher is None:
            return step, None
        asks = self.objective.asks
        with torch.no_grad():
            features = self._teacher.features(step.batch)
            proposed = self._teacher.propose(features, step.batch) if PROPOSED in asks else None
        if proposed is not None:
            step = self._adapter.learn_proposed(step, proposed)
        with torch.no_grad():
            sampled = {"roi": step.proposals, PROPOSED: step.proposed}
            rows = self._teacher.rows(features, step.batch, asks, sampled)
        return step, DetectionFeatures(self._teacher.maps(features), rows)

    @torch.no_grad()
    def build(self, size: int = 64) -> None:
        """One dry pass of both, so that the terms can make their adapters and name their parts."""
        box = torch.tensor([[size / 4, size / 4, size / 2, size / 2]])
        target = {"boxes": box, "labels": torch.ones(1, dtype=torch.int64)}
        with evaluating(self.student):  # no batch statistic may move
            self._adapter.check_student(size)
            frame = self._adapter.frame(torch.zeros(1, 3, size, size), [target], torch.zeros(1).long())
            step = self._adapter.learn(frame)
        teacher = None
        if self._teacher is not None:
            both = [head for head in self._adapter.heads if head in self._teacher.heads]
            teacher = self._teacher.look(step.batch, both, step.proposals)
        self.objective.build(step.features, teacher)
        self.enter(self.phase)  # the adapters too

    @torch.no_grad()
    def observe(self, batch: Scenes) -> None:
        """Show a training batch to the terms that look at some before the first step."""
        if self._teacher is not None:
            frame = self._adapter.frame(*self.arguments(batch))
            self.objective.observe(self._teacher.look(frame), frame)

    def to(self, *args: Any, **kwargs: Any) -> "DetectionLearner":
        if self._teacher is not None:
            self._teacher.detector.to(*args, **kwargs)
        return super().to(*args, **kwargs)
