"""`kdscope report`: a run or a study as one page that needs nothing else."""

from pathlib import Path

import click

EXAMPLES = """\b
  kdscope report studies/quickstart-cpu
  kdscope report runs/kd -o kd.html
  kdscope report studies/quickstart-cpu --serve
"""


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.argument("source", metavar="RUN_OR_STUDY", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The file [report.html in that folder].")
@click.option("--serve", is_flag=True, help="Show it on this machine alone (127.0.0.1), until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), help="Of --serve [any that is free].")
@click.option("--extract/--no-extract", default=True, help="Make the maps that no cache holds, for the explorer [yes].")
@click.option("--explorer/--no-explorer", default=True, help="Show images, and where networks look [yes].")
@click.option("--device", default="auto", show_default=True, help="Where maps are made.")
def report(
    source: Path, out: Path | None, serve: bool, port: int | None, extract: bool, explorer: bool, device: str
) -> None:
    """Write one page of a run directory, or of the folder of a study: tables, charts, and images with maps.

    The page loads nothing: it can be sent, printed, and opened without a network.
    """
    from kdscope.errors import KDScopeError
    from kdscope.report.write import write_report

    if port is not None and not serve:
        raise KDScopeError("--port is for --serve")
    path = write_report(source, out, extract=extract, explorer=explorer, device=device)
    click.echo(f"{path} ({path.stat().st_size / 2**20:.1f} MiB)")
    if serve:
        from kdscope.report.serve import serve as show

        show(path, port or 0, say=click.echo)
