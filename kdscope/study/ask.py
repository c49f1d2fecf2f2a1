"""The questions of a study, put to those of its runs that are done."""

import logging
import traceback
from collections.abc import Iterable, Mapping, Sequence
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
        # Parted before the selection is made: an answer's folder has one name, whatever is asked for.
        for value, whole in _parts(_of(question, known.values()), question.per):
            part = [cell for cell in whole if cell.name in states]
            if not part:
                continue
            there = list({cell.key: cell for cell in part if states[cell.name].state == "done"}.values())
            named = f"{label}-{value}" if value else label
            if not there:
                answers.append(Answer(named, place.folder / named, error="none of its runs is done"))
                continue
            missing = [cell.name for cell in part if states[cell.name].state != "done"]
            beside = [cell for cell in wanted if not value or cell.point.get(question.per) in (value, None)]
            answers.append(_answer(question, named, options, there, missing, beside, known, place))
    for answer in answers:
        if answer.error:
            say(f"analysis {answer.label} failed: {answer.error}")
    return answers


def _parts(chosen: Sequence[Cell], axis: str) -> list[tuple[str, list[Cell]]]:
    """The cells by their values on an axis, each with the value; all together where they have no more than one."""
    parts: dict[str, list[Cell]] = {}
    for cell in chosen:
        parts.setdefault(cell.point.get(axis, "") if axis else "", []).append(cell)
    return list(parts.items()) if len(parts) > 1 else [("", part) for part in parts.values()]


def _of(question: Question, cells: Iterable[Cell]) -> list[Cell]:
    return [cell for cell in cells if any(matches(cell, pattern) for pattern in question.runs)]


def check(study: Study, scale: str | None, everything: Sequence[Cell]) -> None:
    """Raise for an analysis that is none, or of no run, or an option that it does not have, before hours are spent."""
    from kdscope.analyses import ANALYSES

    axes = {axis for arm in study.runs.values() for axis in arm.grid}
    smaller = study.scale(scale)[1].analyses
    for question in study.analyses:
        where = f"study {study.name!r}, analysis {question.name!r}"
        if question.per and question.per not in axes:
            raise unknown("axis", question.per, axes, where)
        known = ANALYSES[question.name].options
        for option in question.options:
            if option not in known:
                raise unknown("option", option, known, where)
        if smaller.get(question.label or question.name) is not False and not _of(question, everything):
            raise unknown("run", ", ".join(question.runs), dict.fromkeys(cell.arm for cell in everything), where)


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
