"""From a study to its answers: train what is missing, ask, and write it down. Called again it goes on.

A run that failed keeps its log and does not stop the others; those that learn from it wait.
"""

import fnmatch
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdscope.errors import KDScopeError, nearest
from kdscope.files import write_text
from kdscope.fleet import Outcome, Training, check_jobs, train_all
from kdscope.study.cells import Cell, cells
from kdscope.study.place import Place, State
from kdscope.study.schema import Study

say = logging.getLogger("kdscope").info

LIMIT = 250  # runs that are trained without asking
POLL = 1.0  # seconds between two looks at a run that another process trains

Trainings = Mapping[str, Training]  # by the key of their cells
Train = Callable[[Trainings, Mapping[str, Sequence[str]]], list[Outcome]]  # trainings, and the keys that each needs


@dataclass(frozen=True)
class Conducted:
    """What a call left: the cells that were asked for, how far each is, and the answers to the study's questions."""

    place: Place
    cells: list[Cell]
    states: dict[str, State]
    answers: list[Any]

    @property
    def failed(self) -> bool:
        """Whether a run or an analysis is missing."""
        return any(state.state != "done" for state in self.states.values()) or any(a.error for a in self.answers)


def place_of(study: Study, root: str | Path, scale: str | None) -> Place:
    """Where a study lies at a scale."""
    name, _ = study.scale(scale)
    return Place(Path(root), f"{study.name}-{name}" if name else study.name)


def conduct(
    study: Study,
    root: str | Path = "studies",
    scale: str | None = None,
    *,
    jobs: int | None = None,
    only: Sequence[str] = (),
    yes: bool = False,
    train: Train | None = None,
    analyses: bool = True,
) -> Conducted:
    """Train what is missing of a study, put its questions, and write its tables.

    Args:
        root: folder of all studies that share runs.
        scale: by default the first of the file.
        jobs: trainings at a time (`kdscope.fleet.train_all`).
        only: names of runs, or globs of cells; what they learn from is trained, too.
        yes: train more than LIMIT runs.
        train: another backend (`kdscope.study.ray_backend`).
        analyses: whether to ask.

    Raises:
        KDScopeError: a study that is not valid, a selection of nothing, or too many runs. Nothing is written then.
        KeyboardInterrupt: asked to stop; the same call goes on.
    """
    from kdscope.study.ask import ask, check
    from kdscope.study.papers import check_figures, draw_paper
    from kdscope.study.tables import write_tables

    if jobs is not None:
        check_jobs(jobs)
    everything = cells(study, scale)
    known = {cell.name: cell for cell in everything}
    wanted = select(everything, only)
    check(study, scale, everything)
    check_figures(study)
    place = place_of(study, root, scale)
    states = {cell.name: place.state(cell, known) for cell in wanted}
    missing = {cell.key for cell in wanted if states[cell.name].state != "done"}
    if len(missing) > LIMIT and not yes:
        raise KDScopeError(
            f"study {study.name!r} has {len(missing)} runs to train, more than {LIMIT}; look at `kdscope study plan` "
            "first, choose with --only, or say --yes"
        )
    _write_plan(study, scale, everything, place)
    edited = {name for name, state in states.items() if state.state == "failed" and _changed(known[name], known, place)}
    previous = _stop_on_sigterm()
    try:
        _train_missing([c for c in wanted if c.name not in edited], known, place, jobs, train)
        states = {cell.name: place.state(cell, known) for cell in wanted}
        for name, state in states.items():
            if state.state != "done":
                say(f"{name} {state.state}: {state.error}" if state.error else f"{name} {state.state}")
        answers = ask(study, scale, wanted, known, place, states) if analyses else []
        answers += draw_paper(study, place) if analyses else []
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command goes on") from None
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
    write_tables(study, wanted, place, states)
    return Conducted(place, wanted, states, answers)


def select(everything: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells that patterns choose, with all that they need, in the order of all; a KDScopeError where that is none.

    A pattern is the name of a run in the file, or a glob of cells, such as "kd-*-seed0".
    """
    if not only:
        return list(everything)
    known = {cell.name: cell for cell in everything}
    kept: set[str] = set()
    for pattern in only:
        found = [cell.name for cell in everything if matches(cell, pattern)]
        if not found:
            hints = ", ".join(nearest(pattern, [*dict.fromkeys(c.arm for c in everything), *known]))
            raise KDScopeError(f"no run of the study is called {pattern!r}; nearest: {hints}")
        kept.update(found)
    for cell in reversed(everything):  # teachers come before students
        if cell.name in kept:
            kept.update(cell.needs)
    return [cell for cell in everything if cell.name in kept]


def matches(cell: Cell, pattern: str) -> bool:
    """Whether a pattern is the name of the cell's run, or a glob of its name with or without the seed."""
    return cell.arm == pattern or any(fnmatch.fnmatchcase(name, pattern) for name in (cell.name, cell.group))


def training(cell: Cell, known: Mapping[str, Cell], place: Place) -> Training:
    """The training of a cell, as `kdscope.train` takes it."""
    settings = cell.config.model_dump(mode="json", exclude={"teachers"})
    if cell.start is not None:
        settings["model"]["checkpoint"] = str(place.run(known[cell.start]) / "checkpoints" / "model.safetensors")
    return Training(place.run(cell), settings, tuple(place.teachers(cell, known)), place.log(cell))


def _train_missing(
    wanted: Sequence[Cell], known: Mapping[str, Cell], place: Place, jobs: int | None, train: Train | None
) -> None:
    left = {cell.key: cell for cell in wanted if place.state(cell, known).state != "done"}
    done = len({cell.key for cell in wanted}) - len(left)
    if left:
        say(f"{done} runs are there, {len(left)} to train")
    needs = {key: [known[name].key for name in cell.needs] for key, cell in left.items()}
    lost = {cell.key for cell in known.values()} - {cell.key for cell in wanted}
    for key in [*left]:  # teachers come before students
        if lost.intersection(needs[key]):
            lost.add(key)
            del left[key]
    trainings = {key: training(cell, known, place) for key, cell in left.items()}
    if train is not None:
        train(trainings, needs)
        return
    while left:
        ready = [key for key in left if not any(need in left or need in lost for need in needs[key])]
        if not ready:
            return
        held = [key for key in ready if place.state(left[key], known).state == "running"]
        if held == ready:
            say(f"waiting for {', '.join(left[key].name for key in held)}, which another process trains")
            while any(place.state(left[key], known).state == "running" for key in held):
                time.sleep(POLL)
            held = []
        free = [key for key in ready if key not in held]
        outcomes = train_all([trainings[key] for key in free], jobs)
        lost.update(key for key, outcome in zip(free, outcomes, strict=True) if outcome.error)
        left = {key: cell for key, cell in left.items() if key not in free}


def _stop_on_sigterm() -> Any:
    """SIGTERM is as Ctrl-C: no process of ours goes on alone. Gives the handler that was there before."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    return signal.signal(signal.SIGTERM, stop)


def _changed(cell: Cell, known: Mapping[str, Cell], place: Place) -> bool:
    """Whether the run's config.yaml is not what its key stands for: it is neither gone on with nor trusted."""
    if not (place.run(cell) / "config.yaml").is_file():
        return False
    try:
        place.check(cell, known)
    except KDScopeError:
        return True
    return False


def _write_plan(study: Study, scale: str | None, everything: Sequence[Cell], place: Place) -> None:
    """plan.yaml: what the study is at this scale, run by run."""
    runs = {
        cell.name: {
            "folder": f"runs/{place.run(cell).name}",
            "key": cell.key,
            "learns from": [t.cell or t.elsewhere for t in cell.teachers],
            "begins as": cell.start,
            "settings": cell.config.model_dump(mode="json", exclude={"teachers"}),
        }
        for cell in everything
    }
    told = study.model_dump(mode="json", include={"title", "citation", "about", "claims"}, exclude_defaults=True)
    plan = {"study": study.name, **told, "scale": study.scale(scale)[0], "runs": runs}
    plain = json.loads(json.dumps(plan))
    write_text(place.folder / "plan.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
