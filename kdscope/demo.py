"""The main job on the embedded digits: two teachers, a student alone and three distilled ones, three seeds of each.

Fidelity is measured on all of them, the other questions are put to two seeds, causal maps (the costly ones) to one.

It shows the tool, not what distillation can do: on so easy a task a student hardly needs a teacher, and where that is
so the table says so.
"""

import itertools
import logging
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdscope import api, models
from kdscope.errors import KDScopeError
from kdscope.fleet import Training, train_all
from kdscope.run import Run

if TYPE_CHECKING:
    from kdscope.analyses.base import Report

say = logging.getLogger("kdscope").info

SEEDS = (0, 1, 2)
TEACHER, STUDENT = "resnet20", "resnet8"
# Batch and rate of the usual CIFAR comparison (Tian et al., ICLR 2020); as many epochs as a few minutes allow.
SETTINGS: dict[str, Any] = {"data": "digits", "batch_size": 64, "optim": {"lr": 0.05}, "epochs": 12, "device": "cpu"}
OTHERS = ("attention-iou", "mutual-information", "similarity", "calibration")
CAUSAL_IMAGES = 32


@dataclass(frozen=True)
class Arm:
    """One way of training, repeated with each seed."""

    name: str
    model: str
    augment: str
    method: str = "none"
    teachers: tuple[str, ...] = ()


ARMS = (
    Arm("teacher-weak", TEACHER, "weak"),
    Arm("teacher-strong", TEACHER, "strong"),
    Arm("alone", STUDENT, "standard"),
    Arm("kd", STUDENT, "standard", "kd", ("teacher-weak",)),
    Arm("at", STUDENT, "standard", "at", ("teacher-weak",)),
    Arm("ensemble", STUDENT, "standard", "kd", ("teacher-weak", "teacher-strong")),
)


@dataclass(frozen=True)
class Demo:
    """What the demo left: the runs of each arm, the report on fidelity, one row for each arm, the other reports."""

    runs: dict[str, list[Run]]
    report: "Report"
    rows: list[dict[str, str]]
    others: "dict[str, Report]"


def demo(out: str | Path) -> Demo:
    """Train, extract, analyse and draw. Started again, it goes on where it stopped."""
    out = Path(out)
    _train_all(out, [arm for arm in ARMS if not arm.teachers])
    _train_all(out, [arm for arm in ARMS if arm.teachers])
    runs = {arm.name: [Run(_place(out, arm.name, seed)) for seed in SEEDS] for arm in ARMS}
    students = [run for arm in ARMS if arm.model == STUDENT for run in runs[arm.name]]
    report = _ask(out, "fidelity", students)
    two = [run for run in students if run.config.seed in SEEDS[:2]]
    others = {name: _ask(out, name, two) for name in OTHERS}
    one = [runs["kd"][0], runs["alone"][0]]
    others["causal"] = _ask(out, "causal", one, images=CAUSAL_IMAGES)
    return Demo(runs, report, [_row(arm, runs[arm.name], report) for arm in ARMS], others)


def _ask(out: Path, name: str, runs: list[Run], **options: Any) -> "Report":
    say(f"analysing {name}")
    return api.analyze(name, *runs, out=out / name, device="cpu", **options)


def _train_all(out: Path, arms: list[Arm]) -> None:
    trainings = []
    for arm, seed in itertools.product(arms, SEEDS):
        settings = SETTINGS | {"model": arm.model, "augment": arm.augment, "method": arm.method, "seed": seed}
        teachers = tuple(_place(out, name, seed) for name in arm.teachers)
        trainings.append(Training(_place(out, arm.name, seed), settings, teachers))
    failed = [outcome for outcome in train_all(trainings) if outcome.error]
    if failed:
        raise KDScopeError(str(failed[0]))


def _place(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}-seed{seed}"


def _row(arm: Arm, runs: list[Run], report: "Report") -> dict[str, str]:
    """Accuracy over the seeds, fidelity to what it learned from, and what the network costs."""
    accuracies = [100 * run.summary["test_accuracy"] for run in runs]
    cost = models.profile(runs[0].model(), runs[0].dataset().image_size)
    return {
        "training": arm.name,
        "network": arm.model,
        "accuracy %": f"{statistics.mean(accuracies):.1f} ± {statistics.stdev(accuracies):.1f}",
        **_fidelity(arm, report),
        "parameters": f"{cost.parameters:,}",
        "MB": f"{cost.megabytes:.2f}",
        "ms": f"{cost.latency_ms:.2f}",
    }


def _fidelity(arm: Arm, report: "Report") -> dict[str, str]:
    """Agreement with, and divergence from, the teacher or the ensemble, over all seeds, on test."""
    table = report.table
    pair = "ensemble-student" if len(arm.teachers) > 1 else "teacher-student"
    chosen = (table["b"] == arm.name) & (table["pair"] == pair) & (table["seed"] == "all")
    rows = table[chosen & (table["split"] == "test")].set_index("measure")
    if not arm.teachers:
        return {"agreement %": "", "KL": ""}
    agreement, kl = rows.loc["agreement"], rows.loc["kl-teacher-student"]
    interval = f"{100 * agreement.value:.1f} [{100 * agreement.ci_low:.1f}, {100 * agreement.ci_high:.1f}]"
    return {"agreement %": interval, "KL": f"{kl.value:.3f}"}
