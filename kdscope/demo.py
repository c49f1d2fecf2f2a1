"""The main job on the embedded digits: the study `quickstart` at its `cpu` scale, as one table.

It shows the tool, not what distillation can do: on so easy a task a student hardly needs a teacher, and where that is
so the table says so.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from kdscope import models
from kdscope.errors import KDScopeError
from kdscope.run import Run
from kdscope.study import Cell, load_study
from kdscope.study.conduct import conduct

if TYPE_CHECKING:
    from kdscope.study.ask import Answer


@dataclass(frozen=True)
class Demo:
    """What the demo left: one row for each way of training, and the answers to the study's questions."""

    rows: list[dict[str, str]]
    answers: "list[Answer]"


def demo(out: str | Path, scale: str = "cpu") -> Demo:
    """Train, extract, analyse and draw in `out`. Started again, it goes on where it stopped.

    Raises:
        KDScopeError: a training or an analysis failed.
    """
    done = conduct(load_study("quickstart"), out, scale)
    errors = [f"{name}: {state.error}" for name, state in done.states.items() if state.state != "done"]
    errors += [f"{answer.label}: {answer.error}" for answer in done.answers if answer.error]
    if errors:
        raise KDScopeError(f"{errors[0]} (see {done.place.folder / 'logs'})")
    fidelity = pd.read_csv(done.place.folder / "fidelity" / "fidelity.csv", dtype={"seed": str})
    groups: dict[str, list[Cell]] = {}
    for cell in done.cells:
        groups.setdefault(cell.group, []).append(cell)
    rows = [
        _row(group, members, [Run(done.place.run(c)) for c in members], fidelity) for group, members in groups.items()
    ]
    return Demo(rows, done.answers)


def _row(group: str, members: list[Cell], runs: list[Run], fidelity: pd.DataFrame) -> dict[str, str]:
    """Accuracy over the seeds, fidelity to what it learned from, and what the network costs."""
    accuracies = [100 * run.summary["test_accuracy"] for run in runs]
    spread = f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    cost = models.profile(runs[0].model(), runs[0].dataset().image_size)
    return {
        "training": group,
        "network": runs[0].config.model.name,
        "accuracy %": f"{statistics.mean(accuracies):.1f}{spread}",
        **_fidelity(members, fidelity),
        "parameters": f"{cost.parameters:,}",
        "MB": f"{cost.megabytes:.2f}",
        "ms": f"{cost.latency_ms:.2f}",
    }


def _fidelity(members: list[Cell], table: pd.DataFrame) -> dict[str, str]:
    """Agreement with, and divergence from, the teacher or the ensemble, over all seeds, on test."""
    teachers = len(members[0].teachers)
    if not teachers:
        return {"agreement %": "", "KL": ""}
    pair = "ensemble-student" if teachers > 1 else "teacher-student"
    name, seed = (members[0].group, "all") if len(members) > 1 else (members[0].name, str(members[0].seed))
    chosen = (table["b"] == name) & (table["pair"] == pair) & (table["seed"] == seed) & (table["split"] == "test")
    rows = table[chosen].set_index("measure")
    agreement, kl = rows.loc["agreement"], rows.loc["kl-teacher-student"]
    interval = f"{100 * agreement.value:.1f} [{100 * agreement.ci_low:.1f}, {100 * agreement.ci_high:.1f}]"
    return {"agreement %": interval, "KL": f"{kl.value:.3f}"}
