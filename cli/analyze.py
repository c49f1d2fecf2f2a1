"""`kdscope analyze`: ask one question of runs and caches, and leave a table and figures."""

from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
  kdscope analyze fidelity runs/kd
  kdscope analyze fidelity runs/kd-seed* runs/alone-seed* --out figures
  kdscope analyze fidelity teacher.kdcache student.kdcache --splits test
"""


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.argument("name")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to [RUN/analysis, or ./analysis-NAME].")
@click.option(
    "--definition",
    help="Of measures, with commas, in rows beside kdscope's (of detection-patch-in: alone): guo2024-code, "
    "stanton2021; of detectors image-size, normalised, fitted [by the analysis].",
)
@click.option("--splits", help="Such as test, or train,test [all that there are].")
@click.option("--view", help="Augmentation under which the images are shown [none].")
@click.option("--baseline", multiple=True, help="Run trained without a teacher: the floor; repeatable.")
@click.option("--teacher", multiple=True, help="Run or cache to compare with instead of the own teacher; repeatable.")
@click.option("--confidence", type=float, help="Of all intervals, between 0 and 1 [0.95].")
@click.option("--option", "assigned", multiple=True, metavar="KEY=VALUE", help="Of this analysis alone; repeatable.")
@click.option("--width", type=click.Choice(["one", "two"]), help="Columns of a page that figures take [two].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to extract.")
def analyze(
    name: str, sources: tuple[str, ...], out: Path | None, device: str, assigned: tuple[str, ...], **options: Any
) -> None:
    """Answer the question NAME (such as fidelity) about runs and caches.

    What is not cached yet is extracted first. Without a student trained without a teacher (among the sources, or by
    --baseline) there is no honest floor. Where no source has a teacher, the first is the teacher of the others.
    """
    from kdscope import api
    from kdscope.analyses.base import default_out

    given = {option: value for option, value in options.items() if value not in (None, ())}
    given |= assignments(assigned, given)
    report = api.analyze(name, *sources, out=out or default_out(name, sources), device=device, **given)
    show(report.summary)
    for note in report.notes:
        click.echo(f"- {note}")
    for path in (report.csv, *report.figures):
        click.echo(path)


def assignments(texts: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Options KEY=VALUE, each value read as YAML; a KDScopeError for other text, or an option that is given twice.

    >>> assignments(("layers=[layer2, layer3]", "folds=3"), {})
    {'layers': ['layer2', 'layer3'], 'folds': 3}
    """
    import yaml

    from kdscope.errors import KDScopeError

    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not key or not sign:
            raise KDScopeError(f"--option {text!r} is not KEY=VALUE, such as --option folds=3")
        if key in found or key in given:
            raise KDScopeError(f"option {key!r} is given twice")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise KDScopeError(f"--option {key}: {value!r} is not YAML: {' '.join(str(error).split())}") from error
    return found


def show(summary: Any) -> None:
    """A short table of text, at most 100 columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in summary.columns:
        wide = summary[column].map(len).max() > 20
        table.add_column(column, overflow="fold", no_wrap=not wide, justify="left" if wide else "default")
    for row in summary.itertuples(index=False):
        table.add_row(*row)
    console = Console()
    console.width = min(100, console.width) if console.is_terminal else 100
    console.print(table)
