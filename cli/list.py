"""`kdscope list`: the names of everything that has one, each with a line and its source."""

from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any

import click

KINDS = (
    *("methods", "models", "datasets", "analyses", "studies"),
    *("detectors", "detection-methods", "detection-datasets"),
)
Rows = Iterator[tuple[str, ...]]


@click.command(name="list")
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--names", is_flag=True, help="Names alone, one on a line, for scripts.")
def list(kind: str, names: bool) -> None:
    """List methods, models, datasets, analyses or studies, one line each; of detectors, networks, methods and data."""
    rows = [*LISTS[kind]()]
    if not rows:
        click.echo(f"no {kind} are there yet")
    elif names:
        click.echo("\n".join(row[0] for row in rows))
    else:
        _show(rows)


def _methods() -> Rows:
    from kdscope.methods import METHODS
    from kdscope.training.explain import all_methods

    for name in all_methods():
        preset = METHODS[name]
        yield name, preset.title, preset.citation


def _models() -> Rows:
    from kdscope import models

    for name in models.names():
        yield name, models.summary(name)


def _datasets() -> Rows:
    from kdscope.data.catalogue import DATASETS

    for name in DATASETS:
        yield name, *_told(DATASETS[name])


def _analyses() -> Rows:
    from kdscope.analyses import ANALYSES

    for name in ANALYSES:
        yield name, ANALYSES[name].summary, ANALYSES[name].citation


def _studies() -> Rows:
    folder = resources.files("kdscope.analyses").joinpath("studies")
    if folder.is_dir():
        for path in sorted(folder.iterdir(), key=lambda path: path.name):
            if path.name.endswith(".yaml"):
                yield path.name.removesuffix(".yaml"), path.read_text().splitlines()[0].lstrip("# ")


def _detectors() -> Rows:
    from kdscope.detection import models

    for name in models.names():
        yield name, models.summary(name)


def _detection_methods() -> Rows:
    from kdscope.detection.methods.presets import DETECTION_METHODS

    for name in DETECTION_METHODS:
        preset = DETECTION_METHODS[name]
        yield name, preset.title, preset.citation


def _detection_datasets() -> Rows:
    from kdscope.detection.data import DETECTION_DATASETS

    for name in DETECTION_DATASETS:
        yield name, *_told(DETECTION_DATASETS[name])


LISTS: dict[str, Callable[[], Rows]] = {
    "methods": _methods, "models": _models, "datasets": _datasets, "analyses": _analyses, "studies": _studies,
    "detectors": _detectors, "detection-methods": _detection_methods, "detection-datasets": _detection_datasets,
}  # fmt: skip


def _told(entry: Any) -> tuple[str, ...]:
    """The first line of the docstring of what is registered."""
    entry = getattr(entry, "func", entry)
    text = (entry.__doc__ or "").strip()
    return (text.splitlines()[0].replace("`", "") if text else "",)


def _show(rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for _ in rows[0][1:]:
        table.add_column()
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table) if console.is_terminal else Console(width=100).print(table)
