"""Student, objective and teachers as one module: one forward call gives the loss, and DDP sees all parameters."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.data import Batch, View
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.features.hooks import Capture
from kdscope.methods import Objective
from kdscope.methods.term import Phase


class Learner(nn.Module):
    """Student, peers and objective are trained; the teachers stay outside of the module tree: frozen, in eval mode.

    `forward` returns the value of each term [K] (float32) and the number of right answers in the batch, on the device;
    in a phase, the phase's loss [1]. It is called inside `with learner.capturing():`, which holds the hooks.

    Args:
        student: the network that is wanted in the end.
        objective: made for these networks.
        teachers: networks that it learns from.
        peers: networks that learn together with it, from it and it from them.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        teachers: Sequence[nn.Module],
        peers: Sequence[nn.Module] = (),
    ):
        super().__init__()
        self.student = student
        self.objective = objective
        self.peers = nn.ModuleList(peers)
        frozen = [teacher.eval().requires_grad_(False) for teacher in teachers]
        self.teachers = tuple(frozen)  # all of them, for probes; those that the terms ask are moved to the device
        self._teachers = frozen if objective.needs_teacher else []
        self.view: View | None = None  # of the batch that comes next
        self._frozen = {p for p in (*student.parameters(), *self.peers.parameters()) if not p.requires_grad}
        self.enter(None)

    def enter(self, phase: tuple[str, Phase] | None) -> None:
        """Make ready for a phase, or for the main training: which parameters learn, and what is hooked."""
        objective = self.objective
        self.phase = phase
        learning = objective.learning(phase)
        if phase is None or phase[1].learns == "student":
            learning |= set(self.student.parameters())
        if phase is None:
            learning |= set(self.peers.parameters())
        for parameter in self.parameters():
            parameter.requires_grad_(parameter in learning and parameter not in self._frozen)

        ours, theirs = objective.layers_in(phase)
        asked = self._teachers if objective.asks_teachers_in(phase) else []
        self._listen = Capture(self.student, ours)
        self._listen_teachers = [Capture(t, layers) for t, layers in zip(asked, theirs, strict=False)]
        self._listen_peers = [Capture(peer, ()) for peer in self.peers]

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Hold the hooks on student and teachers."""
        with contextlib.ExitStack() as stack:
            for capture in (self._listen, *self._listen_teachers):
                stack.enter_context(capture)
            yield

    def arguments(self, batch: Batch) -> tuple[Tensor, ...]:
        """What `forward` is given of a batch: tensors, which DDP can pass on."""
        self.view = batch.view
        return batch.image, batch.label, batch.index

    def forward(self, image: Tensor, label: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        # The teachers first, while the student's activations do not yet hold memory: a tenth faster on CPU.
        teachers = self.teach(image)
        runs = self.phase is None or self.phase[1].learns == "student"
        student = self._listen(image) if runs else None
        peers = [listen(image) for listen in self._listen_peers] if self.phase is None else []
        batch = Batch(image, label, index, self.view)
        with torch.autocast(image.device.type, enabled=False):  # losses are float32, whatever the networks run in
            if self.phase is None:
                values = self.objective(student, teachers, batch, peers)
            else:
                values = self.objective.phase_value(self.phase, student, teachers, batch)
        if student is None:
            return values, torch.zeros((), device=label.device)
        return values, (student.logits.detach().argmax(1) == label).sum()

    @torch.no_grad()  # not inference_mode: its tensors cannot be saved for the student's backward pass
    def teach(self, image: Tensor) -> list[Features]:
        """What each teacher says of a batch, once for all terms."""
        return [listen(self.objective.shown(image, k)) for k, listen in enumerate(self._listen_teachers)]

    def build(self, image: Tensor) -> None:
        """One dry forward pass: check that all networks agree on the classes, and let the terms make their adapters."""
        mode = self.student.training
        self.student.eval()  # no batch statistic may move
        listen = Capture(self.student, self.objective.student_layers)
        asked = [Capture(*each) for each in zip(self._teachers, self.objective.teacher_layers, strict=False)]
        with contextlib.ExitStack() as stack, torch.no_grad():
            student, *teachers = [stack.enter_context(capture)(image) for capture in (listen, *asked)]
        self.student.train(mode)
        for k, teacher in enumerate(teachers):
            if teacher.logits.shape != student.logits.shape:
                classes = f"{teacher.logits.shape[1]} classes and the student with {student.logits.shape[1]}"
                raise KDScopeError(f"teacher {k} answers with {classes}")
        self.objective.build(student, teachers)
        self.enter(self.phase)  # the adapters too

    def compile_networks(self) -> None:
        """Compile all networks on their next call; the hooks of `capturing` must be in place by then."""
        for network in (self.student, *self._teachers, *self.peers):
            network.compile()

    def to(self, *args: Any, **kwargs: Any) -> "Learner":
        for teacher in self._teachers:
            teacher.to(*args, **kwargs)
        return super().to(*args, **kwargs)
