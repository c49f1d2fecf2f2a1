"""Everything that a stopped run needs to go on bit for bit, in one safetensors file; nothing is ever pickled.

Tensors are named student.*, objective.*, optimizer.INDEX.*, sums and rng.*; the rest is JSON in the file's metadata.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from kdscope.errors import KDScopeError
from kdscope.files import replacing
from kdscope.training.learner import Learner


@dataclass
class Progress:
    """How far a run is: `step` batches into `epoch`, what it has measured, and the best epoch on validation so far."""

    epoch: int = 0
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
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
    tensors = {f"student.{key}": value for key, value in learner.student.state_dict().items()}
    tensors |= {f"objective.{key}": value for key, value in learner.objective.state_dict().items()}
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
        for name, module in (("student", learner.student), ("objective", learner.objective)):
            module.load_state_dict(_below(tensors, f"{name}."))
        _load_optimizer(optimizer, _below(tensors, "optimizer."))
        return progress, tensors["sums"], tensors["rng"], json.loads(metadata["precision"])
    except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise KDScopeError(f"checkpoint {path} cannot be read, or belongs to another run: {reason}") from error


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
