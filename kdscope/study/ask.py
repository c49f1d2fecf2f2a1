"""The questions of a study, put to those of its runs that are done, and the tables of all runs."""

import csv
import io
import logging
import statistics
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdscope.errors import unknown
from kdscope.files import digest, read_json, write_json, write_text
from kdscope.run import Run
from kdscope.study.cells import Cell
from kdscope.study.conduct import matches
from kdscope.study.place import FAILED, Place, State
from kdscope.study.schema import Question, Study

if TYPE_CHECKING:
    from kdscope.analyses.base import Report
    from kdscope.sources import Subject

say = logging.getLogger("kdscope").info


@dataclass(frozen=True)
class Answer:
    """What became of a question: its folder, the report (None where an earlier one still holds), or why not."""

    label: str
    folder: Path
    report: "Report | None" = None
    error: str = ""


def ask(
    study: Study,
    scale: str | None,
    wanted: Sequence[Cell],
    known: Mapping[str, Cell],
    place: Place,
    states: Mapping[str, State],
) -> list[Answer]:
    """Put each question that none of the same runs has answered yet; one that fails does not stop the others."""
    smaller = study.scale(scale)[1].analyses
    answers = []
    for question in study.analyses:
        label = question.label or question.name
        change = smaller.get(label, {})
        if change is False:
            continue
        options = question.options | (change if isinstance(change, dict) else {})
        chosen = [cell for cell in wanted if any(matches(cell, pattern) for pattern in question.runs)]
        there = list({cell.key: cell for cell in chosen if states[cell.name].state == "done"}.values())
        if chosen and not there:
            answers.append(Answer(label, place.folder / label, error="none of its runs is done"))
        elif chosen:
            missing = [cell.name for cell in chosen if states[cell.name].state != "done"]
            answers.append(_answer(question, label, options, there, missing, wanted, known, place))
    for answer in answers:
        if answer.error:
            say(f"analysis {answer.label} failed: {answer.error}")
    return answers


def check(study: Study) -> None:
    """Raise for an analysis that is none, or an option that it does not have, before hours are spent on runs."""
    from kdscope.analyses import ANALYSES

    for question in study.analyses:
        known = ANALYSES[question.name].options
        for option in question.options:
            if option not in known:
                raise unknown("option", option, known, f"study {study.name!r}, analysis {question.name!r}")


def _answer(
    question: Question,
    label: str,
    options: dict[str, Any],
    there: Sequence[Cell],
    missing: Sequence[str],
    wanted: Sequence[Cell],
    known: Mapping[str, Cell],
    place: Place,
) -> Answer:
    from kdscope.analyses import ANALYSES
    from kdscope.analyses.base import run_analysis

    folder = place.folder / label
    weights = {cell.name: Run(place.run(cell)).summary["weights_hash"] for cell in there}
    asked = {"analysis": question.name, "options": options, "runs": weights, "without": list(missing)}
    mark = folder / "asked.json"
    if mark.is_file() and read_json(mark).get("digest") == digest(asked):
        return Answer(label, folder)
    say(f"analysing {label}: {len(there)} runs")
    try:
        subjects = _subjects(there, known, place)
        given = dict(options)
        for option in ANALYSES[question.name].sources:
            if option in given:
                patterns = [given[option]] if isinstance(given[option], str) else given[option]
                given[option] = _subjects(_named(patterns, option, wanted), known, place)
        report = run_analysis(question.name, subjects, folder, device=there[0].config.device, **given)
    except Exception as error:
        line = " ".join(str(error).split()) or type(error).__name__
        write_text(place.folder / "logs" / f"analysis-{label}.log", f"{traceback.format_exc()}{FAILED}{line}\n")
        return Answer(label, folder, error=line)
    notes = [*report.notes, *(f"without {name}, which is not done" for name in missing)]
    report = replace(report, notes=tuple(notes))
    write_text(folder / "summary.txt", f"{report}\n")
    write_json(mark, asked | {"digest": digest(asked)})
    return Answer(label, folder, report)


def _named(patterns: Sequence[str], option: str, wanted: Sequence[Cell]) -> list[Cell]:
    """The cells that an option names."""
    found = [cell for cell in wanted if any(matches(cell, str(pattern)) for pattern in patterns)]
    if not found:
        raise unknown("run", ", ".join(map(str, patterns)), [cell.group for cell in wanted], f"option {option}")
    return found


def _subjects(chosen: Sequence[Cell], known: Mapping[str, Cell], place: Place) -> "list[Subject]":
    """The runs of cells as an analysis takes them, they and their teachers under the names of the cells."""
    from kdscope.sources import of_run

    names = {place.run(cell).name: cell.name for cell in reversed([*known.values()])}
    names |= {place.run(cell).name: cell.name for cell in chosen}

    def renamed(subject: "Subject") -> "Subject":
        teachers = tuple(renamed(teacher) for teacher in subject.teachers)
        return replace(subject, name=names.get(subject.name, subject.name), teachers=teachers)

    return [renamed(of_run(Run(place.run(cell)), cell.config.device)) for cell in chosen]


def write_tables(study: Study, wanted: Sequence[Cell], place: Place, states: Mapping[str, State]) -> None:
    """runs.csv, one row a run; table.csv and table.md, one row for each cell of the grid over its seeds."""
    axes = list(dict.fromkeys(axis for cell in wanted for axis in cell.point))
    runs = [
        {
            "name": c.name,
            "group": c.group,
            "run": c.arm,
            **{axis: c.point.get(axis, "") for axis in axes},
            "seed": c.seed,
        }
        | {
            "state": states[c.name].state,
            "test_accuracy": _text(states[c.name].accuracy),
            "seconds": states[c.name].seconds,
        }
        | {"epochs": states[c.name].epochs, "folder": f"runs/{place.run(c).name}", "error": states[c.name].error}
        for c in wanted
    ]
    write_text(place.folder / "runs.csv", _as_csv(runs))
    rows = table(study, wanted, states)
    write_text(place.folder / "table.csv", _as_csv(rows))
    write_text(place.folder / "table.md", _as_markdown(study, rows, {c.config.data.name for c in wanted}))


def table(study: Study, wanted: Sequence[Cell], states: Mapping[str, State]) -> list[dict[str, Any]]:
    """Test accuracy in % over the seeds: mean, standard deviation, how many; published numbers beside it."""
    groups: dict[str, list[Cell]] = {}
    for cell in wanted:
        groups.setdefault(cell.group, []).append(cell)
    rows = []
    for group, members in groups.items():
        values = [100 * states[c.name].accuracy for c in members if states[c.name].state == "done"]
        row = {"group": group, "network": members[0].config.model.name, "method": members[0].config.method}
        row |= {"seeds": len(values), "accuracy": f"{statistics.mean(values):.2f}" if values else ""}
        row["sd"] = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        for source, numbers in study.published.items():
            row[source] = _text(numbers.get(group))
        rows.append(row)
    return rows


def _text(value: float | None) -> str:
    return "" if value is None else str(value)


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _as_markdown(study: Study, rows: Sequence[Mapping[str, Any]], data: Collection[str]) -> str:
    lines = [f"# {study.title}", "", "Test accuracy in %, mean and standard deviation over seeds.", ""]
    own = study.settings.get("data")
    if study.published and own is not None and set(data) != {own}:
        there = f"Published numbers are on {own} with the networks of the paper, and cannot be compared with these"
        lines += [f"{there} ({', '.join(sorted(data))}).", ""]
    lines += ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(str(value).replace("|", "\\|") for value in row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"
