"""The training loop, in the order in which things happen: data, networks, run directory, loop, log, save."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from kdscope import models
from kdscope.config import Config
from kdscope.data import Dataset
from kdscope.files import write_json
from kdscope.links import links
from kdscope.run import Run, write_metrics
from kdscope.training.chain import complete
from kdscope.training.checkpoint import Progress
from kdscope.training.learner import Learner
from kdscope.training.log import TrainingLog
from kdscope.training.optim import learning_rate
from kdscope.training.prepare import build_network, prepare
from kdscope.training.ranks import any_rank, check_shares, make_fabric
from kdscope.training.session import Session, seed_epoch
from kdscope.training.stop import Interrupted, StopSignal

SAVE_SECONDS = 120.0  # between checkpoints inside a long epoch


def start(config: Config, out: str | Path) -> Run:
    """Train `config` in a new run directory `out`, after the trainings of its chain if it has one.

    Raises:
        KDScopeError: bad settings, networks that do not fit the data or each other, a directory that is taken, a full
            disk, or a term that became NaN. Nothing is written before everything has been checked.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
    """
    check_shares(config.data.batch_size, config.devices)
    fabric = make_fabric(config.device, config.devices, config.precision)
    if fabric.is_global_zero:
        Run.check_free(out)  # before the data are read, which can take long
    return _begin(checked(config, out), Path(out), fabric)


def checked(
    config: Config, out: str | Path, teachers: Sequence[nn.Module] | None = None
) -> tuple[Config, Dataset, Learner]:
    """`config` as the run at `out` will have it, written out; the data and the networks, which fit. Nothing is written.

    Args:
        teachers: networks that stand in for teachers that are not trained yet.
    """
    config = complete(config)
    before = links(config, Path(out))
    if before:  # the last link is not trained yet: an untrained one shows whether everything fits
        _, dataset, _ = prepare(before[0][1], teachers=teachers)
        teachers = [build_network(before[-1][1].model, dataset, begun=True)]
    return prepare(config, teachers=teachers)


def resume(path: str | Path) -> Run:
    """Go on with a run that was stopped, from its last checkpoint; a finished run is returned as it is."""
    run = Run(path)
    if run.finished:
        return run
    check_shares(run.config.data.batch_size, run.config.devices)
    fabric = make_fabric(run.config.device, run.config.devices, run.config.precision)
    return fit(run, fabric)


def _begin(prepared: tuple[Config, Dataset, Learner], out: Path, fabric: Fabric) -> Run:
    config, dataset, learner = prepared
    if fabric.is_global_zero:
        Run.create(out, config)
        for name, content in getattr(learner, "records", {}).items():
            write_json(out / name, content)
    fabric.barrier()
    return fit(Run(out), fabric, dataset, learner)


def fit(run: Run, fabric: Fabric, dataset: Dataset | None = None, learner: Learner | None = None) -> Run:
    """Train from the run's last checkpoint, or from the start when there is none."""
    with run.locked() if fabric.is_global_zero else contextlib.nullcontext():
        before = links(run.recipe, run.path)
        for place, config in before:
            _train_link(run, place, config, fabric)
        if learner is None or before:
            run = Run(run.path)  # which now knows its teacher's weights
            begun = (run.path / "checkpoints" / "last.safetensors").is_file()
            _, dataset, learner = prepare(run.config, begun)
        session = Session(run, fabric, dataset, learner)
        _train(session)
        if fabric.is_global_zero:
            finish(run, learner, session.progress)
        fabric.barrier()
    return run


def _train_link(run: Run, place: Path, config: Config, fabric: Fabric) -> None:
    """One of the trainings before the last, from where it was left."""
    begun = (place / "config.yaml").is_file()
    fabric.barrier()  # all ranks have looked before the first one writes
    try:
        if not begun:
            _begin(prepare(config), place, fabric)
        elif not Run(place).finished:
            fit(Run(place), fabric)
    except Interrupted as stop:
        raise stop.inside(run.path) from None


def _train(session: Session) -> None:
    """The loop itself: the stages, each its epochs, each its steps."""
    run, fabric, config, progress = session.run, session.fabric, session.run.config, session.progress
    tensorboard = run.path / "tensorboard" if config.tensorboard else None
    steps = sum(stage.epochs for stage in session.stages) * len(session.batches)
    log = TrainingLog(run.name, steps, fabric.is_global_zero, session.task.score, tensorboard)
    with StopSignal() as stop, log:
        for number in range(progress.stage, len(session.stages)):
            if number != progress.stage:
                session.enter(number)
                session.save()
            before = sum(stage.epochs for stage in session.stages[:number]) * len(session.batches)
            with session.learner.capturing():
                for epoch in range(progress.epoch, session.stage.epochs):
                    _train_epoch(session, epoch, before, stop, log)
        session.task.probe(run, fabric, session.dataset, session.learner, config.epochs)


def _train_epoch(session: Session, epoch: int, before: int, stop: StopSignal, log: TrainingLog) -> None:
    """One epoch from where it was left; `before` is the number of steps of the stages that went before."""
    run, fabric, stage = session.run, session.fabric, session.stage
    batches, progress = session.batches, session.progress
    if progress.step == 0:
        seed_epoch(run.config.seed, stage.first + epoch, fabric.global_rank)
        if stage.phase is None:
            session.task.probe(run, fabric, session.dataset, session.learner, epoch)
    session.learner.train()
    session.begin_epoch(epoch)
    for batch in batches.epoch(stage.first + epoch, start=progress.step):
        done = epoch * len(batches) + progress.step
        session.step(batch, learning_rate(done, session.total, stage.optim))
        log.step(before + done + 1, session.tally)

        stopping = stop.agreed(fabric, before + done + 1)  # of all steps: an epoch may be shorter than they wait to ask
        if stopping or _due(session):
            session.save()
        if stopping:
            where = f"{stage.name}, epoch {epoch + 1}" if stage.name else f"epoch {epoch + 1}"
            raise Interrupted(run.path, f"{where} after {progress.step} steps")

    if session.scores:
        log.scoring()
    row = session.measure() if stage.phase is None else session.measure_phase()
    progress.epoch, progress.step = epoch + 1, 0
    if stage.phase is None:
        progress.rows.append(row)
        keep_best(session, row)
    else:
        progress.phase_rows.append(row)
    session.tally.sums.zero_()
    session.save()
    if fabric.is_global_zero:
        for rows, name in ((progress.rows, "metrics.csv"), (progress.phase_rows, "phases.csv")):
            if rows:
                write_metrics(run.path / name, rows)
    if stage.phase is None:
        log.epoch(before + (epoch + 1) * len(batches), row)


def _due(session: Session) -> bool:
    """Whether to save inside an epoch: every so many steps if the config says so, and every two minutes in any case."""
    every, step = session.run.config.checkpoint_every, session.progress.step
    if every and step % every == 0:
        return True
    return any_rank(session.fabric, step, session.unsaved_seconds > SAVE_SECONDS)


def keep_best(session: Session, row: dict[str, Any]) -> None:
    """Keep the weights of the best epoch so far, where a held-out part of train can tell which that is."""
    progress, score = session.progress, row.get(f"validation_{session.task.score}")
    if score is None or math.isnan(score):  # which is no score, and above which none would be
        return
    if progress.best is None or score > progress.best["score"]:
        progress.best = {"epoch": row["epoch"], "score": score}
        if session.fabric.is_global_zero:
            models.save_weights(session.checkpoint.with_name("best.safetensors"), session.learner.student)
            session.task.keep_best(session.learner, session.checkpoint.parent)


def finish(run: Run, learner: Learner, progress: Progress) -> None:
    """Write the weights and the summary. The headline epoch is the last, or the best on validation."""
    source = run.path / "checkpoints" / "best.safetensors"
    chosen = progress.best["epoch"] if progress.best else len(progress.rows)
    if progress.best:
        models.load_weights(learner.student, source)
    models.save_weights(run.weights, learner.student, {"architecture": run.config.model.name, "epoch": str(chosen)})
    write_metrics(run.path / "metrics.csv", progress.rows)
    row = progress.rows[chosen - 1]
    for k, peer in enumerate(learner.peers, 1):
        models.save_weights(run.weights.with_name(f"peer-{k}.safetensors"), peer)
    parameters = sum(p.numel() for p in learner.student.parameters())
    summary = {
        **{key: row[key] for key in run.task.headline},
        "epoch": chosen,
        "rule": "best on validation" if progress.best else "last epoch",
        **{key: row[key] for key in run.task.closing},
        "parameters": parameters,
        "seconds": round(progress.seconds, 3),
        "weights_hash": models.weights_hash(learner.student),
    }
    if learner.peers:
        score = f"test_{run.task.score}"
        summary["peers"] = [
            {"model": peer.name, score: progress.rows[-1][f"{score}_peer_{k}"]}
            for k, peer in enumerate(run.config.peers, 1)
        ]
    write_json(run.path / "summary.json", summary)
