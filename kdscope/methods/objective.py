"""The distillation objective: a weighted sum of terms over a student, any number of teachers, and its peers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.data import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.choose import choose, is_word
from kdscope.features.features import ENSEMBLES, Ensemble, Features
from kdscope.methods.method import known_terms
from kdscope.methods.shapes import need_maps
from kdscope.methods.term import COMMON, Phase, Term, TrainingData

Views = tuple[Features | None, Features]


class Objective(nn.Module):
    """Weighted sum of terms, made from resolved settings (`resolve`) and bound to one student and its teachers.

    Args:
        terms: for each term its weight and settings; a weight of 0 leaves the term out.
        student: the network that learns, already changed by terms that do so (`changed`).
        teachers: the networks that it learns from, none for terms that read labels alone.
        ensemble: how terms that read logits see several teachers: "mean-probability", "mean-logit" or "mean-loss".
        teacher_weights: relative weights of the teachers; equal when not given.
        peers: how many networks learn together with the student.
        data: the training part, for terms that must know of it.

    Attributes:
        names: the terms of the main training, in order; `weights` [K] belong to them, and so does what `forward` gives.
        phases: (term, phase) of the trainings that come before it.
        student_layers: modules of the student that must be hooked; `teacher_layers` the same for each teacher.
        task: of each of `names`, whether it reads labels alone, so that its gradient is that of the task.
    """

    def __init__(
        self,
        terms: Mapping[str, Mapping[str, Any]],
        student: nn.Module,
        teachers: Sequence[nn.Module] = (),
        ensemble: str = "mean-probability",
        teacher_weights: Sequence[float] | None = None,
        peers: int = 0,
        data: TrainingData | None = None,
    ):
        super().__init__()
        if ensemble not in ENSEMBLES:
            raise unknown("ensemble", ensemble, ENSEMBLES)
        known, kept = known_terms(), {name: s for name, s in terms.items() if s["weight"] > 0}
        self.settings = kept
        self.ensemble = ensemble
        shares = list(teacher_weights or [1.0] * len(teachers))
        self.teacher_weights = tuple(share / sum(shares) for share in shares)

        # A term that reads features has one instance for each teacher, because adapters fit one teacher's shapes.
        self.terms = nn.ModuleDict()
        self.pairs: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {}
        for name, settings in kept.items():
            kind = known[name]
            _check_needs(kind, len(teachers), peers)
            copies = len(teachers) if kind.reads == "features" else 1
            self.terms[name] = nn.ModuleList(make_term(kind, settings) for _ in range(copies))
            for k, term in enumerate(self.terms[name]):
                if data is not None:
                    term.know(data)
                if term.reads in ("features", "logits"):
                    term.look(student, teachers[k])
            if kind.reads == "features":
                each = zip(self.terms[name], teachers, strict=True)
                self.pairs[name] = [layers_of(term, student, teacher) for term, teacher in each]

        self._showing = _showing(kept)
        self.phases = [(name, phase) for name, each in self.terms.items() for phase in each[0].phases()]
        self.names = tuple(name for name, each in self.terms.items() if each[0].in_main)
        if not self.names:
            raise KDScopeError(
                f"{', '.join(kept)}: nothing is left to train with after the phases; add kd or cross-entropy"
            )
        self.task = tuple(self.terms[name][0].reads == "labels" for name in self.names)
        self.register_buffer("weights", torch.tensor(self.weights_at(0, 1)), persistent=False)
        each = list(self.pairs.values())
        self.student_layers = _union(pair[0] for pairs in each for pair in pairs)
        self.teacher_layers = [_union(pairs[k][1] for pairs in each) for k in range(len(teachers))]

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads what a teacher says."""
        return any(each[0].reads in ("logits", "features") for each in self.terms.values())

    @property
    def least_images(self) -> int:
        """The smallest batch that all terms are defined for, and which of them asks for it is `most_demanding`."""
        return max(each[0].least_images for each in self.terms.values())

    @property
    def most_demanding(self) -> str:
        return max(self.terms, key=lambda name: self.terms[name][0].least_images)

    def weights_at(self, epoch: int, epochs: int) -> list[float]:
        """The terms' weights in `epoch` of `epochs`, after warm-up and annealing; the same in every step of it."""
        return [scheduled(self.settings[name], epoch, epochs) for name in self.names]

    def build(self, student: Features, teachers: Sequence[Features]) -> None:
        """Let the terms make their adapters from one dry forward pass of all networks."""
        for name, terms in self.terms.items():
            for k, term in enumerate(terms):
                if term.reads == "features":
                    views = self._views(name, k, student, teachers)
                    if term.maps_only:
                        need_maps(name, student=views[0].maps, teacher=views[1].maps)
                    term.build(*views)
                elif term.reads == "logits":
                    term.build(student, Ensemble.of(teachers, self.teacher_weights, self.ensemble))

    def layers_in(self, phase: tuple[str, Phase] | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """What must be hooked in the student and in each teacher during a phase, or in the main training."""
        names = self.names if phase is None else (phase[0],)
        each = [self.pairs[name] for name in names if name in self.pairs]
        theirs = [_union(pairs[k][1] for pairs in each) for k in range(len(self.teacher_weights))]
        return _union(pair[0] for pairs in each for pair in pairs), theirs

    def asks_teachers_in(self, phase: tuple[str, Phase] | None) -> bool:
        """Whether the teachers must run during a phase, or in the main training."""
        names = self.names if phase is None else (phase[0],)
        return any(self.terms[name][0].reads in ("logits", "features") for name in names)

    def shown(self, image: Tensor, k: int) -> Tensor:
        """What teacher k is shown of a batch: the image itself, or what a term makes of it."""
        if self._showing is None:
            return image
        return self.terms[self._showing][0].shown(image, k, len(self.teacher_weights))

    def learning(self, phase: tuple[str, Phase] | None) -> set[nn.Parameter]:
        """The objective's own parameters that learn in a phase, or in the main training."""
        names = self.names if phase is None else [phase[0]]
        kind = None if phase is None else phase[1]
        return {p for name in names for term in self.terms[name] for p in term.trained(kind)}

    def forward(
        self, student: Features, teachers: Sequence[Features], batch: Batch, peers: Sequence[Features] = ()
    ) -> Tensor:
        """The unweighted value of each term [K], float32; the loss is `weights @ values`."""
        return torch.stack([self._value(name, student, teachers, batch, peers) for name in self.names])

    def phase_value(
        self, phase: tuple[str, Phase], student: Features | None, teachers: Sequence[Features], batch: Batch
    ) -> Tensor:
        """The loss of a phase [1], float32."""
        name, kind = phase
        if self.terms[name][0].reads == "features":
            views = [self._views(name, k, student, teachers) for k in range(len(teachers))]
        else:
            views = [(student, Ensemble.of(teachers, self.teacher_weights, self.ensemble))]
        values = [term.phase_loss(kind, *view, batch) for term, view in zip(self.terms[name], views, strict=True)]
        return self._over_teachers(values).reshape(1)

    def _value(
        self,
        name: str,
        student: Features,
        teachers: Sequence[Features],
        batch: Batch,
        peers: Sequence[Features],
    ) -> Tensor:
        terms: Sequence[Term] = self.terms[name]
        reads = terms[0].reads
        if reads == "labels":
            return terms[0](student, None, batch)
        if reads == "peers":
            return terms[0](student, tuple(peers), batch)
        if reads == "logits" and self.ensemble != "mean-loss":
            return terms[0](student, Ensemble.of(teachers, self.teacher_weights, self.ensemble), batch)
        if reads == "logits":
            return self._over_teachers([terms[0](student, teacher, batch) for teacher in teachers])
        return self._over_teachers(
            [term(*self._views(name, k, student, teachers), batch) for k, term in enumerate(terms)]
        )

    def _over_teachers(self, values: Sequence[Tensor]) -> Tensor:
        if len(values) == 1:
            return values[0]
        return sum(weight * value for weight, value in zip(self.teacher_weights, values, strict=True))

    def _views(self, name: str, k: int, student: Features | None, teachers: Sequence[Features]) -> Views:
        """Of student and teacher `k`, just the maps that term `name` asked for, paired by position."""
        ours, theirs = self.pairs[name][k]
        return (
            None if student is None else Features(student.logits, {layer: student[layer] for layer in ours}),
            Features(teachers[k].logits, {layer: teachers[k][layer] for layer in theirs}),
        )


def make_term(kind: type[Term], settings: Mapping[str, Any]) -> Term:
    """A term from its resolved settings, less those that every term has and that belong to the objective."""
    return kind(**{key: value for key, value in settings.items() if key not in COMMON})


def changed(student: nn.Module, terms: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """The student with the layers that a term puts into it; two terms that both want to are an error."""
    known = known_terms()
    changing = [name for name, s in terms.items() if s["weight"] > 0 and known[name].changes_student]
    if len(changing) > 1:
        raise KDScopeError(f"terms {' and '.join(changing)} each want to change the student; take one of them")
    for name in changing:
        student = make_term(known[name], terms[name]).change(student)
    return student


def layers_of(term: Term, student: nn.Module, teacher: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers of student and teacher that `term` hooks.

    Where words such as "stages" give different numbers of layers, they are paired from the deep end.
    """
    patterns = {role: term.patterns(role) for role in ("student", "teacher")}
    try:
        ours, theirs = choose(student, patterns["student"]), choose(teacher, patterns["teacher"])
    except KDScopeError as error:
        raise KDScopeError(f"term {term.name!r}: {error}") from None
    if not term.paired:
        return tuple(ours), tuple(theirs)
    if all(is_word(pattern) for each in patterns.values() for pattern in each):
        depth = min(len(ours), len(theirs))
        ours, theirs = ours[len(ours) - depth :], theirs[len(theirs) - depth :]
    if len(ours) != len(theirs) or not ours:
        raise KDScopeError(
            f"term {term.name!r} pairs layers by position, but `layers` gives {len(ours)} of the student "
            f"({', '.join(ours)}) and {len(theirs)} of the teacher ({', '.join(theirs)})"
        )
    return tuple(ours), tuple(theirs)


def _showing(names: Iterable[str]) -> str | None:
    """The term that decides what each teacher is shown, or None; an error where another one reads teachers too."""
    known = known_terms()
    reading = [name for name in names if known[name].reads in ("logits", "features")]
    showing = [name for name in reading if known[name].shown is not Term.shown]
    if not showing:
        return None
    if len(reading) > 1:
        rest = ", ".join(repr(name) for name in reading if name != showing[0])
        raise KDScopeError(
            f"term {showing[0]!r} shows teachers other images than the student sees, which {rest} would hear of too; "
            "train without one of them"
        )
    return showing[0]


def _check_needs(kind: type[Term], teachers: int, peers: int) -> None:
    if kind.reads in ("logits", "features") and not teachers:
        raise KDScopeError(f"term {kind.name!r} needs a teacher; add one (--teacher RUN), or train with --method none")
    if kind.reads == "peers" and not peers:
        raise KDScopeError(f"term {kind.name!r} needs a network that learns beside the student; add --peer NAME")


def scheduled(settings: Mapping[str, Any], epoch: int, epochs: int) -> float:
    """The weight in one epoch: a linear rise over the share `warmup` of all epochs, then the fall that `anneal` names.

    >>> [round(scheduled({"weight": 2.0, "warmup": 0.5}, e, 8), 2) for e in range(6)]
    [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    """
    common = COMMON | dict(settings)
    weight, warm = float(common["weight"]), common["warmup"] * epochs
    if warm > 0:
        weight *= min(1.0, (epoch + 1) / warm)
    if common["anneal"] == "linear":
        weight *= 1.0 - epoch / epochs
    elif common["anneal"] == "cosine":
        weight *= 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
    return weight


def _union(groups: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer for group in groups for layer in group))
