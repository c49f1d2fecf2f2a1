"""Everything that a stopped run needs to go on bit for bit, in one safetensors file; nothing is ever pickled.

Tensors are named student.*, peers.*, objective.*, optimizer.INDEX.*, sums and rng; the rest is JSON in the metadata.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from kdscope.errors import KDScopeError
from kdscope.files import replacing
from kdscope.training.learner import Learner


@dataclass
class Progress:
    """How far a run is: `step` batches into `epoch` of `stage`, what it has measured, and the best epoch so far.

    `rows` are those of the main training, `phase_rows` those of the phases before it; `best` is on validation.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    phase_rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    seconds: float = 0.0


def save_checkpoint(
    path: Path,
    learner: Learner,
    optimizer: Optimizer,
    progress: Progress,
    sums: Tensor,
    rng: Tensor,
    precision: dict[str, Any],
) -> None:
    """Write the state of a run, whole or not at all.

    Args:
        sums: running sums of the epoch that is under way.
        rng: generator states of all ranks, uint8 [ranks, bytes].
        precision: state of a gradient scaler, empty without one.
    """
    tensors = {f"{name}.{key}": value for name, part in _modules(learner) for key, value in part.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
    tensors |= {"sums": sums, "rng": rng}
    # Tied weights share memory, which safetensors refuses; a clone of each is what load_state_dict expects anyway.
    plain = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    with replacing(path) as draft:
        save_file(plain, draft, {"progress": json.dumps(vars(progress)), "precision": json.dumps(precision)})


def load_checkpoint(
    path: Path, learner: Learner, optimizer: Optimizer
) -> tuple[Progress, Tensor, Tensor, dict[str, Any]]:
    """Put the state of a run back; returns what `save_checkpoint` was given beside the modules."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
            metadata = file.metadata() or {}
        progress = Progress(**json.loads(metadata["progress"]))
        for name, module in _modules(learner):
            module.load_state_dict(_below(tensors, f"{name}."))
        _load_optimizer(optimizer, _below(tensors, "optimizer."))
        return progress, tensors["sums"], tensors["rng"], json.loads(metadata["precision"])
    except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error


def load_progress(path: Path) -> Progress:
    """How far the run of a checkpoint is: its stage must be known before its optimiser can be put back."""
    try:
        with safe_open(path, framework="pt") as file:
            return Progress(**json.loads((file.metadata() or {})["progress"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error


def _modules(learner: Learner) -> list[tuple[str, nn.Module]]:
    return [("student", learner.student), ("peers", learner.peers), ("objective", learner.objective)]


def _unreadable(path: Path, error: Exception) -> KDScopeError:
    reason = str(error).splitlines()[0]
    return KDScopeError(f"checkpoint {path} cannot be read, or belongs to another run: {reason}")


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
