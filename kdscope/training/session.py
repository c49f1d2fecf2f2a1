"""A run under way: its batches, networks, optimiser and sums, and how they are saved and put back."""

import logging
import time
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from kdscope.data import Batch, Batches, Dataset
from kdscope.errors import KDScopeError
from kdscope.run import Run
from kdscope.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from kdscope.training.evaluate import count_right
from kdscope.training.learner import Learner
from kdscope.training.optim import make_optimizer, set_learning_rate
from kdscope.training.tally import Tally


class Session:
    """What the loop works on, restored from the run's last checkpoint where there is one.

    Attributes:
        batches: of the training part. total: steps of the whole run. progress: how far it is.
    """

    def __init__(self, run: Run, fabric: Fabric, dataset: Dataset, learner: Learner):
        self.run, self.fabric, self.dataset, self.learner = run, fabric, dataset, learner
        settings = run.config.data
        ranks = {"rank": fabric.global_rank, "world_size": fabric.world_size, "device": fabric.device}
        ranks |= {"memory_budget": settings.memory_budget, "workers": settings.workers}
        ranks |= {"channels_last": fabric.device.type == "cuda"}
        self.batches = Batches(
            dataset.train, dataset, augment=settings.augment, batch_size=settings.batch_size, shuffle=True,
            seed=run.config.seed, **ranks,
        )  # fmt: skip
        splits = [dataset.test] if dataset.validation is None else [dataset.test, dataset.validation]
        self.held_out = {split.name: Batches(split, dataset, batch_size=512, **ranks) for split in splits}
        self.total = run.config.epochs * len(self.batches)

        if fabric.device.type == "cuda":
            learner.to(memory_format=torch.channels_last)
        self.module = fabric.setup_module(learner)
        self.optimizer = make_optimizer(learner.parameters(), run.config.optim)
        self._stepping = fabric.setup_optimizers(self.optimizer)
        if run.config.compile:
            learner.compile_networks()
        self.tally = Tally(learner.objective.names, learner.objective.weights, fabric.device)
        self.progress = Progress()
        self.checkpoint = run.path / "checkpoints" / "last.safetensors"
        if self.checkpoint.is_file():
            self._restore()
        self._began = time.monotonic() - self.progress.seconds
        self._saved = time.monotonic()

    def step(self, batch: Batch, rate: float) -> None:
        """One step of the optimiser. Nothing is read back from the device."""
        set_learning_rate(self.optimizer, rate)
        try:
            values, right = self.module(batch.image, batch.label, batch.index)
        except Exception as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                reason = str(error).strip().splitlines()[0]
                raise KDScopeError(f"--compile failed ({reason}); go on without it: --set compile=false") from error
            raise
        self.fabric.backward(self.learner.objective.weights @ values)
        self._stepping.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.tally.add(values, right, len(batch.label), self.progress.step)
        self.progress.step += 1

    def measure(self) -> dict[str, Any]:
        """The row of metrics.csv of the epoch that has ended."""
        epoch, fabric = self.progress.epoch + 1, self.fabric
        _share_buffers(fabric, self.learner.student)
        row = {"epoch": epoch, "step": epoch * len(self.batches), "lr": self.optimizer.param_groups[0]["lr"]}
        row |= self.tally.means(fabric.all_reduce(self.tally.sums.clone(), reduce_op="sum"))
        for name, split in self.held_out.items():
            right, loss, images = fabric.all_reduce(count_right(self.learner.student, split), reduce_op="sum").tolist()
            row |= {f"{name}_accuracy": right / images, f"{name}_loss": loss / images}
        return row | {"seconds": round(self.seconds, 3)}

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
        if self.fabric.is_global_zero:
            scaler = self.fabric.strategy.precision.state_dict()
            save_checkpoint(self.checkpoint, self.learner, self.optimizer, self.progress, sums, rng, scaler)
        self.fabric.barrier()
        self._saved = time.monotonic()

    def _restore(self) -> None:
        self.progress, sums, rng, scaler = load_checkpoint(self.checkpoint, self.learner, self.optimizer)
        if self.fabric.is_global_zero:  # the sums of all ranks were saved as one
            self.tally.sums.copy_(sums)
        self.fabric.strategy.precision.load_state_dict(scaler)
        at = f"epoch {self.progress.epoch + 1}, step {self.progress.step} of {len(self.batches)}"
        logging.getLogger("kdscope").info(f"going on with {self.run.name} from {at}")
        _set_rng(rng[min(self.fabric.global_rank, len(rng) - 1)])


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Dropout and the like start each epoch from a state that (seed, epoch, rank) alone decides."""
    torch.manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + rank) % 2**63)


def _share_buffers(fabric: Fabric, student: nn.Module) -> None:
    """Give all ranks the batch statistics of the first, which are those that are saved."""
    if fabric.world_size > 1:
        for buffer in student.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _get_rng() -> Tensor:
    """States of this rank's generators as one uint8 tensor: the CPU's, then the current GPU's if there is one."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])
    return torch.cat(states)


def _set_rng(state: Tensor) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size].contiguous())
    if torch.cuda.is_available() and len(state) > size:
        torch.cuda.set_rng_state(state[size:].contiguous())
