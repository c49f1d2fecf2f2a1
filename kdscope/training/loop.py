"""The training loop, in the order in which things happen: data, networks, run directory, loop, log, save."""

import time
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from kdscope import models
from kdscope.config import Config
from kdscope.data import Batches, Dataset, augmentation
from kdscope.files import write_json
from kdscope.methods import Objective, resolve
from kdscope.run import Run, load_data, load_teacher, write_metrics
from kdscope.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from kdscope.training.evaluate import count_right
from kdscope.training.learner import Learner
from kdscope.training.log import TrainingLog
from kdscope.training.optim import learning_rate, make_optimizer, set_learning_rate
from kdscope.training.probe import write_probe
from kdscope.training.ranks import check_shares, make_fabric
from kdscope.training.stop import Interrupted, StopSignal
from kdscope.training.tally import Tally


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
    _, dataset, learner = prepare(run.config)
    return fit(run, fabric, dataset, learner)


def prepare(config: Config) -> tuple[Config, Dataset, Learner]:
    """Load the data and the teachers, build the student and the objective, and check that they fit.

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
        pretrained=network.pretrained,
        **network.options,
    )
    if network.checkpoint is not None:
        models.load_weights(student, network.checkpoint)
    weights = [teacher.weight for teacher in config.teachers]
    learner = Learner(student, Objective(terms, student, teachers, config.ensemble, weights), teachers)
    learner.build(torch.zeros(2, 3, dataset.image_size, dataset.image_size))
    return config, dataset, learner


def fit(run: Run, fabric: Fabric, dataset: Dataset, learner: Learner) -> Run:
    """Train from the run's last checkpoint, or from the start when there is none."""
    if not fabric.is_global_zero:
        return _fit(run, fabric, dataset, learner)
    with run.locked():
        return _fit(run, fabric, dataset, learner)


def _fit(run: Run, fabric: Fabric, dataset: Dataset, learner: Learner) -> Run:
    config, first = run.config, fabric.is_global_zero
    checkpoints = run.path / "checkpoints"
    ranks = {"rank": fabric.global_rank, "world_size": fabric.world_size, "device": fabric.device}
    ranks |= {"memory_budget": config.data.memory_budget, "workers": config.data.workers}
    ranks |= {"channels_last": fabric.device.type == "cuda"}
    batches = Batches(
        dataset.train, dataset, augment=config.data.augment, batch_size=config.data.batch_size, shuffle=True,
        seed=config.seed, **ranks,
    )  # fmt: skip
    held_out = {"test": dataset.test} | ({"validation": dataset.validation} if dataset.validation is not None else {})
    held_out = {name: Batches(split, dataset, batch_size=512, **ranks) for name, split in held_out.items()}
    total = config.epochs * len(batches)

    if fabric.device.type == "cuda":
        learner.to(memory_format=torch.channels_last)
    module = fabric.setup_module(learner)
    optimizer = make_optimizer(learner.parameters(), config.optim)
    wrapped = fabric.setup_optimizers(optimizer)
    if config.compile:
        learner.compile()
    tally = Tally(learner.objective.names, learner.objective.weights, fabric.device)

    progress = Progress()
    if (checkpoints / "last.safetensors").is_file():
        progress, sums, rng, scaler = load_checkpoint(checkpoints / "last.safetensors", learner, optimizer)
        if first:  # the sums of all ranks were saved as one
            tally.sums.copy_(sums)
        fabric.strategy.precision.load_state_dict(scaler)
        _set_rng(rng[min(fabric.global_rank, len(rng) - 1)])
    began = time.monotonic() - progress.seconds

    def save() -> None:
        saved = (checkpoints / "last.safetensors").is_file()
        kept = "the last good checkpoint is kept" if saved else "no checkpoint was saved before"
        tally.check(progress.epoch + (progress.step > 0), f"{kept} in {checkpoints}")
        progress.seconds = time.monotonic() - began
        rng = fabric.all_gather(_get_rng()).reshape(fabric.world_size, -1)
        sums = fabric.all_reduce(tally.sums.clone(), reduce_op="sum")
        if first:
            scaler = fabric.strategy.precision.state_dict()
            save_checkpoint(checkpoints / "last.safetensors", learner, optimizer, progress, sums, rng, scaler)
        fabric.barrier()

    log = TrainingLog(run.name, total, show=first, tensorboard=run.path / "tensorboard" if config.tensorboard else None)
    with StopSignal() as stop, log, learner.capturing():
        for epoch in range(progress.epoch, config.epochs):
            if progress.step == 0:
                _seed(config.seed, epoch, fabric.global_rank)
                write_probe(run, fabric, dataset, learner.student, epoch)
            learner.train()
            for step, batch in enumerate(batches.epoch(epoch, start=progress.step), start=progress.step):
                set_learning_rate(optimizer, learning_rate(epoch * len(batches) + step, total, config.optim))
                values, right = module(batch.image, batch.label, batch.index)
                fabric.backward(learner.objective.weights @ values)
                wrapped.step()
                optimizer.zero_grad(set_to_none=True)
                tally.add(values, right, len(batch.label), step)
                log.step(epoch * len(batches) + step + 1, tally)

                progress.step = step + 1
                due = config.checkpoint_every and progress.step % config.checkpoint_every == 0
                stopping = stop.agreed(fabric, progress.step)
                if stopping or due:
                    save()
                if stopping:
                    raise Interrupted(run.path, epoch + 1, progress.step)

            _share_buffers(fabric, learner.student)
            row = {"epoch": epoch + 1, "step": (epoch + 1) * len(batches), "lr": optimizer.param_groups[0]["lr"]}
            row |= tally.means(fabric.all_reduce(tally.sums.clone(), reduce_op="sum"))
            for name, split in held_out.items():
                right, loss, images = fabric.all_reduce(count_right(learner.student, split), reduce_op="sum").tolist()
                row |= {f"{name}_accuracy": right / images, f"{name}_loss": loss / images}
            row["seconds"] = round(time.monotonic() - began, 3)

            progress.epoch, progress.step = epoch + 1, 0
            progress.rows.append(row)
            if dataset.validation is not None and row["validation_accuracy"] > (progress.best or {}).get(
                "accuracy", -1
            ):
                progress.best = {"epoch": epoch + 1, "accuracy": row["validation_accuracy"]}
                if first:
                    models.save_weights(checkpoints / "best.safetensors", learner.student)
            tally.sums.zero_()
            save()
            if first:
                write_metrics(run.path / "metrics.csv", progress.rows)
            log.epoch((epoch + 1) * len(batches), row)
        write_probe(run, fabric, dataset, learner.student, config.epochs)

    if first:
        finish(run, learner, progress)
    fabric.barrier()
    return run


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


def _share_buffers(fabric: Fabric, student: nn.Module) -> None:
    """Give all ranks the batch statistics of the first, which are those that are saved."""
    if fabric.world_size > 1:
        for buffer in student.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _seed(seed: int, epoch: int, rank: int) -> None:
    """Dropout and the like start each epoch from a state that (seed, epoch, rank) alone decides."""
    torch.manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + rank) % 2**63)


def _get_rng() -> Tensor:
    """States of this rank's generators as one uint8 tensor: the CPU's, then the current GPU's if there is one."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])
    return torch.cat(states)


def _set_rng(state: Tensor) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size].contiguous())
    if torch.cuda.is_available() and len(state) > size:
        torch.cuda.set_rng_state(state[size:].contiguous())
