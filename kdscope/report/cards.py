"""Cards: what stands behind a number of the report. Those of the measures come from where these are defined."""

import inspect
import math
import re
from collections.abc import Iterable
from dataclasses import replace

from kdscope.detection.measures.cards import CARDS
from kdscope.measures import MEASURES
from kdscope.measures.base import INVARIANCES
from kdscope.measures.base import Card as MeasureCard
from kdscope.report.payload import Card

# Numbers of analyses that are no measure of two networks: (name, unit, direction, definition).
OTHERS = {
    "reliability": ("Accuracy in a bin of confidence", "share", "none", "Share of images of the bin that are right."),
    "deletion-curve": ("Deletion curve", "probability", "none", "Probability of the label, pixels of a map deleted."),
    "insertion-curve": ("Insertion curve", "probability", "none", "Probability of the label, pixels inserted alone."),
    "deletion-auc": ("Area under the deletion curve", "probability", "none", "Small where the map finds evidence."),
    "insertion-auc": ("Area under the insertion curve", "probability", "none", "Large where the map finds evidence."),
    "deletion-gain": ("Deletion: better than a control", "probability", "none", "Area of the control less the map's."),
    "insertion-gain": (
        "Insertion: better than a control",
        "probability",
        "none",
        "Area of the map less that of the control.",
    ),
    "converged": ("Complete attributions", "share", "none", "Share of images whose attributions add up."),
    "completeness-error": ("Completeness error", "share", "none", "What attributions miss of the change of the score."),
    "steps": ("Steps of the path", "steps", "none", "How many steps integrated gradients took."),
    "map-overlap": ("Overlap of causal maps", "kappa, mean over areas", "higher", "As attention-iou, of causal maps."),
    "area-iou": (
        *("IoU of the most attended cells", "share", "higher"),
        "Cells that both maps attend to most, over those that either does, as many for each; ties share a cell. Above "
        "chance is (IoU - chance) / (1 - chance), and the area under that over all shares is attention-iou.",
    ),
    "activation-overlap": ("Causal map and activation", "kappa, mean over areas", "none", "Overlap with activation."),
    "randomised-weights-correlation": (
        *("Dependence on the weights", "Spearman's rho", "none"),
        "Rank correlation of a map with that of the same network with random weights: near 0 where it depends on them.",
    ),
    "accuracy-difference": ("Difference of accuracies", "share", "none", "Accuracy of b less that of a, paired."),
    "share-explained": ("Share explained", "share", "none", "(arm - alone) / (method - alone), of accuracies."),
    "parameters": ("Parameters", "numbers", "none", "How many numbers training sets."),
    "pearson": ("Pearson's r", "correlation", "none", "Linear correlation over runs; r again within groups beside it."),
    "epochs": ("Epochs", "epochs", "none", "Epochs of the main training that were finished."),
    "seconds": ("Seconds of training", "s", "none", "Wall-clock time of training; other work on the machine counts."),
    "accuracy-sd": ("Standard deviation over seeds", "points", "none", "Of the accuracies (or APs) in % of the seeds."),
}
NAMES = {"cka/kornblith2019": "Biased linear CKA (kornblith2019)"}  # what the title of the sound one would belie


def card_id(measure: str, definition: str | None = "kdscope") -> str:
    """The id of the card of a measure under one of its definitions.

    >>> card_id("cka"), card_id("cka", "kornblith2019")
    ('cka', 'cka/kornblith2019')
    """
    return measure if definition in (None, "", "kdscope") else f"{measure}/{definition}"


def card(name: str, source: str = "") -> Card:
    """The card of an id; of what has none, one that says its name and where it is from.

    >>> card("agreement").range, card("agreement").direction
    ('0 to 1', 'higher is more alike')
    >>> card("cka").name, card("cka/kornblith2019").name
    ('Debiased linear CKA', 'Biased linear CKA (kornblith2019)')
    >>> card("harm").direction, card("auroc/image-size").name, card("auroc").null
    ('lower is better', 'AUROC of attention (image-size)', '0.5')
    """
    measure, _, definition = name.partition("/")
    if measure in MEASURES:
        return _of_measure(name, measure, definition or "kdscope")
    if measure in CARDS:
        return _of_detectors(name, measure, definition)
    if measure in OTHERS:
        title, unit, direction, text = OTHERS[measure]
        return Card(name, title, text, unit, direction=_direction(direction), source=source)
    return Card(name, measure, "", source=source)


def cards(ids: Iterable[str | None], source: str = "") -> dict[str, Card]:
    """The cards of ids, each once, in their order; None stands for no card."""
    return {name: card(name, source) for name in dict.fromkeys(ids) if name}


def title(measure: str) -> str:
    """A measure's name for an axis or a column.

    >>> title("agreement"), title("of-a-plugin")
    ('Top-1 agreement', 'of-a-plugin')
    """
    return card(measure).name


def _of_measure(name: str, measure: str, definition: str) -> Card:
    kind = MEASURES[measure]
    about, defined = kind.card, kind.definitions.get(definition)
    text = inspect.getdoc(inspect.getmodule(kind)) or ""
    defect = f" Of this definition: {defined.defect}." if defined and defined.defect else ""
    named = about.title if definition == "kdscope" else NAMES.get(name, f"{about.title} ({definition})")
    source = defined.citation if defined else about.citation
    return _told(about, name, named, _first(inspect.getdoc(kind)) + defect, source, text=_first(text))


def _of_detectors(name: str, measure: str, definition: str) -> Card:
    about = CARDS[measure]
    named = f"{about.title} ({definition})" if definition else about.title
    made = _told(about, name, named, about.text, about.citation)
    return replace(made, direction=_direction(about.direction, about.against))


def _told(about: MeasureCard, name: str, named: str, definition: str, source: str, text: str = "") -> Card:
    """What the card of a measure says."""
    return Card(
        id=name,
        name=named,
        definition=definition,
        unit=about.unit,
        range=" to ".join(map(_number, about.range)),
        direction=_direction(about.direction),
        null="depends on the data: see the floors" if about.null is None else _number(about.null),
        source=source,
        invariances=[INVARIANCES[each] for each in about.invariances],
        text=text,
    )


def _first(text: str | None) -> str:
    """The first paragraph, on one line."""
    paragraph = " ".join((text or "").split("\n\n")[0].split())
    return re.sub(r" \(`[^`]*`\)", "", paragraph).replace("`", "")  # where it is in the code is no news here


def _direction(direction: str, against: str = "teacher") -> str:
    what = "better" if against == "truth" else "more alike"
    return f"{direction} is {what}" if direction in ("higher", "lower") else "says nothing of likeness"


def _number(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    known = {math.pi / 2: "π/2", math.log(2): "ln 2"}
    return known.get(value, f"{value:g}")
