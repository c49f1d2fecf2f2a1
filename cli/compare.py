"""`kdscope compare`: train several methods with the same seeds from one teacher, and print one table."""

from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
  kdscope compare --methods at,dkd,rkd --data digits --student resnet8 --teacher resnet20 --out runs/compare
  kdscope compare --methods dkd --set terms.dkd.beta=2 --teacher runs/teacher --student resnet8 --out runs/beta
"""


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.option("--methods", required=True, help="kd,at,... or sums such as kd+at; none and kd are added.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for runs, table and figure.")
@click.option("--student", required=True, help="Network to train, such as resnet8.")
@click.option(
    "--teacher", required=True, help="Run directory, NAME@CHECKPOINT, or the name of a network: trained first."
)
@click.option("--data", default="digits", show_default=True, help="As of kdscope train.")
@click.option("--epochs", type=int, default=30, show_default=True, help="Of the student.")
@click.option("--teacher-epochs", type=int, help="Of a teacher that is trained here [as many].")
@click.option("--seeds", type=int, default=3, show_default=True, help="Trainings of each method.")
@click.option("--jobs", type=int, help="Trainings at a time, one thread each [one a core; one on a GPU].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="[auto].")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any setting, for all; terms.dkd.beta=2 for the methods with that term.",
)
def compare(**options: Any) -> int:
    """Train methods with the same seeds, recipe and teacher, and say which differ beyond chance.

    Started again, it goes on; methods and seeds that are added reuse the runs that are there. Accuracy is that of the
    last epoch.
    """
    from kdscope.cli.analyze import show
    from kdscope.comparison import compare as run_comparison

    done = run_comparison(**options)
    show(done.report.summary)
    for note in done.report.notes:
        click.echo(f"- {note}")
    csv = done.report.csv
    for path in (csv, csv.with_suffix(".md"), csv.with_suffix(".tex"), *done.report.figures):
        click.echo(path)
    return 1 if done.failed else 0
