"""`kdscope figures`: draw the figures of an analysis again, from its table alone."""

from pathlib import Path

import click

EXAMPLES = """\b
  kdscope figures fidelity/fidelity.csv
  kdscope figures runs/kd/analysis/similarity.csv --out paper
  kdscope figures runs/kd/features/cka.csv
"""


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.argument("table", metavar="TABLE.csv", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to [that of the table].")
def figures(table: Path, out: Path | None) -> None:
    """Draw what `kdscope analyze` draws, from the TABLE.csv that it left. Nothing is computed, and no run is needed.

    So a table can be cut to the rows that a paper shows, and drawn.
    """
    from kdscope.errors import KDScopeError
    from kdscope.figures import FIGURES, draw
    from kdscope.figures.style import read_table

    if table.is_dir():
        raise KDScopeError(f"{table} is a folder; give a table in it{_tables(table)}")
    written = draw(table, table.parent if out is None else out)
    if not written:
        named = ", ".join(map(repr, read_table(table)["analysis"].unique()))
        if not named:
            raise KDScopeError(f"{table} has no rows")
        raise KDScopeError(f"{table}: no figures are known for analysis {named}; known are {', '.join(FIGURES)}")
    for path in written:
        click.echo(path)


def _tables(folder: Path) -> str:
    """The tables of analyses there, or in what a run keeps, as the end of a message."""
    places = (folder, folder / "analysis", folder / "features")
    found = sorted(path for place in places for path in place.glob("*.csv") if path.name != "metrics.csv")
    return f", such as {found[0]}" if found else ", such as fidelity.csv, which `kdscope analyze fidelity` writes"
