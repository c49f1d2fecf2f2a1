"""`kdscope demo`: the main job on the embedded digits, in a few minutes on a laptop."""

from pathlib import Path

import click

ROWS = 12


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="runs/demo", show_default=True, help="Folder for all.")
def demo(out: Path) -> None:
    """Train, extract, analyse and draw on the embedded digits (under five minutes on two cores, nothing downloaded).

    Two teachers (weak and strong augmentation), a student alone, and students by kd, by at and by kd from both
    teachers; three seeds of each. Started again, it goes on where it stopped.
    """
    import pandas as pd

    from kdscope.cli.analyze import show
    from kdscope.demo import demo as run_demo

    done = run_demo(out)
    click.echo("Test accuracy (mean ± sd of 3 seeds), fidelity to the teacher (95 % interval), cost at batch 1:")
    show(pd.DataFrame(done.rows))
    for note in done.report.notes:
        click.echo(f"- {note}")
    for name, report in done.others.items():
        if len(report.summary) <= ROWS:  # longer ones are for their files
            click.echo(f"\n{name}:")
            show(report.summary)
    click.echo("Tables and figures:")
    for report in (done.report, *done.others.values()):
        click.echo(f"  {report.csv} and {len(report.figures)} files beside it")
