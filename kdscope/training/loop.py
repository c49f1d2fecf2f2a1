"""The training loop, in the order in which things happen: data, networks, run directory, loop, log, save."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from kdscope import models
from kdscope.config import Config
from kdscope.data import Dataset, augmentation
from kdscope.files import write_json
from kdscope.methods import Objective, resolve
from kdscope.run import Run, load_data, load_teacher, write_metrics
from kdscope.training.checkpoint import Progress
from kdscope.training.learner import Learner
from kdscope.training.log import TrainingLog
from kdscope.training.optim import learning_rate
from kdscope.training.probe import write_probe
from kdscope.training.ranks import any_rank, check_shares, make_fabric
from kdscope.training.session import Session, seed_epoch
from kdscope.training.stop import Interrupted, StopSignal

SAVE_SECONDS = 120.0  # between checkpoints inside a long epoch


def start(config: Config, out: str | Path) -> Run:
    """Train `config` in a new run directory `out`.

    Raises:
        KDScopeError: bad settings, networks that do not fit the data or each other, a directory that is taken, a full
            disk, or a term that became NaN. Nothing is written before everything has been checked.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
    """
    check_shares(config.data.batch_size, config.devices)
    fabric = make_fabric(config.device, config.devices, config.precision)
    if fabric.is_global_zero:
        Run.check_free(out)  # before the data are read, which can take long
    config, dataset, learner = prepare(config)
    if fabric.is_global_zero:
        Run.create(out, config)
    fabric.barrier()
    return fit(Run(out), fabric, dataset, learner)


def resume(path: str | Path) -> Run:
    """Go on with a run that was stopped, from its last checkpoint; a finished run is returned as it is."""
    run = Run(path)
    if run.finished:
        return run
    check_shares(run.config.data.batch_size, run.config.devices)
    fabric = make_fabric(run.config.device, run.config.devices, run.config.precision)
    begun = (run.path / "checkpoints" / "last.safetensors").is_file()
    _, dataset, learner = prepare(run.config, begun)
    return fit(run, fabric, dataset, learner)


def prepare(config: Config, begun: bool = False) -> tuple[Config, Dataset, Learner]:
    """Load the data and the teachers, build the student and the objective, and check that they fit.

    A run that has `begun` has its student's weights in its checkpoint; those that it started from are not asked for.
    Returns the config completed: every term with all its settings, every teacher with the hash of its weights.
    """
    terms = resolve(config.method, config.terms)
    augmentation(config.data.augment)
    dataset = load_data(config.data)
    teachers = [load_teacher(teacher, dataset) for teacher in config.teachers]
    if teachers:
        hashes = [models.weights_hash(teacher) for teacher in teachers]
        settings = [t.model_copy(update={"weights_hash": h}) for t, h in zip(config.teachers, hashes, strict=True)]
        config = config.model_copy(update={"teachers": tuple(settings)})
    config = config.model_copy(update={"terms": terms})

    torch.manual_seed(config.seed)
    network = config.model
    student = models.build(
        network.name,
        dataset.num_classes,
        image_size=dataset.image_size,
        pretrained=network.pretrained and not begun,
        **network.options,
    )
    if network.checkpoint is not None and not begun:
        models.load_weights(student, network.checkpoint)
    weights = [teacher.weight for teacher in config.teachers]
    learner = Learner(student, Objective(terms, student, teachers, config.ensemble, weights), teachers)
    learner.build(torch.zeros(2, 3, dataset.image_size, dataset.image_size))
    return config, dataset, learner


def fit(run: Run, fabric: Fabric, dataset: Dataset, learner: Learner) -> Run:
    """Train from the run's last checkpoint, or from the start when there is none."""
    with run.locked() if fabric.is_global_zero else contextlib.nullcontext():
        session = Session(run, fabric, dataset, learner)
        _train(session)
        if fabric.is_global_zero:
            finish(run, learner, session.progress)
        fabric.barrier()
    return run


def _train(session: Session) -> None:
    """The loop itself."""
    run, fabric, config = session.run, session.fabric, session.run.config
    batches, progress = session.batches, session.progress
    tensorboard = run.path / "tensorboard" if config.tensorboard else None
    log = TrainingLog(run.name, session.total, show=fabric.is_global_zero, tensorboard=tensorboard)
    with StopSignal() as stop, log, session.learner.capturing():
        for epoch in range(progress.epoch, config.epochs):
            if progress.step == 0:
                seed_epoch(config.seed, epoch, fabric.global_rank)
                write_probe(run, fabric, session.dataset, session.learner, epoch)
            session.learner.train()
            for batch in batches.epoch(epoch, start=progress.step):
                done = epoch * len(batches) + progress.step
                session.step(batch, learning_rate(done, session.total, config.optim))
                log.step(done + 1, session.tally)

                stopping = stop.agreed(fabric, progress.step)
                if stopping or _due(session):
                    session.save()
                if stopping:
                    raise Interrupted(run.path, epoch + 1, progress.step)

            row = session.measure()
            progress.epoch, progress.step = epoch + 1, 0
            progress.rows.append(row)
            keep_best(session, row)
            session.tally.sums.zero_()
            session.save()
            if fabric.is_global_zero:
                write_metrics(run.path / "metrics.csv", progress.rows)
            log.epoch((epoch + 1) * len(batches), row)
        write_probe(run, fabric, session.dataset, session.learner, config.epochs)


def _due(session: Session) -> bool:
    """Whether to save inside an epoch: every so many steps if the config says so, and every two minutes in any case."""
    every, step = session.run.config.checkpoint_every, session.progress.step
    if every and step % every == 0:
        return True
    return any_rank(session.fabric, step, session.unsaved_seconds > SAVE_SECONDS)


def keep_best(session: Session, row: dict[str, Any]) -> None:
    """Keep the weights of the best epoch so far, where a held-out part of train can tell which that is."""
    progress = session.progress
    best = progress.best["accuracy"] if progress.best else -1.0
    if row.get("validation_accuracy", -2.0) > best:
        progress.best = {"epoch": row["epoch"], "accuracy": row["validation_accuracy"]}
        if session.fabric.is_global_zero:
            models.save_weights(session.checkpoint.with_name("best.safetensors"), session.learner.student)


def finish(run: Run, learner: Learner, progress: Progress) -> None:
    """Write the weights and the summary. The headline epoch is the last, or the best on validation."""
    source = run.path / "checkpoints" / "best.safetensors"
    chosen = progress.best["epoch"] if progress.best else len(progress.rows)
    if progress.best:
        models.load_weights(learner.student, source)
    models.save_weights(run.weights, learner.student, {"architecture": run.config.model.name, "epoch": str(chosen)})
    write_metrics(run.path / "metrics.csv", progress.rows)
    row = progress.rows[chosen - 1]
    parameters = sum(p.numel() for p in learner.student.parameters())
    summary = {
        "test_accuracy": row["test_accuracy"],
        "test_loss": row["test_loss"],
        "epoch": chosen,
        "rule": "best on validation" if progress.best else "last epoch",
        "train_accuracy": row["train_accuracy"],
        "parameters": parameters,
        "seconds": round(progress.seconds, 3),
        "weights_hash": models.weights_hash(learner.student),
    }
    write_json(run.path / "summary.json", summary)
