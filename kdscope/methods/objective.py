"""The distillation objective: a weighted sum of terms over a student and any number of teachers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdscope import models
from kdscope.data import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.features import ENSEMBLES, Ensemble, Features
from kdscope.features.select import select
from kdscope.methods.method import known_terms
from kdscope.methods.term import Term


class Objective(nn.Module):
    """Weighted sum of terms, made from resolved settings (`resolve`) and bound to one student and its teachers.

    Args:
        terms: for each term its weight and settings; a weight of 0 leaves the term out.
        student: the network that learns.
        teachers: the networks that it learns from, none for terms that read labels alone.
        ensemble: how terms that read logits see several teachers: "mean-probability", "mean-logit" or "mean-loss".
        teacher_weights: relative weights of the teachers; equal when not given.

    Attributes:
        names: the terms, in order; `weights` [K] belong to them, and so does what `forward` returns.
        student_layers: modules of the student that must be hooked; `teacher_layers` the same for each teacher.
    """

    def __init__(
        self,
        terms: Mapping[str, Mapping[str, Any]],
        student: nn.Module,
        teachers: Sequence[nn.Module] = (),
        ensemble: str = "mean-probability",
        teacher_weights: Sequence[float] | None = None,
    ):
        super().__init__()
        if ensemble not in ENSEMBLES:
            raise unknown("ensemble", ensemble, ENSEMBLES)
        known, kept = known_terms(), {name: s for name, s in terms.items() if s["weight"] > 0}
        self.names = tuple(kept)
        self.ensemble = ensemble
        shares = list(teacher_weights or [1.0] * len(teachers))
        self.teacher_weights = tuple(share / sum(shares) for share in shares)
        self.register_buffer("weights", torch.tensor([float(s["weight"]) for s in kept.values()]), persistent=False)

        # A term that reads features has one instance for each teacher, because adapters fit one teacher's shapes.
        self.terms = nn.ModuleDict()
        self.pairs: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {}
        for name, settings in kept.items():
            kind = known[name]
            options = {key: value for key, value in settings.items() if key != "weight"}
            if kind.reads != "labels" and not teachers:
                raise KDScopeError(
                    f"term {name!r} needs a teacher; add one (--teacher RUN), or train with --method none"
                )
            copies = len(teachers) if kind.reads == "features" else 1
            self.terms[name] = nn.ModuleList(kind(**options) for _ in range(copies))
            if kind.reads == "features":
                self.pairs[name] = [_pair(self.terms[name][0], student, teacher) for teacher in teachers]

        each = list(self.pairs.values())
        self.student_layers = _union(pair[0] for pairs in each for pair in pairs)
        self.teacher_layers = [_union(pairs[k][1] for pairs in each) for k in range(len(teachers))]

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads what a teacher says."""
        return any(terms[0].reads != "labels" for terms in self.terms.values())

    def build(self, student: Features, teachers: Sequence[Features]) -> None:
        """Let the terms make their adapters from one dry forward pass of all networks."""
        for name, terms in self.terms.items():
            for k, term in enumerate(terms):
                if term.reads == "features":
                    term.build(*self._views(name, k, student, teachers))
                elif term.reads == "logits":
                    term.build(student, Ensemble.of(teachers, self.teacher_weights, self.ensemble))

    def forward(self, student: Features, teachers: Sequence[Features], batch: Batch) -> Tensor:
        """The unweighted value of each term [K], float32; the loss is `weights @ values`."""
        return torch.stack([self._value(name, student, teachers, batch) for name in self.names])

    def _value(self, name: str, student: Features, teachers: Sequence[Features], batch: Batch) -> Tensor:
        terms: Sequence[Term] = self.terms[name]
        if terms[0].reads == "labels":
            return terms[0](student, None, batch)
        if terms[0].reads == "logits" and self.ensemble != "mean-loss":
            return terms[0](student, Ensemble.of(teachers, self.teacher_weights, self.ensemble), batch)
        if terms[0].reads == "logits":
            values = [terms[0](student, teacher, batch) for teacher in teachers]
        else:
            values = [term(*self._views(name, k, student, teachers), batch) for k, term in enumerate(terms)]
        return sum(weight * value for weight, value in zip(self.teacher_weights, values, strict=True))

    def _views(self, name: str, k: int, student: Features, teachers: Sequence[Features]) -> tuple[Features, Features]:
        """Of student and teacher `k`, just the maps that term `name` asked for, paired by position."""
        ours, theirs = self.pairs[name][k]
        return (
            Features(student.logits, {layer: student[layer] for layer in ours}),
            Features(teachers[k].logits, {layer: teachers[k][layer] for layer in theirs}),
        )


def _pair(term: Term, student: nn.Module, teacher: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers that `term` compares. Stages of networks of different depth are paired from the deep end."""
    patterns = {role: term.patterns(role) for role in ("student", "teacher")}
    ours = models.stages(student) if patterns["student"] is None else select(student, patterns["student"])
    theirs = models.stages(teacher) if patterns["teacher"] is None else select(teacher, patterns["teacher"])
    if patterns["student"] is None and patterns["teacher"] is None:
        depth = min(len(ours), len(theirs))
        ours, theirs = ours[-depth:], theirs[-depth:]
    if len(ours) != len(theirs) or not ours:
        raise KDScopeError(
            f"term {term.name!r} pairs layers by position, but `layers` gives {len(ours)} of the student "
            f"({', '.join(ours)}) and {len(theirs)} of the teacher ({', '.join(theirs)})"
        )
    return tuple(ours), tuple(theirs)


def _union(groups: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer for group in groups for layer in group))
