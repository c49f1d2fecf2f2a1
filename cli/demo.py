"""`kdscope demo`: the main job on embedded data, in a few minutes on a laptop."""

from pathlib import Path

import click

LINES = 16  # longer summaries are for their files
TITLES = {
    "classification": "Test accuracy (mean ± sd over seeds), fidelity to the teacher (95 % interval), cost at batch 1:",
    "detection": "Test AP (COCO's, IoU 0.50 to 0.95; mean over seeds with its 95 % t-interval), seconds of training:",
}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="runs/demo", show_default=True, help="Folder for all.")
@click.option("--scale", default="cpu", show_default=True, help="Of the study: smoke, cpu or paper.")
@click.option("--task", type=click.Choice(["classification", "detection"]), default="classification", show_default=True)
def demo(out: Path, scale: str, task: str) -> None:
    """Train, extract, analyse and draw on embedded data; nothing is downloaded. Started again, it goes on.

    Classification, under five minutes on two cores, is `kdscope study run quickstart --scale cpu`: two teachers of
    scanned digits (weak and strong augmentation), a student alone, and students by kd, by at and by kd from both
    teachers; three seeds of each.

    Detection, under 15 minutes, is `kdscope study run detection --scale cpu`: a teacher of 2,000 generated scenes, and
    students of 100 of them, alone (for the same steps, and for the time that FGD takes), by fgd-normalised, by mimicry
    and by chen2017; three seeds of each.
    """
    import pandas as pd

    from kdscope.cli.analyze import show
    from kdscope.demo import demo as run_demo

    done = run_demo(out, scale, task)
    click.echo(TITLES[task])
    show(pd.DataFrame(done.rows))
    if done.gaps:
        click.echo("Points of AP over the student alone and over the controls, paired by seed (95 % t-intervals):")
        show(pd.DataFrame(done.gaps))
    for note in done.notes:
        click.echo(f"- {note}")
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
