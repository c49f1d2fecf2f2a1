"""What an analysis is: a function from subjects to a report, under a name. Nothing here knows of any one analysis.

    @analysis("fidelity", summary="How closely does the student follow its teacher?", citation="Stanton et al. 2021")
    def fidelity(subjects, *, splits=("train", "test")) -> Report: ...

Its keyword-only parameters are its options, on the command line and in Python alike.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kdscope.analyses import ANALYSES
from kdscope.errors import unknown
from kdscope.files import replacing
from kdscope.measures.result import COLUMNS
from kdscope.sources import Subject, subjects

if TYPE_CHECKING:
    from kdscope.figures.pictures import Pictures


@dataclass(frozen=True)
class Report:
    """What an analysis found.

    Attributes:
        table: one row for each number, the columns of `kdscope.measures.result.COLUMNS` first.
        summary: the few rows and columns for a terminal, as text.
        notes: what must be said with it, one line each.
        pictures: what the table's column `pictures` names, by the names of the files.
        csv, figures: what was written (PDF and PNG; beside each lie its rows and its caption); none until it is.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    notes: tuple[str, ...] = ()
    pictures: Mapping[str, "Pictures"] = field(default_factory=dict)
    csv: Path | None = None
    figures: tuple[Path, ...] = ()

    def __str__(self) -> str:
        """The short table whole, and what must be said with it."""
        table = self.summary.to_string(index=False, line_width=100)
        return "\n".join([table, *(f"- {note}" for note in self.notes)])


@dataclass(frozen=True)
class Analysis:
    """An analysis as it is registered.

    Attributes:
        name: on the command line. summary: the question, in one line. citation: who asked it first.
        ask: the function. sources: those of its options that name networks; they reach it as subjects.
    """

    name: str
    summary: str
    citation: str
    ask: Callable[..., Report]
    sources: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its options."""
        parameters = inspect.signature(self.ask).parameters.values()
        return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def analysis(
    name: str, *, summary: str, citation: str, sources: Sequence[str] = ()
) -> Callable[[Callable[..., Report]], Callable[..., Report]]:
    """Decorator that enters a function (subjects, *, options) -> Report into `ANALYSES`; see `Analysis`."""

    def enter(ask: Callable[..., Report]) -> Callable[..., Report]:
        ANALYSES.register(name)(Analysis(name, summary, citation, ask, tuple(sources)))
        return ask

    return enter


def run_analysis(
    name: str,
    sources: Iterable[Any],
    out: str | Path | None = None,
    *,
    device: str = "auto",
    width: str = "two",
    **options: Any,
) -> Report:
    """Answer one question about some networks.

    Args:
        name: as in `ANALYSES`.
        sources: runs and caches, or their paths (or subjects).
        out: folder for `NAME.csv` and the figures; None writes nothing.
        device: where what is not cached yet is extracted.
        width: of the figures: one or two columns of a page.
        options: of the analysis; None stands for its default.

    Raises:
        KDScopeError: an unknown analysis or option (with the nearest), a source that is none.
    """
    chosen: Analysis = ANALYSES[name]
    for option in options:
        if option not in chosen.options:
            raise unknown("option", option, chosen.options, f"analysis {name!r}")
    given = {option: value for option, value in options.items() if value is not None}
    for option in chosen.sources:
        if option in given:
            given[option] = collect(given[option], device)
    report = chosen.ask(collect(sources, device), **given)
    return report if out is None else write(report, name, Path(out), width)


def collect(sources: Any, device: str = "auto") -> list[Subject]:
    """Subjects of one source or several, in the order in which they were given: the first may be the teacher."""
    if isinstance(sources, str | Path | Subject) or not isinstance(sources, Iterable):
        sources = [sources]
    return subjects(sources, device)


def tidy(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a table: the columns that all analyses share first, then `columns`; absent cells are empty."""
    return pd.DataFrame(list(rows)).reindex(columns=[*COLUMNS, *columns])


def write(report: Report, name: str, out: Path, width: str = "two") -> Report:
    """Write the table as `NAME.csv`, and the figures that are drawn from it, into `out`, each whole or not at all."""
    from kdscope.figures import draw
    from kdscope.figures.pictures import write_pictures

    for file, pictures in report.pictures.items():
        write_pictures(pictures, out / file)
    csv = out / f"{name}.csv"
    with replacing(csv) as draft:
        report.table.to_csv(draft, index=False)
    drawn = draw(csv, out, width)
    return replace(report, csv=csv, figures=tuple(path for path in drawn if path.suffix in (".pdf", ".png")))


def default_out(name: str, sources: Sequence[str | Path]) -> Path:
    """Where the command writes if it is not told: into a lone run, else into `analysis-NAME` of the current folder.

    >>> default_out("fidelity", ["runs/a", "runs/b"])
    PosixPath('analysis-fidelity')
    """
    if len(sources) == 1 and (Path(sources[0]) / "config.yaml").is_file():
        return Path(sources[0]) / "analysis"
    return Path(f"analysis-{name}")
