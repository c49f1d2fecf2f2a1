"""`kdscope doctor`: which numbers can be trusted, on these networks."""

from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
  kdscope doctor runs/kd
  kdscope doctor teacher.kdcache student.kdcache --splits test
"""


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for doctor.csv [nothing is written].")
@click.option("--definition", help="Test measures as published too, such as guo2024-code.")
@click.option("--splits", help="Such as test, or train,test [test].")
@click.option("--view", help="Augmentation under which the images are shown [none].")
@click.option("--baseline", multiple=True, help="Run trained without a teacher; repeatable.")
@click.option("--teacher", multiple=True, help="Run or cache to compare with instead of the own teacher; repeatable.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where networks run.")
@click.pass_context
def doctor(context: click.Context, sources: tuple[str, ...], out: Path | None, device: str, **options: Any) -> None:
    """Test measures, maps and networks on runs and caches: gauge, null, identity, hooks, finite numbers.

    The same as `kdscope analyze doctor`, but that the exit status is 1 if something is not to be trusted.
    """
    from kdscope import api
    from kdscope.cli.analyze import show

    given = {option: value for option, value in options.items() if value not in (None, ())}
    report = api.analyze("doctor", *sources, out=out, device=device, **given)
    show(report.summary)
    for note in report.notes:
        click.echo(f"- {note}")
    if report.csv is not None:
        click.echo(report.csv)
    if (report.table["verdict"] == "do not trust").any():
        context.exit(1)
