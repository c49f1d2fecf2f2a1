"""Student, objective and teachers as one module: one forward call gives the loss, and DDP sees all parameters."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.features.hooks import Capture
from kdscope.methods import Objective


class Learner(nn.Module):
    """The student and the objective are trained; the teachers stay outside of the module tree: frozen, in eval mode.

    `forward` returns the value of each term [K] (float32) and the number of right answers in the batch, on the device.
    It is called inside `with learner.capturing():`, which holds the hooks.
    """

    def __init__(self, student: nn.Module, objective: Objective, teachers: Sequence[nn.Module]):
        super().__init__()
        self.student = student
        self.objective = objective
        frozen = [teacher.eval().requires_grad_(False) for teacher in teachers]
        self.teachers = tuple(frozen)  # all of them, for probes; those that the terms ask are moved to the device
        self._teachers = frozen if objective.needs_teacher else []
        self._listen = Capture(student, objective.student_layers)
        layers = objective.teacher_layers[: len(self._teachers)]
        self._listen_teachers = [Capture(t, names) for t, names in zip(self._teachers, layers, strict=True)]

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Hold the hooks on student and teachers."""
        with contextlib.ExitStack() as stack:
            for capture in (self._listen, *self._listen_teachers):
                stack.enter_context(capture)
            yield

    def forward(self, image: Tensor, label: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        # The teachers first, while the student's activations do not yet hold memory: a tenth faster on CPU.
        teachers = self.teach(image)
        student = self._listen(image)
        with torch.autocast(image.device.type, enabled=False):  # losses are float32, whatever the networks run in
            values = self.objective(student, teachers, Batch(image, label, index, None))
        return values, (student.logits.detach().argmax(1) == label).sum()

    @torch.no_grad()  # not inference_mode: its tensors cannot be saved for the student's backward pass
    def teach(self, image: Tensor) -> list[Features]:
        """What each teacher says of a batch, once for all terms."""
        return [listen(image) for listen in self._listen_teachers]

    def build(self, image: Tensor) -> None:
        """One dry forward pass: check that all networks agree on the classes, and let the terms make their adapters."""
        mode = self.student.training
        self.student.eval()  # no batch statistic may move
        with self.capturing(), torch.no_grad():
            student, teachers = self._listen(image), self.teach(image)
        self.student.train(mode)
        for k, teacher in enumerate(teachers):
            if teacher.logits.shape != student.logits.shape:
                classes = f"{teacher.logits.shape[1]} classes and the student with {student.logits.shape[1]}"
                raise KDScopeError(f"teacher {k} answers with {classes}")
        self.objective.build(student, teachers)

    def compile_networks(self) -> None:
        """Compile student and teachers on their next call; the hooks of `capturing` must be in place by then."""
        for network in (self.student, *self._teachers):
            network.compile()

    def to(self, *args: Any, **kwargs: Any) -> "Learner":
        for teacher in self._teachers:
            teacher.to(*args, **kwargs)
        return super().to(*args, **kwargs)
