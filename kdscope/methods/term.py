"""A term of a distillation objective: turns what student and teacher say of a batch into one number."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from kdscope.data import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.features import Features

Layers = str | Sequence[str] | Mapping[str, Sequence[str]]


class Term(nn.Module):
    """Base of all terms. A subclass sets `name`, `reads` and `summary`, and defines `forward`; the rest is optional.

    Constructor arguments are the term's settings: they can be set from YAML and the command line, and are stored in the
    run's config. Trainable adapters and saved buffers are ordinary attributes; they are trained, saved and resumed.

    `reads` says what of a teacher the term needs: "labels" (no teacher), "logits" (several teachers come as one
    `Ensemble`), or "features" (called once for each teacher and averaged over them with their weights).
    A term that reads features is given exactly the maps that it asked for, shallow to deep, so that
    `zip(student.maps.values(), teacher.maps.values())` are its pairs.
    """

    name: ClassVar[str]
    reads: ClassVar[str]
    summary: ClassVar[str] = ""
    layers: Layers = ()

    def build(self, student: Features, teacher: Features) -> None:
        """Make adapters, knowing the shapes from one dry forward pass; before the optimiser is made."""

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        """The loss, one float32 scalar."""
        raise NotImplementedError

    def patterns(self, role: str) -> tuple[str, ...] | None:
        """Layer patterns to hook in the "student" or a "teacher"; None stands for the network's own stages."""
        layers = self.layers
        if isinstance(layers, Mapping):
            if role not in layers:
                raise KDScopeError(
                    f"term {self.name!r}: `layers` gives no layers for the {role}; it has {', '.join(layers)}"
                )
            layers = layers[role]
        if layers == "stages":
            return None
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
        known = [*cls.settings(), "weight"]
        for name in names:
            if name not in known:
                raise unknown("setting", name, known, f"term {cls.name!r}")
