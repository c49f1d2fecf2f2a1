"""What a study would train, and how long that takes: one step of each kind of run is timed, with untrained networks.

Runs that differ in their seed alone are of one kind. A run's time is its steps times that of one, over all its phases
and the trainings of its chain, and its looks at the test part.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdscope.config import Config
from kdscope.study.cells import Cell
from kdscope.study.place import Place

if TYPE_CHECKING:
    from kdscope.training.session import Session

STEPS = 3  # timed, after one that is not


@dataclass(frozen=True)
class Planned:
    """Runs that differ in their seed alone: how many, how many of them are missing, and what these take.

    Attributes:
        key: of the first; its folder is runs/GROUP-seedS-KEY.
        step: seconds. hours: of all that are missing together; None where it was not measured.
        error: why it could not be, such as data that are not there.
    """

    group: str
    runs: int
    missing: int
    epochs: int
    key: str
    device: str
    step: float | None = None
    hours: float | None = None
    error: str = ""


def plan_of(wanted: Sequence[Cell], known: Mapping[str, Cell], place: Place, timed: bool = True) -> list[Planned]:
    """One row for each kind of run, in their order; those that are done cost nothing and are not timed."""
    groups: dict[str, list[Cell]] = {}
    for cell in {cell.key: cell for cell in wanted}.values():
        groups.setdefault(cell.group, []).append(cell)
    rows = []
    for group, members in groups.items():
        states = [place.state(cell, known) for cell in members]
        missing = [c for c, state in zip(members, states, strict=True) if state.state != "done"]
        first = members[0]
        step, hours, error = None, None if timed and missing else 0.0, ""
        if timed and missing:
            try:
                step, seconds = seconds_of(first, known)
                hours = len(missing) * seconds / 3600
            except Exception as problem:  # data that are not there, too little memory: the plan says it and goes on
                error = " ".join(str(problem).split()) or type(problem).__name__
        device = _device(first.config)
        rows.append(
            Planned(
                group, len(members), len(missing), first.config.epochs, first.key, device, step,
                hours if timed else None, error,
            )
        )  # fmt: skip
    return rows


def seconds_of(cell: Cell, known: Mapping[str, Cell]) -> tuple[float, float]:
    """Seconds of one step of the main training, and of the whole run with its phases and its chain.

    Raises:
        KDScopeError: data that are not there, or networks that do not fit.
    """
    from kdscope.config import TeacherSettings
    from kdscope.links import links
    from kdscope.run import Run, load_data, load_teacher
    from kdscope.training.loop import checked
    from kdscope.training.ranks import make_fabric
    from kdscope.training.session import Session
    from kdscope.training.stop import StopSignal
    from kdscope.training.tasks import task_of

    task = task_of(cell.config.data.name)
    config, dataset = cell.config, load_data(cell.config.data)
    teachers = [
        task.network(known[t.cell].config, dataset).eval().requires_grad_(False)
        if t.cell else load_teacher(TeacherSettings.parse(t.elsewhere), dataset)
        for t in cell.teachers
    ]  # fmt: skip
    logger, level = logging.getLogger("kdscope"), logging.getLogger("kdscope").level
    logger.setLevel(logging.WARNING)  # what the phases say belongs to a run
    try:
        with tempfile.TemporaryDirectory() as scratch, StopSignal():
            place = Path(scratch) / "run"
            config, dataset, learner = checked(config, place, teachers)
            run = Run.create(place, config.model_copy(update={"teachers": (), "chain": "none", "assistants": ()}))
            fabric = make_fabric(config.device, config.devices, config.precision)
            session = Session(run, fabric, dataset, learner)
            session.enter(len(session.stages) - 1)
            learner.train()
            session.begin_epoch(0)
            with learner.capturing():
                step = _timed_steps(session)
            began = time.monotonic()
            task.evaluate(fabric, learner.student, session.held_out["test"])
            look = time.monotonic() - began
            chain = len(links(config, place))
            epochs = sum(stage.epochs for stage in session.stages) + chain * config.epochs
            looks = epochs / config.eval_every if config.eval_every else 1 + chain
            return step, epochs * len(session.batches) * step + looks * look
    finally:
        logger.setLevel(level)


def _timed_steps(session: "Session") -> float:
    import torch

    times = []
    rate = session.run.config.optim.lr
    while len(times) <= STEPS:
        for batch in session.batches.epoch(0):
            began = time.monotonic()
            session.step(batch, rate)
            if session.fabric.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.monotonic() - began)
            if len(times) > STEPS:
                break
    return statistics.median(times[1:])


def _device(config: Config) -> str:
    import torch

    wanted = config.device
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
