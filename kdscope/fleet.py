"""Many trainings on one machine, each in a process of its own: resumed where they were begun, and none stops another.

A study of small networks is made of runs that use one core each: more threads gain them little, and cost much where
the machine is busy.
"""

import contextlib
import io
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import joblib

from kdscope import api
from kdscope.errors import KDScopeError
from kdscope.progress import bar
from kdscope.run import Run

say = logging.getLogger("kdscope").info


@dataclass(frozen=True)
class Training:
    """One run to be had.

    Attributes:
        path: its directory.
        settings: by name, as `kdscope.train` takes them. teachers: as there; they must be trained by then.
        log: file to which what is said is added, and why it failed: its last line begins with "failed: " then.
    """

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    teachers: tuple[Any, ...] = ()
    log: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a training: `error` is one line, empty where the run is finished."""

    path: Path
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"{self.path.name} failed: {self.error}"
        run = Run(self.path)
        return f"{self.path.name}: {run.task.told(run.summary)}, {run.summary['seconds']:.0f} s"


def train_all(trainings: Sequence[Training], jobs: int | None = None) -> list[Outcome]:
    """Train what is missing, go on with what was begun, and leave what is finished as it is.

    Args:
        trainings: in any order; none may be the teacher of another.
        jobs: processes, of one thread each, though a single training be left: with another number of threads its
            numbers would be others. None: one for each core, or one where there is a GPU to share. 1 is this process,
            with as many threads as it has.

    Returns:
        An outcome for each, in their order. One that failed does not stop the others.

    Raises:
        KDScopeError: fewer than one job. KeyboardInterrupt: one was asked to stop; the same call goes on.

    >>> where = Path("fleet")
    >>> one = Training(where / "a", {"data": "digits:8", "model": "resnet8", "epochs": 1})
    >>> bad = Training(where / "b", {"data": "digits:8", "model": "resnet9", "epochs": 1})
    >>> [outcome.error.split(";")[0] for outcome in train_all([bad, one], jobs=1)]
    ["unknown model 'resnet9'", '']
    """
    if jobs is not None:
        check_jobs(jobs)
    outcomes = {t.path: Outcome(t.path) for t in trainings if begun(t.path) and Run(t.path).finished}
    missing = [training for training in trainings if training.path not in outcomes]
    jobs = jobs or _default_jobs(trainings)
    if jobs == 1:
        for training in missing:
            _note(outcomes, train_one(training), len(trainings))
    elif missing:
        processes = max(2, min(jobs, len(missing)))  # joblib would take a single one to be this process
        work = joblib.Parallel(n_jobs=processes, return_as="generator_unordered")
        with (
            joblib.parallel_config("loky", inner_max_num_threads=1),
            bar("training", len(missing)) as advance,
        ):
            for outcome in work(joblib.delayed(train_apart)(training) for training in missing):
                _note(outcomes, outcome, len(trainings), quiet=sys.stderr.isatty())
                advance(1)
    for outcome in outcomes.values():
        if outcome.error:
            say(str(outcome))
    return [outcomes[training.path] for training in trainings]


def begun(path: Path) -> bool:
    """Whether there is a run at `path`, finished or not."""
    return (path / "config.yaml").is_file()


def check_jobs(jobs: int) -> None:
    """Raise for fewer than one job."""
    if jobs < 1:
        raise KDScopeError(f"{jobs} jobs can train nothing; give --jobs 1 or more")


def _default_jobs(trainings: Sequence[Training]) -> int:
    """One process for each core that this process may use; one where a GPU is shared by all."""
    import torch

    if torch.cuda.is_available() and any(training.settings.get("device") != "cpu" for training in trainings):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _note(outcomes: dict[Path, Outcome], outcome: Outcome, total: int, quiet: bool = False) -> None:
    outcomes[outcome.path] = outcome
    if not outcome.error and not quiet:  # where there is a bar, lines would tear it; failures are told at the end
        say(f"[{len(outcomes)}/{total}] {outcome}")


def train_one(training: Training) -> Outcome:
    """Train it in this process, or go on with it where it was begun."""
    with _logged(training.log) as log:
        try:
            if begun(training.path):
                api.resume(training.path)
            else:
                api.train(training.path, teachers=training.teachers, **training.settings)
        except Exception as error:
            kind = "" if isinstance(error, KDScopeError) else f"{type(error).__name__}: "
            line = kind + " ".join(str(error).split())
            log.write(f"{traceback.format_exc()}failed: {line}\n")
            return Outcome(training.path, line)
        log.write(f"{Outcome(training.path)}\n")
    return Outcome(training.path)


@contextlib.contextmanager
def _logged(path: Path | None) -> Iterator[TextIO]:
    """Give the end of the file at `path`, to which meanwhile goes all that kdscope says."""
    if path is None:
        yield io.StringIO()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    logger, level = logging.getLogger("kdscope"), logging.getLogger("kdscope").level
    with path.open("a", encoding="utf-8", buffering=1) as log:
        log.write(f"begun {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n")
        handler = logging.StreamHandler(log)
        logger.addHandler(handler)
        logger.setLevel(min(level or logging.INFO, logging.INFO))
        try:
            yield log
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def train_apart(training: Training) -> Outcome:
    """The same in a process that has no terminal: the bars of several at once would overwrite each other."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return train_one(training)
    except KeyboardInterrupt as stop:  # as a plain one, which reaches the first process whole
        raise KeyboardInterrupt(str(stop)) from None
