"""The two tables that a report begins with: what came out (of groups, or of a run), and all runs."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdscope.config import flat
from kdscope.report.found import Asked, Found
from kdscope.report.payload import AnalysisTable, Column, Table
from kdscope.report.tables import homeless, plain, score_of, table
from kdscope.run import Run

# Columns of the summary that come from analyses: (analysis, measure, what the rows must say besides, label).
BESIDE = (
    ("fidelity", "agreement", {}, "agreement"),
    ("fidelity", "kl-teacher-student", {}, "KL"),
    ("attention-iou", "attention-iou", {"area": None}, "attention"),
    ("similarity", "cka", {}, "CKA"),
    ("mutual-information", "adjusted-mutual-information", {}, "MI (adjusted)"),
    ("calibration", "ece", {"temperature": "1"}, "ECE"),
)
CARDS = {key: key.removeprefix("test_") for key in ("test_accuracy", "test_ap", "seconds", "epochs", "parameters")}
SHOWN = ("value", "ci_low", "ci_high", "floor", "ceiling", "n", "a", "b", "layer", "split", "seeds")
TAUGHT = ("teacher-student", "ensemble-student")


def of_groups(found: Found) -> Table:
    """A row for each cell of the grid over its seeds: table.csv, and the first numbers of the analyses beside it."""
    rows = [{key: number(value) for key, value in row.items()} for row in found.groups]
    detectors = any("ap" in row for row in rows)
    cards = {"accuracy": "accuracy", "ap": "ap", "sd": "accuracy-sd"}
    frames: dict[str, dict[str, dict[str, Any]]] = {}
    members = {row["group"]: [r["name"] for r in found.rows if r.get("group") == row["group"]] for row in found.groups}
    for name, measure, want, label in BESIDE:
        asked = next((each for each in found.analyses if each.name == name), None)
        own = {} if asked is None else {g: _headline(asked, measure, want, g, names) for g, names in members.items()}
        if any(own.values()):
            cards[label] = measure
            rows = [row | {label: own[str(row["group"])].get("value")} for row in rows]
            for group, frame in own.items():
                frames.setdefault(group, {})[label] = frame
    splits = {str(each.table["split"].iloc[-1]) for each in found.analyses if each.name in {b[0] for b in BESIDE}}
    spread = "mean, standard deviation and interval" if any(row.get("ci_low") for row in rows) else "mean and deviation"
    told = f"Test {'AP' if detectors else 'accuracy'} in %: {spread} over seeds"
    told += (
        f"; beside it, on {', '.join(sorted(splits))}, the headline of each analysis over the seeds that it was asked "
        "of: a number shows its interval, floor, ceiling and n." if splits else "."
    )  # fmt: skip
    made = table(rows, told, cards, drop=True)
    made.columns = [_named(each) for each in made.columns]
    for row in made.rows:
        row["frames"] = frames.get(str(row["group"]), {})
    return made


def _named(column: Column) -> Column:
    if column.key in ("accuracy", "ap", "sd"):
        column.unit = "points" if column.key == "sd" else "%"
        column.digits = 2
    return column


def _headline(asked: Asked, measure: str, want: dict[str, Any], group: str, members: Sequence[str]) -> dict[str, Any]:
    """What is said of a group's students on the last split, at the last layer: over all seeds, else of the only one.

    The value with its interval, floor, ceiling and n; nothing where there is none.
    """
    rows = asked.table
    rows = rows[(rows["measure"] == measure) & (rows["split"] == rows["split"].iloc[-1])]
    for key, value in {"definition": "kdscope", "epoch": None, **want}.items():
        if key in rows:
            rows = rows[rows[key].isna() if value is None else rows[key].astype(str) == value]
    if "pair" in rows:
        together = rows[rows["pair"] == TAUGHT[1]]
        rows = rows[rows["pair"].isin(TAUGHT)] if not together["group"].isin([group, *members]).any() else together
    if "layer_a" in rows:
        rows = rows[rows["layer_a"] == rows["layer_b"]] if (rows["layer_a"] == rows["layer_b"]).any() else rows
    own = rows[(rows["group"] == group) & (rows["seed"].astype(str) == "all")] if "group" in rows else rows[:0]
    own = own if len(own) else rows[rows["b"].isin(members)]
    if "a" in own and own["a"].notna().any():
        own = own[own["a"] == own["a"].iloc[0]]  # of several teachers, the first
    if not len(own) or own["b"].nunique() > 1:
        return {}
    return {key: value for key in SHOWN if (value := plain(own.iloc[-1].get(key))) is not None}


def of_run(run: Run) -> Table:
    """The headline of one run, and of its teachers as far as they are runs."""
    rows = [_of_run(run, _role(run))]
    rows += [_of_run(Run(t.run), "teacher") for t in run.config.teachers if t.run is not None and t.run.is_dir()]
    caption = f"Test {score_of(rows[0])[1]} of the epoch chosen by the rule {rows[0]['rule']!r}"
    return table(rows, caption, CARDS)


def _role(run: Run) -> str:
    return "student" if run.config.teachers else "alone"


def _of_run(run: Run, role: str) -> dict[str, Any]:
    summary = run.summary
    return {
        "name": run.name, "role": role, "network": run.config.model.name, "method": run.config.method,
        **{key: summary[key] for key in (*run.task.headline, *run.task.closing, "epoch", "rule")},
        "parameters": summary["parameters"], "seconds": summary["seconds"],
    }  # fmt: skip


def run_rows(found: Found) -> Table:
    """All runs of a study as runs.csv has them, with network, method and teachers; of a run, it alone."""
    if found.run is not None:
        rows = [{"name": found.run.name, "state": "done"} | _of_run(found.run, _role(found.run))]
        teachers = ", ".join(t.run.name if t.run else str(t.model) for t in found.run.config.teachers)
        return table([rows[0] | {"teachers": teachers}], cards=CARDS)
    plans = found.plan.get("runs") or {}
    rows = []
    for row in found.rows:
        plan = plans.get(row["name"], {})
        chosen = flat(plan.get("settings", {}))
        about = {"name": row["name"], "group": row["group"]}
        about |= {"network": chosen.get("model.name", ""), "method": chosen.get("method", "")}
        about |= {"teachers": ", ".join(_nameless(str(each)) for each in plan.get("learns from", ()))}
        told = {key: number(value) for key, value in row.items() if key not in about}
        if told.get("error"):
            told["error"] = homeless(str(told["error"]), found.path.parent)
        rows.append(about | told)
    if all(row.get("run") == row["group"] for row in rows):  # a grid of one point
        rows = [{key: value for key, value in row.items() if key != "run"} for row in rows]
    caption = "runs.csv, with network, method and teachers from plan.yaml"
    return table(rows, caption, CARDS, drop=True)


def _nameless(teacher: str) -> str:
    """A teacher from elsewhere without the folder that its weights lie in on this machine.

    >>> _nameless("resnet20@/home/me/a.safetensors"), _nameless("kd-seed0")
    ('resnet20@a.safetensors', 'kd-seed0')
    """
    model, at, path = teacher.partition("@")
    return f"{model}{at}{path.rpartition('/')[2]}"


def settings(run: Run) -> AnalysisTable:
    """config.yaml of a run, a row for each setting; teachers by their names, as no path of this machine is told."""
    values = flat(run.recipe.model_dump(mode="json", exclude={"teachers"}))
    values["teachers"] = ", ".join(t.run.name if t.run else str(t.model) for t in run.recipe.teachers)
    values = {key: value for key, value in values.items() if value not in (None, "", {}, [])}
    aside = ("data.root", "model.checkpoint")
    rows = [{"setting": key, "set to": _spoken(value)} for key, value in values.items() if key not in aside]
    return AnalysisTable("settings", "settings", table(rows, "config.yaml"))


def _spoken(value: Any) -> str:
    return homeless(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def number(text: str | None) -> Any:
    """A field of a CSV file: a number where it is one, None where it is empty, else the text.

    >>> number("0.5"), number("7"), number(""), number("nan"), number("kd-2")
    (0.5, 7, None, 'nan', 'kd-2')
    """
    if not text:
        return None
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if pd.notna(value) and abs(value) != float("inf") and "_" not in text else text
    return text
