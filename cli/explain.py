"""`kdscope explain`: what a method is, and what it would do on a pair of networks."""

import sys
import textwrap
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kdscope.training.explain import Explanation

WIDTH = 100
EXAMPLES = """\b
  kdscope explain dkd
  kdscope explain kd+at --student vgg8 --teacher resnet32x4
"""


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.argument("method")
@click.option("--student", default="resnet20", show_default=True, help="Network that would learn.")
@click.option("--teacher", default="resnet56", show_default=True, help="Network that it would learn from.")
@click.option("--classes", "num_classes", default=100, show_default=True, help="Of the data.")
@click.option("--image-size", default=32, show_default=True, help="Pixels.")
@click.option("--images", default=50_000, show_default=True, help="In the training part.")
@click.option("--batch-size", default=64, show_default=True, help="For the memory of maps.")
def explain(method: str, student: str, teacher: str, **options: int) -> None:
    """Print a method's equation, its settings and where they are from, the layers that it would hook, what it costs."""
    from kdscope.training.explain import explain as ask

    for line in lines(ask(method, student, teacher, **options), student, teacher, options):
        click.echo(line)


def lines(found: "Explanation", student: str, teacher: str, options: dict[str, int]) -> list[str]:
    """The explanation, at most WIDTH columns wide."""
    from kdscope.methods.method import known_terms
    from kdscope.methods.term import COMMON
    from kdscope.training.explain import size_in_words, weights_in_words

    told: list[str] = []
    for name, preset in found.parts.items():
        told += [f"{name}: {preset.title}", *_field("source", preset.citation), *_field("equation", preset.equation)]
        told += [*_field("transfers", preset.transfers), *_field("published", preset.reference)]
        told += [*_field("departures", preset.departures), *_field("cost", preset.cost), ""]

    known = known_terms()
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
    told += _field(
        "memory",
        f"{size_in_words(found.state_bytes)} of state ({options['images']:,} images), "
        f"{size_in_words(found.map_bytes)} of hooked maps for a batch of {options['batch_size']}",
    )
    return told


def _field(label: str, text: str) -> list[str]:
    if not text:
        return []
    first, other = f"  {label:<11} ", " " * 14
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=other, break_on_hyphens=False)
