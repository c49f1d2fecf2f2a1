"""`kdscope demo`: the main job on the embedded digits, in a few minutes on a laptop."""

from pathlib import Path

import click

LINES = 16  # longer summaries are for their files


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="runs/demo", show_default=True, help="Folder for all.")
@click.option("--scale", default="cpu", show_default=True, help="Of the study quickstart: smoke, cpu or paper.")
def demo(out: Path, scale: str) -> None:
    """Train, extract, analyse and draw on the embedded digits (under five minutes on two cores, nothing downloaded).

    This is `kdscope study run quickstart --scale cpu`: two teachers (weak and strong augmentation), a student alone,
    and students by kd, by at and by kd from both teachers; three seeds of each. Started again, it goes on.
    """
    import pandas as pd

    from kdscope.cli.analyze import show
    from kdscope.demo import demo as run_demo

    done = run_demo(out, scale)
    click.echo("Test accuracy (mean ± sd over seeds), fidelity to the teacher (95 % interval), cost at batch 1:")
    show(pd.DataFrame(done.rows))
    for answer in done.answers:
        text = (answer.folder / "summary.txt").read_text()
        lines = text.splitlines()
        if answer.label == "fidelity":  # its numbers are in the table above
            lines = [line for line in lines if line.startswith("- ")]
        if len(lines) <= LINES:
            click.echo("\n".join(["", f"{answer.label}:", *lines]))
    click.echo("\nTables and figures:")
    for answer in done.answers:
        click.echo(f"  {answer.folder}: {len([*answer.folder.glob('*.pdf')])} figures, each as PDF and PNG")
    from kdscope.report.write import write_report

    page = write_report(done.answers[0].folder.parent, extract=False)
    click.echo(f"\nAll of it as one page: {page}")
