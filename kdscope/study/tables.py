"""The tables of a study: one row a run, and one for each cell of the grid over its seeds, as a paper shows it."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kdscope.config import DataSettings
from kdscope.figures.tables import Column, Number, Row, Table, ranks
from kdscope.files import write_text
from kdscope.measures.significance import holm
from kdscope.study.cells import Cell
from kdscope.study.place import Place, State, score_of
from kdscope.study.schema import Study
from kdscope.training.tasks import task_of

HEADS = ("group", "network", "method", "seeds")
LEVEL = 0.05
CHANCE = (
    "†: not beyond chance behind the best of its network (paired t-test over the seeds that both have, after Holm, "
    f"{LEVEL:g}); two seeds or more are needed to test"
)


def write_tables(study: Study, wanted: Sequence[Cell], place: Place, states: Mapping[str, State]) -> None:
    """runs.csv, one row a run; table.csv, table.md and table.tex, one row for each cell of the grid over its seeds."""
    axes = list(dict.fromkeys(axis for cell in wanted for axis in cell.point))
    scores = dict.fromkeys(score_of(cell.config) for cell in wanted)
    runs = [
        {"name": c.name, "group": c.group, "run": c.arm, **{axis: c.point.get(axis, "") for axis in axes}}
        | {"seed": c.seed, "state": states[c.name].state}
        | dict.fromkeys(scores, "")
        | {score_of(c.config): _text(states[c.name].score)}
        | {"seconds": states[c.name].seconds, "epochs": states[c.name].epochs}
        | {"folder": f"runs/{place.run(c).name}", "error": states[c.name].error}
        for c in wanted
    ]
    write_text(place.folder / "runs.csv", _as_csv(runs))
    write_text(place.folder / "table.csv", _as_csv(table(study, wanted, states)))
    shown = for_paper(study, wanted, states)
    write_text(place.folder / "table.md", shown.markdown())
    write_text(place.folder / "table.tex", shown.latex(f"tab:{study.name or 'study'}"))


def table(study: Study, wanted: Sequence[Cell], states: Mapping[str, State]) -> list[dict[str, Any]]:
    """The score on test in % over the seeds: mean, standard deviation, 95 % interval, how many; published ones beside.

    The score is `accuracy` of classifiers, `ap` of detectors (COCO's average precision, IoU .50 to .95).
    """
    rows = []
    scores = dict.fromkeys(task_of(cell.config.data.name).score for cell in wanted)
    for group, members in _groups(wanted).items():
        values = [*_scores(members, states).values()]
        row = {"group": group, "network": members[0].config.model.name, "method": members[0].config.method}
        row |= {"seeds": len(values)} | dict.fromkeys(scores, "")
        if values:
            row[task_of(members[0].config.data.name).score] = f"{statistics.mean(values):.2f}"
        spread = (statistics.stdev(values), *over_seeds(values)) if len(values) > 1 else (None,) * 3
        row |= {k: "" if v is None else f"{v:.2f}" for k, v in zip(("sd", "ci_low", "ci_high"), spread, strict=True)}
        for source, numbers in study.published.items():
            row[source] = _text(numbers.get(group))
        rows.append(row)
    return rows


def for_paper(study: Study, wanted: Sequence[Cell], states: Mapping[str, State]) -> Table:
    """The same with marks: runs of one network on the same data compete, block after block; published numbers do not.

    What chance may explain is signed: each row is tested against the best of its block, paired by seed.
    """
    groups, data = _groups(wanted), sorted({cell.config.data.name for cell in wanted})
    titles = {group: f"{task_of(members[0].config.data.name).measured} (%)" for group, members in groups.items()}
    measured = [*dict.fromkeys(titles.values())]
    rows, found = [], {}
    for group, members in groups.items():
        config, found[group] = members[0].config, _scores(members, states)
        values = [*found[group].values()]
        numbers = {source: Number(theirs[group]) for source, theirs in study.published.items() if group in theirs}
        if values:
            sd = statistics.stdev(values) if len(values) > 1 else math.nan
            numbers[titles[group]] = Number(statistics.mean(values), sd=sd)
        words = (group, config.model.name, config.method, str(len(values)))
        rows.append(Row(words, numbers, f"{config.data.name} {config.model.name}"))
    blocks = list(dict.fromkeys(row.block for row in rows))
    rows.sort(key=lambda row: blocks.index(row.block))
    columns = (*map(Column, measured), *(Column(source, published=True) for source in study.published))
    tested = False
    for column in columns[: len(measured)]:
        rows, some = _signed(rows, column, found)
        tested |= some
    notes = ["Mean ± standard deviation over seeds", *([CHANCE] if tested else [])]
    own = study.settings.get("data")
    if study.published and own is not None and set(data) != {DataSettings(name=own).name}:
        there = f"Published numbers are on {own} with the networks of the paper, and cannot be compared with these"
        notes.append(f"{there} ({', '.join(data)})")
    if len(blocks) > 1:
        notes.append("Marks are given within each network" + (" and data set" if len(data) > 1 else ""))
    what = " and ".join(title.removesuffix(" (%)") for title in measured)
    if "AP" in what:
        notes.append("AP is COCO's average precision, the mean over IoU 0.50 to 0.95")
    return Table(HEADS, columns, tuple(rows), f"{study.title} Test {what} in % on {', '.join(data)}.", tuple(notes))


def _signed(rows: list[Row], column: Column, found: Mapping[str, Mapping[int, float]]) -> tuple[list[Row], bool]:
    """The rows, those signed whose distance to the best of their block chance may explain; and whether any was tested.

    Args:
        found: score by seed, of each group.
    """
    best, signed, tested = ranks(rows, column), list(rows), False
    for block in dict.fromkeys(row.block for row in rows):
        here = [k for k, row in enumerate(rows) if row.block == block]
        top = next((found[rows[k].words[0]] for k in here if best[k] == "best"), {})
        p = {k: paired_p(top, found[rows[k].words[0]]) for k in here if best[k] != "best"}
        p = {k: value for k, value in p.items() if not math.isnan(value)}
        for k, adjusted in zip(p, holm(list(p.values())) if p else (), strict=True):
            tested = True
            if adjusted > LEVEL:
                number = replace(rows[k].numbers[column.title], signs="†")
                signed[k] = replace(rows[k], numbers={**rows[k].numbers, column.title: number})
    return signed, tested


def paired_p(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """p of a paired t-test over the seeds that both have, two-sided; NaN where fewer than two, or no spread.

    >>> round(paired_p({0: 1.0, 1: 3.0, 2: 5.0}, {0: 0.0, 1: 1.0, 2: 2.0}), 4)
    0.0742
    """
    from scipy.stats import ttest_1samp

    differences = np.array([a[seed] - b[seed] for seed in a if seed in b])
    if len(differences) < 2 or np.ptp(differences) < 1e-9:
        return math.nan
    return float(ttest_1samp(differences, 0.0).pvalue)


def over_seeds(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t-interval of the mean of values [N] over seeds, on the same images; NaN where N < 2.

    The numbers of the analyses hold for other images besides (`kdscope.measures.seeds.over_seeds`).

    >>> [round(bound, 3) for bound in over_seeds([0.0, 1.0, 2.0])]
    [-1.484, 3.484]
    """
    from scipy.stats import t

    if len(values) < 2:
        return math.nan, math.nan
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values) - half, statistics.mean(values) + half


def _groups(wanted: Sequence[Cell]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in wanted:
        groups.setdefault(cell.group, []).append(cell)
    return groups


def _scores(members: Sequence[Cell], states: Mapping[str, State]) -> dict[int, float]:
    """In %, by seed, of those that are done."""
    return {c.seed: 100 * states[c.name].score for c in members if states[c.name].state == "done"}


def _text(value: float | None) -> str:
    return "" if value is None else str(value)


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
