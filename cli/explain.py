"""`kdscope explain`: what a method is, and what it would do on a pair of networks."""

import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kdscope.training.explain import Explanation

WIDTH = 100
EXAMPLES = """\b
  kdscope explain dkd
  kdscope explain kd+at --student vgg8 --teacher resnet32x4
  kdscope explain fgd-normalised
  kdscope explain kd --student fasterrcnn_resnet10_w16 --teacher fasterrcnn_resnet18_w32
"""
DEFAULTS = {  # by task
    "classification": {"student": "resnet20", "teacher": "resnet56", "num_classes": 100, "image_size": 32,
                       "batch_size": 64},
    "detection": {"student": "fcos_resnet10_w16", "teacher": "fcos_resnet18_w32", "num_classes": 3, "image_size": 128,
                  "batch_size": 8},
}  # fmt: skip


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.argument("method")
@click.option("--student", help="Network that would learn [resnet20; of detectors fcos_resnet10_w16].")
@click.option("--teacher", help="Network that it would learn from [resnet56; of detectors fcos_resnet18_w32].")
@click.option("--classes", "num_classes", type=int, help="Of the data [100; of detectors 3].")
@click.option("--image-size", type=int, help="Pixels [32; of detectors 128].")
@click.option("--images", default=50_000, show_default=True, help="In the training part.")
@click.option("--batch-size", type=int, help="For the memory of maps [64; of detectors 8].")
def explain(method: str, **options: Any) -> None:
    """Print a method's equation, its settings and where they are from, the layers that it would hook, what it costs.

    A method of both, such as kd, is that of classifiers unless --student is a detector.
    """
    task = _task(method, options["student"])
    if task == "detection":
        from kdscope.detection.explain import explain as ask
    else:
        from kdscope.training.explain import explain as ask

    options = DEFAULTS[task] | {name: value for name, value in options.items() if value is not None}
    student, teacher = options.pop("student"), options.pop("teacher")
    given = options if task == "classification" else {k: v for k, v in options.items() if k != "images"}
    for line in lines(ask(method, student, teacher, **given), student, teacher, options, task):
        click.echo(line)


def _task(method: str, student: str | None) -> str:
    """Detection where the student is a detector, or where the method is one of detectors alone."""
    from kdscope.methods import METHODS

    names = method.split("+")
    if student is None and all(name in METHODS for name in names):
        return "classification"
    from kdscope.detection import models
    from kdscope.detection.methods.presets import DETECTION_METHODS

    if student is None:
        return "detection" if all(name in DETECTION_METHODS for name in names) else "classification"
    return "detection" if models.is_one(student) else "classification"


def lines(
    found: "Explanation", student: str, teacher: str, options: dict[str, int], task: str = "classification"
) -> list[str]:
    """The explanation, at most WIDTH columns wide."""
    from kdscope.methods.method import known_terms
    from kdscope.methods.term import COMMON
    from kdscope.training.explain import size_in_words, weights_in_words
    from kdscope.training.tasks import task_named

    told: list[str] = []
    for name, preset in found.parts.items():
        told += [f"{name}: {preset.title}", *_field("source", preset.citation), *_field("equation", preset.equation)]
        told += [*_field("transfers", preset.transfers), *_field("published", preset.reference)]
        told += [*_field("departures", preset.departures), *_field("cost", preset.cost), ""]

    known = known_terms(task_named(task).methods)
    for name, settings in found.terms.items():
        kind = known[name]
        told += [f"term {name}", *_field("weight", weights_in_words(settings))]
        own = {key: value for key, value in settings.items() if key not in COMMON}
        told += _field("settings", ", ".join(f"{key}={value}" for key, value in own.items()))
        told += _field("from", " ".join((sys.modules[kind.__module__].__doc__ or "").split()))
        if name in found.pairs:
            ours, theirs = found.pairs[name]
            told += _field("student", f"{student}: {', '.join(ours)}")
            told += _field("teacher", f"{teacher}: {', '.join(theirs)}")
        told.append("")

    for name, phase in found.phases:
        learns = "the student" if phase.learns == "student" else "the term alone"
        told += _field("phase", f"{name} {phase.name}: {100 * phase.share:.3g} % of the epochs, trains {learns}")
    if found.chain:
        told += _field("chain", f"{found.chain} (see --assistant and --generations of kdscope train)")
    if found.peers:
        told += _field("peers", f"{found.peers} more that learn beside the student (--peer)")
    if found.gradients != "sum":
        told += _field("gradients", f"combined by the rule {found.gradients!r}")
    told += _field("extra", f"{found.parameters:,} trained parameters beside the student's")
    of_images = "" if task == "detection" else f" ({options['images']:,} images)"
    told += _field(
        "memory",
        f"{size_in_words(found.state_bytes)} of state"
        f"{of_images}, "
        f"{size_in_words(found.map_bytes)} of hooked maps for a batch of {options['batch_size']}",
    )
    return told


def _field(label: str, text: str) -> list[str]:
    if not text:
        return []
    first, other = f"  {label:<11} ", " " * 14
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=other, break_on_hyphens=False)
