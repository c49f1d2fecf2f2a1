"""What a measure is: a card that says what may be expected of it, a small state that adds up, and a result.

A new measure is one file in this package: a pure function that states the definition, and a class with a card (see
`kdscope/measures/overlap.py`). The registry, the analyses and the contract tests find it there.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from kdscope.errors import KDScopeError, unknown
from kdscope.measures import MEASURES
from kdscope.measures.result import Result
from kdscope.measures.statistics import bootstrap_mean, exact_mean, wilson

INVARIANCES = {
    "gauge": "adding a constant to all logits of an image, another for each image and network",
    "sample-order": "the order of the images",
    "class-relabelling": "one renaming of the classes for teacher, student and labels",
    "monotone": "any increasing map of the logits of an image, teacher or student (temperature is one)",
    "swap": "teacher and student in each other's place",
    "rotation": "any orthogonal map of the features of either network, into more dimensions too",
    "scale": "one positive factor on all features of either network",
    "shift": "one vector added to the features of all images, another for each network",
    "common-scale": "one positive factor on the features of both networks",
    "detection-order": "the order in which the detections of an image are listed",
    "box-scale": "one factor on all boxes and images",
    "scores": "any increasing map of all scores of a network",
    "row-order": "the order of anchors, places or proposals",
}
NEEDS = ("labels", "baseline_logits")


@dataclass(frozen=True)
class Card:
    """What may be expected of a measure under its sound definition; the contract tests are made from it.

    Attributes:
        name: as in `MEASURES`.
        title: for a table or an axis.
        unit: "share", "nats", "correlation", ...
        range: least and largest value that it can take.
        direction: "higher" or "lower" is more alike, or "none" (it says nothing of likeness).
        citation: who gave the definition.
        invariances: names from `INVARIANCES`: what does not change it.
        needs: what it must be given besides the two networks' logits, names from `NEEDS`.
        resampling: how its uncertainty may be found: "bootstrap", "subsample" or "jackknife".
        null: its value, but for sampling noise, where teacher and student have nothing in common, if that is one number
            whatever the data; None where it depends on them (then shuffle: `kdscope.measures.controls`).
        family: the analysis that asks for it, unless it asks for others by name.
    """

    name: str
    title: str
    unit: str
    range: tuple[float, float]
    direction: str
    citation: str
    invariances: tuple[str, ...] = ("gauge", "sample-order", "class-relabelling")
    needs: tuple[str, ...] = ()
    resampling: str = "bootstrap"
    null: float | None = None
    family: str = "fidelity"

    def __post_init__(self) -> None:
        for names, known, kind in (
            ([self.direction], ("higher", "lower", "none"), "direction"),
            ([self.resampling], ("bootstrap", "subsample", "jackknife"), "resampling"),
            (self.invariances, INVARIANCES, "invariance"),
            (self.needs, NEEDS, "need"),
        ):
            for name in names:
                if name not in known:
                    raise unknown(kind, name, known, f"the card of measure {self.name!r}")


@dataclass(frozen=True)
class Definition:
    """One of the ways in which a measure is defined in the literature.

    Attributes:
        citation: where it stands.
        defect: what is wrong with it; empty for a sound one.
        ensemble: how it combines several teachers (a name for `kdscope.measures.ensemble.combine_logits`).
        batch_size: where its number is the unweighted mean over consecutive batches of so many images, the short last
            one included; None where every image counts the same.
    """

    citation: str
    defect: str = ""
    ensemble: str = "mean-probability"
    batch_size: int | None = None


class Measure(ABC):
    """A state to which images are added, batch by batch and rank by rank, and from which a `Result` is computed.

    Args:
        definition: a key of `definitions`; "kdscope" is the sound one, and every measure has it.

    Attributes:
        seen: how many images were added.
    """

    card: ClassVar[Card]
    definitions: ClassVar[Mapping[str, Definition]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "card" in vars(cls):
            cls.definitions = {"kdscope": Definition(cls.card.citation)} | vars(cls).get("definitions", {})

    def __init__(self, definition: str = "kdscope"):
        if definition not in self.definitions:
            raise unknown("definition", definition, self.definitions, f"measure {self.card.name!r}")
        self.definition = definition
        self.seen = 0

    @property
    def defined(self) -> Definition:
        return self.definitions[self.definition]

    def options(self) -> dict[str, Any]:
        """The arguments that made this measure: two that differ here cannot be merged."""
        return {"definition": self.definition}

    def fresh(self) -> "Measure":
        """The same measure, with an empty state."""
        return type(self)(**self.options())

    def merge(self, other: "Measure") -> "Measure":
        """Adds what another of its kind has seen (another rank, another shard), after its own; returns itself.

        Raises:
            KDScopeError: if the other is another measure, or one with other options.
        """
        if type(other) is not type(self) or other.options() != self.options():
            mine, others = (f"{m.card.name} {m.options()}" for m in (self, other))
            raise KDScopeError(f"measure {mine} cannot be merged with {others}")
        self.absorb(other)
        self.seen += other.seen
        return self

    def compute(self, confidence: float = 0.95, seed: int = 0) -> Result:
        """The number over all images seen, with an interval of that confidence; `seed` is that of the resampling.

        Raises:
            KDScopeError: if no image was seen, or the confidence is not between 0 and 1.
        """
        self._require_images()
        if not 0 < confidence < 1:
            raise KDScopeError(f"the confidence is {confidence}; it must be between 0 and 1")
        return self.finish(confidence, seed)

    def estimate(self) -> float:
        """The number alone, without the interval that most of the time goes into: for floors and other controls."""
        self._require_images()
        return self.point()

    def _require_images(self) -> None:
        if not self.seen:
            raise KDScopeError(f"measure {self.card.name!r} has seen no images")

    @abstractmethod
    def absorb(self, other: Any) -> None:
        """Adds the state of another of the same kind."""

    @abstractmethod
    def point(self) -> float:
        """The number of a state that is not empty."""

    @abstractmethod
    def finish(self, confidence: float, seed: int) -> Result:
        """The result of a state that is not empty."""


class SampleMean(Measure):
    """A measure that is a mean over images of one number each; NaN marks an image that does not count.

    The state is these numbers. The sum is exact (`math.fsum`), so that no order of batches or ranks changes the mean.
    Where each is 0 or 1 (`proportion`) the interval is Wilson's, else it is the BCa bootstrap over images.
    """

    proportion: ClassVar[bool] = False

    def __init__(self, definition: str = "kdscope"):
        super().__init__(definition)
        self._parts: list[np.ndarray] = []

    def keep(self, values: np.ndarray) -> None:
        """Adds the numbers [B] of some images."""
        self._parts.append(np.asarray(values, dtype=np.float64))
        self.seen += len(values)

    def absorb(self, other: "SampleMean") -> None:
        self._parts.extend(other._parts)

    def point(self) -> float:
        return exact_mean(*self._counted())

    def finish(self, confidence: float, seed: int) -> Result:
        kept, weights = self._counted()
        value = exact_mean(kept, weights)
        if self.proportion:
            # Unequal weights are worth fewer equal ones (Kish 1965).
            n = len(kept) if weights is None else weights.sum() ** 2 / np.square(weights).sum()
            low, high = wilson(value, n, confidence)
        else:
            low, high = bootstrap_mean(kept, weights, confidence=confidence, seed=seed)
        return Result(
            measure=self.card.name,
            value=value,
            per_sample=np.concatenate(self._parts),
            n=len(kept),
            ci_low=low if len(kept) else float("nan"),
            ci_high=high if len(kept) else float("nan"),
            definition=self.definition,
            source=self.defined.citation,
            excluded=self.seen - len(kept),
        )

    def _counted(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The numbers that count, and what each weighs (None: all the same)."""
        values = np.concatenate(self._parts)
        counts = ~np.isnan(values)
        size = self.defined.batch_size
        if size is None:
            return values[counts], None
        # In a mean of batch means an image of the short last batch weighs size / length as much as another.
        last = len(values) % size or size
        weights = np.where(np.arange(len(values)) < len(values) - last, 1.0, size / last)
        return values[counts], weights[counts]


AnyMeasure = TypeVar("AnyMeasure", bound=type[Measure])


def measure(entry: AnyMeasure) -> AnyMeasure:
    """Class decorator that enters a measure into `MEASURES` under the name on its card."""
    return MEASURES.register(entry.card.name)(entry)
