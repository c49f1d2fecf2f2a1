"""The trainings that a run consists of: the phases that its terms ask for, then the main one."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdscope.config import Config, OptimSettings
from kdscope.methods.term import Phase

# Epochs of a phase are numbered from here, so that their order of images and their noise are not those of the main one.
PHASE_EPOCHS = 1_000_000


@dataclass(frozen=True)
class Stage:
    """One training of a run, with an optimiser of its own.

    Attributes:
        phase: the term and its phase, None for the main training.
        epochs: how long.
        optim: optimiser and schedule.
        first: number of its first epoch, which decides the order of the images, the augmentation and the noise.
    """

    phase: tuple[str, Phase] | None
    epochs: int
    optim: OptimSettings
    first: int = 0

    @property
    def name(self) -> str:
        """Such as "ft paraphraser"; the main training has none."""
        return "" if self.phase is None else f"{self.phase[0]} {self.phase[1].name}"


def stages_of(config: Config, phases: Sequence[tuple[str, Phase]]) -> list[Stage]:
    """The phases, each with its optimiser, and the main training; a phase of no epochs is left out.

    >>> [(s.name, s.epochs) for s in stages_of(Config(epochs=30), [("ft", Phase("paraphraser", 0.1))])]
    [('ft paraphraser', 3), ('', 30)]
    """
    stages = []
    for term, phase in phases:
        epochs = phase.epochs(config.epochs)
        if epochs:
            first = PHASE_EPOCHS * (len(stages) + 1)
            stages.append(Stage((term, phase), epochs, _optim(config.optim, phase), first))
    return [*stages, Stage(None, config.epochs, config.optim)]


def _optim(optim: OptimSettings, phase: Phase) -> OptimSettings:
    own = {} if phase.lr is None else {"lr": phase.lr, "schedule": "constant", "warmup": 0.0}
    if phase.weight_decay is not None:
        own["weight_decay"] = phase.weight_decay
    return optim.model_copy(update=own)
