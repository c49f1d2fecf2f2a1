"""What a folder holds for a report: a run or a finished study, and the tables of its analyses. Nothing is computed."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from kdscope.errors import KDScopeError, nearest
from kdscope.files import read_json
from kdscope.run import Run

# The first question first; what is not named here comes after, by its label.
ORDER = (
    "comparison",
    "controls",
    "fidelity",
    "attention-iou",
    "similarity",
    "mutual-information",
    "calibration",
    "causal",
)


@dataclass(frozen=True)
class Asked:
    """The table of an analysis, as `kdscope.figures.style.read_table` gives it.

    Attributes:
        name: of the analysis. label: of its folder, which tells two of one name apart. file: of the table, relative.
        notes: what was said with it.
    """

    name: str
    label: str
    file: str
    table: pd.DataFrame
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A run or a study.

    Attributes:
        path: its folder. run: of a run alone. plan, rows, groups: of a study, plan.yaml, runs.csv and table.csv.
        runs: the finished runs by their names.
        analyses: those found, in the order of `ORDER`.
        claims: what became of the claims of a paper, claims.csv.
        notes: what could not be read.
    """

    path: Path
    run: Run | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)
    groups: list[dict[str, str]] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    analyses: tuple[Asked, ...] = ()
    claims: list[dict[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "study" if self.run is None else "run"


def find(path: str | Path) -> Found:
    """Open a run directory or the folder of a study.

    Raises:
        KDScopeError: neither of them, with the nearest right thing; a study of which nothing was run.
    """
    path = Path(path)
    if (path / "config.yaml").is_file():
        run = Run(path)
        tables, notes = _tables(run.path, [run.path / "analysis", run.path / "features"])
        return Found(run.path, run, runs={run.name: run}, analyses=tables, notes=notes)
    if (path / "plan.yaml").is_file():
        return _study(path)
    raise KDScopeError(f"{path} {_instead(path)}")


def _study(path: Path) -> Found:
    from kdscope.config import read_yaml

    plan = read_yaml(path / "plan.yaml")
    if not (path / "runs.csv").is_file():
        raise KDScopeError(
            f"{path} is a study that was not run to its end: it has no runs.csv; `kdscope study run` goes on with it"
        )
    rows, groups = read_csv(path / "runs.csv"), read_csv(path / "table.csv")
    root = path.resolve().parent
    done = [row for row in rows if row.get("state") == "done" and (root / row["folder"] / "config.yaml").is_file()]
    gone = sum(row.get("state") == "done" for row in rows) - len(done)
    tables, notes = _tables(path, sorted(each for each in path.iterdir() if each.is_dir()))
    if gone:
        notes = (*notes, f"the folders of {gone} finished runs are not in {root.name}/runs: nothing is shown of them")
    runs = {row["name"]: Run(root / row["folder"]) for row in done}
    return Found(path.resolve(), None, plan, rows, groups, runs, tables, read_csv(path / "claims.csv"), notes)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file as text; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _tables(base: Path, folders: Sequence[Path]) -> tuple[tuple[Asked, ...], tuple[str, ...]]:
    """The table of each analysis that left one; those that cannot be read are told."""
    from kdscope.figures.style import read_table

    found, notes = [], []
    for folder in folders:
        mark = (folder / "asked.json").is_file()
        asked = read_json(folder / "asked.json").get("analysis") if mark else None
        for path in sorted(folder.glob("*.csv")) if folder.is_dir() else ():
            file = path.relative_to(base).as_posix()
            if mark and path.stem != asked:
                continue
            try:
                frame = read_table(path)
            except KDScopeError as error:
                if mark:
                    notes.append(f"{file} is left out: it {str(error).removeprefix(f'{path} ')}")
                continue
            names = [*frame["analysis"].unique()]
            if len(frame) and len(names) == 1 and not path.stem.startswith(f"{names[0]}-"):  # rows of a figure
                label = folder.name if mark else path.stem
                found.append(Asked(str(names[0]), label, file, frame, _said(folder / "summary.txt")))
    found.sort(key=lambda each: (ORDER.index(each.name) if each.name in ORDER else len(ORDER), each.label))
    return tuple(found), tuple(notes)


def _said(summary: Path) -> tuple[str, ...]:
    """The notes under the short table that a study keeps beside each analysis."""
    lines = summary.read_text(encoding="utf-8").splitlines() if summary.is_file() else []
    return tuple(line.removeprefix("- ") for line in lines if line.startswith("- "))


def _instead(path: Path) -> str:
    """What is wrong with a path, and what to give instead: the end of a message."""
    wrong = "is neither a run directory (config.yaml) nor the folder of a study (plan.yaml)"
    if not path.exists():
        beside = path.parent if path.parent.is_dir() else Path()
        known = {each.name: each for each in sorted(beside.iterdir()) if _reportable(each)}
        hint = ", ".join(str(known[name]) for name in nearest(path.name, known)) if known else ""
        return f"does not exist; {f'nearest: {hint}' if hint else 'give a run directory or the folder of a study'}"
    around = next((parent for parent in path.resolve().parents if _reportable(parent)), None)
    if around is not None:
        return f"{wrong}; it lies in one, give {around}"
    inside = [each for each in sorted(path.iterdir()) if _reportable(each)] if path.is_dir() else []
    inside = inside or ([each for each in sorted(path.glob("*/*")) if _reportable(each)] if path.is_dir() else [])
    return f"{wrong}" + (f"; nearest: {', '.join(map(str, inside[:3]))}" if inside else "")


def _reportable(path: Path) -> bool:
    return (path / "config.yaml").is_file() or (path / "plan.yaml").is_file()
