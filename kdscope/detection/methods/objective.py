"""The objective of a detector: a weighted sum of the named parts of its terms."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.detection.batch import DetectionBatch, DetectionFeatures
from kdscope.detection.methods.presets import DETECTION_METHODS
from kdscope.detection.methods.term import DetectionTerm
from kdscope.errors import KDScopeError
from kdscope.methods.method import known_terms
from kdscope.methods.objective import make_term, scheduled
from kdscope.methods.shapes import exact
from kdscope.methods.term import Phase


class DetectionObjective(nn.Module):
    """Weighted sum of terms, made from resolved settings (`presets.resolve`) for one student and at most one teacher.

    Args:
        terms: for each term its weight and settings; a weight of 0 leaves the term out.
        teacher: whether there is one; a term that reads it is an error without.

    Attributes:
        names: once built, "TERM" or "TERM.PART" of each value, in order; `weights` [K] belong to them.
        task: of each of `names`, whether it needs no teacher.
        needs_teacher: whether any term is of a teacher; `compares`: whether its loss is, so that each step asks it.
        observing: names of the terms that want to `observe` training batches before a new run.
    """

    phases: tuple[tuple[str, Phase], ...] = ()

    def __init__(self, terms: Mapping[str, Mapping[str, Any]], teacher: bool):
        super().__init__()
        known = known_terms(DETECTION_METHODS)
        self.settings = {name: settings for name, settings in terms.items() if settings["weight"] > 0}
        self.terms = nn.ModuleDict({name: make_term(known[name], s) for name, s in self.settings.items()})
        reading = [name for name, term in self.terms.items() if term.reads != "labels"]
        if reading and not teacher:
            raise KDScopeError(
                f"term {reading[0]!r} needs a teacher; add one (--teacher RUN), or train with --method none"
            )
        self.needs_teacher = bool(reading)
        if not self._in_main:
            raise KDScopeError(f"terms {', '.join(self.terms)} have no loss; leave the term 'detection' its weight")
        self.compares = any(self.terms[name].in_main for name in reading)
        self._name()

    @property
    def asks(self) -> tuple[str, ...]:
        """The heads whose rows the teacher must be asked for, once built."""
        return tuple(dict.fromkeys(head for term in self.terms.values() for head in term.asks))

    @property
    def _in_main(self) -> dict[str, DetectionTerm]:
        """The terms that have a loss."""
        return {name: term for name, term in self.terms.items() if term.in_main}

    @property
    def observing(self) -> tuple[str, ...]:
        return tuple(name for name, term in self.terms.items() if term.observes)

    def _name(self) -> None:
        each = [(name, part) for name, term in self._in_main.items() for part in term.parts or ("",)]
        self._parts = each
        self.names = tuple(f"{name}.{part}" if part else name for name, part in each)
        self.task = tuple(self.terms[name].reads == "labels" for name, _ in each)
        self.register_buffer("weights", torch.tensor(self.weights_at(0, 1)), persistent=False)

    def weights_at(self, epoch: int, epochs: int) -> list[float]:
        """The weight of each value in `epoch` of `epochs`, after warm-up and annealing."""
        return [scheduled(self.settings[name], epoch, epochs) for name, _ in self._parts]

    def build(self, student: DetectionFeatures, teacher: DetectionFeatures | None) -> None:
        """Let the terms make their adapters and name their parts, from one dry forward pass of both detectors."""
        for term in self.terms.values():
            term.build(student, teacher)
        self._name()

    def begin(self, student: nn.Module, teacher: nn.Module) -> None:
        """Before a new run: let the terms change the weights that the student starts from."""
        for term in self.terms.values():
            if term.reads != "labels":
                term.begin(student, teacher)

    @torch.no_grad()
    def observe(self, teacher: DetectionFeatures, batch: DetectionBatch) -> None:
        """Show a training batch to the terms that want to see some before the first step."""
        for name in self.observing:
            self.terms[name].observe(teacher, batch)

    def learning(self, phase: tuple[str, Phase] | None = None) -> set[nn.Parameter]:
        """The objective's own parameters that learn."""
        return set(itertools.chain.from_iterable(term.trained(None) for term in self.terms.values()))

    def forward(self, student: DetectionFeatures, teacher: DetectionFeatures | None, batch: DetectionBatch) -> Tensor:
        """The unweighted value of each of `names` [K], float32; the loss is `weights @ values`."""
        with torch.autocast(batch.images.device.type, enabled=False):  # a sum over a map leaves the range of float16
            each = [values_of(term, student, teacher, batch) for term in self._in_main.values()]
        return torch.stack([value for values in each for value in values.values()])


def values_of(
    term: DetectionTerm, student: DetectionFeatures, teacher: DetectionFeatures | None, batch: DetectionBatch
) -> dict[str, Tensor]:
    """What `term` gives, by part; a term without parts gives one value, of the empty name."""
    value = term(student, teacher, batch)
    if not isinstance(value, dict):
        return {"": exact(value)}
    if tuple(value) != term.parts:
        raise KDScopeError(f"term {term.name!r} gave {', '.join(value)}, and was built for {', '.join(term.parts)}")
    return {part: exact(each) for part, each in value.items()}
