"""`kdscope figures`: draw the figures of an analysis again, from its table alone, or those of a paper."""

from pathlib import Path

import click

EXAMPLES = """\b
  kdscope figures fidelity/fidelity.csv
  kdscope figures runs/kd/analysis/similarity.csv --out paper
  kdscope figures runs/kd/features/cka.csv
  kdscope figures rethinkkd --published --out rethinkkd
  kdscope figures rethinkkd --study studies/rethinkkd-cpu
"""


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.argument("table", metavar="TABLE.csv|PAPER", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to [that of the table; PAPER-published].")
@click.option("--width", type=click.Choice(["one", "two"]), default="two", show_default=True, help="Columns of a page.")
@click.option("--published", is_flag=True, help="Draw the numbers that the PAPER prints, and correlate them.")
@click.option("--study", type=click.Path(path_type=Path), help="Folder of a study; draw the PAPER from its tables.")
def figures(table: Path, out: Path | None, width: str, published: bool, study: Path | None) -> None:
    """Draw what `kdscope analyze` draws, from the TABLE.csv that it left. Nothing is computed, and no run is needed.

    So a table can be cut to the rows that a paper shows, and drawn. Beside each figure lie its own rows (.csv), which
    draw it again byte for byte, and its caption (.txt).

    With --published, a PAPER's own numbers (rethinkkd: Guo et al. 2025): its figures as far as numbers were printed,
    what correlates, and whether that holds among trials of one kind. With --study, the same of own runs beside the
    published numbers, into FOLDER/figures, and FOLDER/claims.csv says which claims survive.
    """
    from kdscope.errors import KDScopeError
    from kdscope.figures import FIGURES, draw
    from kdscope.figures.style import read_table

    if study is not None:
        _of_study(str(table), study, published or out is not None)
        return
    if published:
        _published(str(table), Path(f"{table}-published") if out is None else out)
        return
    if table.is_dir():
        raise KDScopeError(f"{table} is a folder; give a table in it{_tables(table)}")
    if not table.exists() and table.suffix != ".csv":
        _hint(str(table))
    written = draw(table, table.parent if out is None else out, width)
    if not written:
        named = ", ".join(map(repr, read_table(table)["analysis"].unique()))
        if not named:
            raise KDScopeError(f"{table} has no rows")
        raise KDScopeError(f"{table}: no figures are known for analysis {named}; known are {', '.join(FIGURES)}")
    for path in written:
        if path.suffix not in (".csv", ".txt"):
            click.echo(path)


def _published(name: str, out: Path) -> None:
    from kdscope.analyses.published import draw_published

    found = draw_published(name, out)
    click.echo(found)
    click.echo(f"{len(found.files)} files are in {out}: tables, figures (PDF and PNG), and their captions")


def _of_study(name: str, folder: Path, more: bool) -> None:
    from kdscope.analyses.papers import PAPERS
    from kdscope.errors import KDScopeError

    if more:
        raise KDScopeError(
            "--study writes into its folder, published numbers beside own ones, and takes no other option"
        )
    written = PAPERS[name](folder)
    claims = folder / "claims.md"
    if claims in written:
        click.echo(claims.read_text(encoding="utf-8"))
    click.echo(f"{len(written)} files are in {folder}: tables, figures (PDF and PNG), and their captions")


def _hint(name: str) -> None:
    """Raise where a paper is meant and --published was left out."""
    from kdscope.analyses.published import names
    from kdscope.errors import KDScopeError

    if name in names():
        raise KDScopeError(f"there is no table {name}; for the figures of the paper, add --published or --study")


def _tables(folder: Path) -> str:
    """The tables of analyses there, or in what a run keeps, as the end of a message."""
    places = (folder, folder / "analysis", folder / "features")
    found = sorted(path for place in places for path in place.glob("*.csv") if path.name != "metrics.csv")
    return f", such as {found[0]}" if found else ", such as fidelity.csv, which `kdscope analyze fidelity` writes"
