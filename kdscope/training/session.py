"""A run under way: its batches, networks, optimiser and sums, and how they are saved and put back."""

import logging
import time
from collections.abc import Iterable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from kdscope.data import Batch, Dataset
from kdscope.errors import KDScopeError
from kdscope.run import Run
from kdscope.training.checkpoint import Progress, load_checkpoint, load_progress, save_checkpoint
from kdscope.training.gradients import GRADIENTS, diagnosed
from kdscope.training.learner import Learner
from kdscope.training.optim import learning_rate, make_optimizer, set_learning_rate
from kdscope.training.stages import stages_of
from kdscope.training.tally import Tally


class Session:
    """What the loop works on, restored from the run's last checkpoint where there is one.

    Attributes:
        batches: of the training part. stages: the trainings that the run consists of. progress: how far it is.
        stage: the training that is under way; `enter` goes to another. total: its steps.
    """

    def __init__(self, run: Run, fabric: Fabric, dataset: Dataset, learner: Learner):
        self.run, self.fabric, self.dataset, self.learner = run, fabric, dataset, learner
        self.task, settings = run.task, run.config.data
        ranks = {"rank": fabric.global_rank, "world_size": fabric.world_size, "device": fabric.device}
        ranks |= {"memory_budget": settings.memory_budget, "workers": settings.workers}
        self.batches, self.held_out = self.task.batches(run.config, dataset, learner, ranks)
        self.stages = stages_of(run.config, learner.objective.phases)

        if fabric.device.type == "cuda":
            learner.to(memory_format=torch.channels_last)
        if run.config.compile:
            learner.compile_networks()
        learner.to(fabric.device)
        self.progress = Progress()
        self.checkpoint = run.path / "checkpoints" / "last.safetensors"
        self.task.ready(fabric, dataset, learner, self.batches, self.checkpoint.is_file())
        resumed = load_progress(self.checkpoint) if self.checkpoint.is_file() else None
        self.enter(resumed.stage if resumed else 0)
        if resumed:
            self._restore()
        self._began = time.monotonic() - self.progress.seconds
        self._saved = time.monotonic()

    def enter(self, number: int) -> None:
        """Begin stage `number`: what learns in it, with a fresh optimiser."""
        self.stage = self.stages[number]
        self.progress.stage, self.progress.epoch, self.progress.step = number, 0, 0
        self.total = self.stage.epochs * len(self.batches)
        learner, objective, main = self.learner, self.learner.objective, self.stage.phase is None
        _share_buffers(self.fabric, learner)
        learner.enter(self.stage.phase)
        self.module = self.fabric.setup_module(learner)
        self.parameters = [p for p in learner.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters, self.stage.optim)
        self._stepping = self.fabric.setup_optimizers(self.optimizer)
        self._weights = objective.weights if main else torch.ones(1, device=self.fabric.device)
        names = objective.names if main else [self.stage.name]
        self.tally = Tally(names, self._weights, self.fabric.device, self.task.counted)
        rule = self.run.config.gradients or "sum"
        self._rule = None if rule == "sum" or not main else GRADIENTS[rule]
        self._diagnosis = torch.zeros(3, device=self.fabric.device)  # of the epoch, summed over its steps

    def begin_epoch(self, epoch: int) -> None:
        """Put the terms' weights to what they are in this epoch, after warm-up and annealing."""
        objective = self.learner.objective
        if self.stage.phase is None:
            weights = objective.weights_at(epoch, self.stage.epochs)
            self.tally.weights = weights
            if self.progress.step == 0:
                self._diagnosis.zero_()
            objective.weights.copy_(torch.tensor(weights))

    def step(self, batch: Batch, rate: float) -> None:
        """One step of the optimiser. Nothing is read back from the device."""
        set_learning_rate(self.optimizer, rate)
        # Where some parameters have no gradient, or two, DDP cannot average them on the way: we do it afterwards.
        ours = self._rule is not None or self.stage.phase is not None
        with self.fabric.no_backward_sync(self.module, enabled=ours and self.fabric.world_size > 1):
            try:
                values, right = self.module(*self.learner.arguments(batch))
            except Exception as error:
                if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    reason = str(error).strip().splitlines()[0]
                    raise KDScopeError(f"--compile failed ({reason}); go on without it: --set compile=false") from error
                raise
            if self._rule is None:
                self.fabric.backward(self._weights @ values)
            else:
                self._combine(values)
        if ours and self._rule is None:
            self._averaged(p.grad for p in self.parameters)
        if self.stage.optim.clip_norm is not None:
            norm = self.stage.optim.clip_norm
            self.fabric.clip_gradients(self.module, self._stepping, max_norm=norm, error_if_nonfinite=False)
        self._stepping.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.tally.add(values, right, len(batch.index), self.progress.step)
        self.progress.step += 1

    def _combine(self, values: Tensor) -> None:
        """Give each parameter the gradient that the rule makes of those of the task and of the transfer."""
        task = torch.tensor(self.learner.objective.task, device=values.device)
        both = []
        for part in (task, ~task):
            # Through Fabric: mixed precision takes no other backward pass.
            self.fabric.backward((self._weights * part) @ values, retain_graph=part is task)
            both.append(self._averaged([p.grad for p in self.parameters]))
            self.optimizer.zero_grad(set_to_none=True)
        self._diagnosis += diagnosed(*both, self.progress.epoch).to(self._diagnosis)
        for parameter, gradient in zip(self.parameters, self._rule(*both, self.progress.epoch), strict=True):
            parameter.grad = gradient

    def _averaged(self, gradients: Iterable[Tensor | None]) -> list[Tensor | None]:
        """Each gradient, in place, its mean over all ranks; which are None is the same on all."""
        gradients = list(gradients)
        if self.fabric.world_size > 1:
            present = [g for g in gradients if g is not None]
            flat = self.fabric.all_reduce(torch.cat([g.flatten() for g in present]), reduce_op="mean")
            for gradient, mean in zip(present, flat.split([g.numel() for g in present]), strict=True):
                gradient.copy_(mean.view_as(gradient))
        return gradients

    @property
    def scores(self) -> bool:
        """Whether held-out images are scored at the end of this epoch."""
        epoch, every = self.progress.epoch + 1, self.run.config.eval_every
        return self.stage.phase is None and (epoch == self.stage.epochs or bool(every and epoch % every == 0))

    def measure(self) -> dict[str, Any]:
        """The row of metrics.csv of the epoch that has ended."""
        epoch, fabric = self.progress.epoch + 1, self.fabric
        for network in (self.learner.student, *self.learner.peers):
            _share_buffers(fabric, network)
        row = {"epoch": epoch, "step": epoch * len(self.batches), "lr": self._last_rate(epoch)}
        sums = fabric.all_reduce(self.tally.sums.clone(), reduce_op="sum")
        row |= self.tally.means(sums)
        if self.task.shares:
            row |= self.tally.shares(sums)
        score = self.task.score
        if self.scores:
            for name, split in self.held_out.items():
                scores = self.task.evaluate(fabric, self.learner.student, split)
                row |= {f"{name}_{key}": value for key, value in scores.items()}
                for k, peer in enumerate(self.learner.peers, 1):
                    row[f"{name}_{score}_peer_{k}"] = self.task.evaluate(fabric, peer, split)[score]
        if self._rule is not None:
            means = (self._diagnosis / len(self.batches)).tolist()
            row |= dict(zip(("gradient_ratio", "gradient_cosine", "gradient_capped"), means, strict=True))
        return row | {"seconds": round(self.seconds, 3)}

    def measure_phase(self) -> dict[str, Any]:
        """The row of phases.csv of the epoch of a phase that has ended."""
        means = self.tally.means(self.fabric.all_reduce(self.tally.sums.clone(), reduce_op="sum"))
        row = {"phase": self.stage.name, "epoch": self.progress.epoch + 1, "loss": means["loss"]}
        return row | {"lr": self._last_rate(row["epoch"]), "seconds": round(self.seconds, 3)}

    def _last_rate(self, epochs: int) -> float:
        """The learning rate of the last step of as many epochs."""
        return learning_rate(epochs * len(self.batches) - 1, self.total, self.stage.optim)

    @property
    def seconds(self) -> float:
        """Time that the run has taken, over all its sittings."""
        return time.monotonic() - self._began

    @property
    def unsaved_seconds(self) -> float:
        """Time since the last checkpoint of this sitting."""
        return time.monotonic() - self._saved

    def save(self) -> None:
        """Write a checkpoint, unless a term became NaN since the last one: then stop the run and keep that."""
        kept = "the last good checkpoint is kept" if self.checkpoint.is_file() else "no checkpoint was saved before"
        self.tally.check(self.progress.epoch + (self.progress.step > 0), f"{kept} in {self.checkpoint.parent}")
        self.progress.seconds = self.seconds
        rng = self.fabric.all_gather(_get_rng()).reshape(self.fabric.world_size, -1)
        sums = self.fabric.all_reduce(self.tally.sums.clone(), reduce_op="sum")
        sums = torch.cat([sums, self._diagnosis.to(sums)])
        if self.fabric.is_global_zero:
            scaler = self.fabric.strategy.precision.state_dict()
            save_checkpoint(self.checkpoint, self.learner, self.optimizer, self.progress, sums, rng, scaler)
        self.fabric.barrier()
        self._saved = time.monotonic()

    def _restore(self) -> None:
        self.progress, sums, rng, scaler = load_checkpoint(self.checkpoint, self.learner, self.optimizer)
        if self.fabric.is_global_zero:  # the sums of all ranks were saved as one
            self.tally.sums.copy_(sums[:-3])
        self._diagnosis.copy_(sums[-3:])
        self.fabric.strategy.precision.load_state_dict(scaler)
        where = f"{self.stage.name}, " if self.stage.name else ""
        at = f"{where}epoch {self.progress.epoch + 1}, step {self.progress.step} of {len(self.batches)}"
        logging.getLogger("kdscope").info(f"going on with {self.run.name} from {at}")
        _set_rng(rng[min(self.fabric.global_rank, len(rng) - 1)])


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Dropout and the like start each epoch from a state that (seed, epoch, rank) alone decides."""
    torch.manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + rank) % 2**63)


def _share_buffers(fabric: Fabric, module: nn.Module) -> None:
    """Give all ranks the batch statistics of the first, which are those that are saved."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _get_rng() -> Tensor:
    """States of this rank's generators as one uint8 tensor: the CPU's, then the current GPU's if there is one."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])
    return torch.cat(states)


def _set_rng(state: Tensor) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size].clone())  # a clone: torch reads from where a view's memory begins
    if torch.cuda.is_available() and len(state) > size:
        torch.cuda.set_rng_state(state[size:].clone())
