"""The main job on embedded data as one table: the studies `quickstart` (digits) and `detection` (scenes), scale `cpu`.

On digits it shows the tool, not what distillation can do: on so easy a task a student hardly needs a teacher, and where
that is so the table says so. On scenes it shows what is left of a gain beside more steps, and beside a plainer loss.
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
from kdscope.study.tables import over_seeds

if TYPE_CHECKING:
    from kdscope.study.ask import Answer


@dataclass(frozen=True)
class Demo:
    """What the demo left.

    Attributes:
        rows: one for each way of training. gaps: of detectors, how far each is from its rivals. notes: and what of it
            chance may explain.
        answers: to the study's questions.
    """

    rows: list[dict[str, str]]
    gaps: list[dict[str, str]]
    notes: list[str]
    answers: "list[Answer]"


STUDIES = {"classification": "quickstart", "detection": "detection"}  # by task
# Whom a detector is compared with, and what that comparison keeps equal.
RIVALS = {"alone": "the same steps", "alone-longer": "the time of FGD", "mimicry": "the uniform control"}


def demo(out: str | Path, scale: str = "cpu", task: str = "classification") -> Demo:
    """Train, extract, analyse and draw in `out`. Started again, it goes on where it stopped.

    Raises:
        KDScopeError: a training or an analysis failed.
    """
    done = conduct(load_study(STUDIES[task]), out, scale)
    errors = [f"{name}: {state.error}" for name, state in done.states.items() if state.state != "done"]
    errors += [f"{answer.label}: {answer.error}" for answer in done.answers if answer.error]
    if errors:
        raise KDScopeError(f"{errors[0]} (see {done.place.folder / 'logs'})")
    groups: dict[str, list[Cell]] = {}
    for cell in done.cells:
        groups.setdefault(cell.group, []).append(cell)
    runs = {group: [Run(done.place.run(cell)) for cell in members] for group, members in groups.items()}
    if task == "detection":
        return Demo(*_detectors(runs), done.answers)
    fidelity = pd.read_csv(done.place.folder / "fidelity" / "fidelity.csv", dtype={"seed": str})
    rows = [_row(group, members, runs[group], fidelity) for group, members in groups.items()]
    return Demo(rows, [], [], done.answers)


def _detectors(runs: dict[str, list[Run]]) -> tuple[list[dict[str, str]], list[dict[str, str]], list[str]]:
    """AP over the seeds; how far that is from each rival's, paired by seed; and what may be said of it."""
    ap = {group: [100 * run.summary["test_ap"] for run in own] for group, own in runs.items()}
    rows, gaps, notes = [], [], []
    for group, own in runs.items():
        last, summary = own[0].metrics[-1], own[0].summary
        rows.append({
            "training": group, "network": own[0].config.model.name, "parameters": f"{summary['parameters']:,}",
            "steps": f"{last['step']:.0f}", "s": f"{statistics.mean(run.summary['seconds'] for run in own):.0f}",
            "AP %": _with_interval(ap[group]),
            "AP50 %": f"{statistics.mean(100 * run.summary['test_ap50'] for run in own):.1f}",
        })  # fmt: skip
        rivals = RIVALS if own[0].config.teachers else {k: v for k, v in RIVALS.items() if k == "alone"}
        apart = {
            rival: [mine - theirs for mine, theirs in zip(ap[group], ap[rival], strict=True)]
            for rival in rivals
            if rival != group and own[0].config.model.name == runs[rival][0].config.model.name
        }
        if apart:
            over = {f"over {rival}": _with_interval(apart.get(rival, []), "+") for rival in RIVALS}
            gaps.append({"student": group} | over)
            verdicts = [f"{_verdict(each)} {rival} ({RIVALS[rival]})" for rival, each in apart.items()]
            notes += [f"{group} {', '.join(verdicts)}"] * (len(own) > 1)
    return rows, gaps, notes or ["one seed says nothing of another training"]


def _with_interval(values: list[float], sign: str = "") -> str:
    """The mean over seeds with its t-interval, which two seeds or more have; empty where there is none.

    >>> _with_interval([1.0, 2.0, 3.0], "+"), _with_interval([2.0])
    ('+2.0 [-0.5, +4.5]', '2.0')
    """
    low, high = over_seeds(values)
    around = f" [{low:{sign}.1f}, {high:{sign}.1f}]" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{around}" if values else ""


def _verdict(gaps: list[float]) -> str:
    """What paired differences over seeds allow to be said.

    >>> _verdict([5.0, 6.0, 5.5]), _verdict([-1.0, 2.0, 0.5])
    ('is better than', 'cannot be told from')
    """
    low, high = over_seeds(gaps)
    return "is better than" if low > 0 else "is worse than" if high < 0 else "cannot be told from"


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
