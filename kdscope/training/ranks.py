"""Devices, precision and process group, by Lightning Fabric: a laptop, GPUs, torchrun and SLURM without other code."""

import inspect
import logging
import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch.nn.parallel import DistributedDataParallel

from kdscope.errors import KDScopeError
from kdscope.training.allocator import keep_freed_memory

# Newer releases of torch have another name for whether buffers are shared before every forward pass.
_SYNC = "forward_sync_buffers"
if _SYNC not in inspect.signature(DistributedDataParallel).parameters:
    _SYNC = "broadcast_buffers"
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def make_fabric(device: str = "auto", devices: int = 1, precision: str = "auto") -> Fabric:
    """The launched Fabric of this process.

    Args:
        device: "auto", "cpu" or "cuda".
        devices: processes on this node; torchrun's and SLURM's own number is taken where they started us.
        precision: "auto" (bf16 on a GPU that has it, else 32), "32", "bf16" or "16".

    Raises:
        KDScopeError: a device or a precision that is not to be had here.
    """
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise KDScopeError("--device cuda: no CUDA device is available here; use --device cpu or auto")
    devices, nodes = _started_by(devices)
    if cuda and devices > torch.cuda.device_count():
        raise KDScopeError(f"--devices {devices}: {torch.cuda.device_count()} CUDA devices are available here")
    if not cuda:
        keep_freed_memory()
    if precision == "auto":
        precision = "bf16" if cuda and torch.cuda.is_bf16_supported() else "32"
    if precision == "16" and not cuda:
        raise KDScopeError("--precision 16 needs a CUDA device; use 32 or bf16 on a CPU")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every process group
    # Buffers are shared where they are needed (Session), not before every step: a memory bank can be large.
    strategy = DDPStrategy(**{_SYNC: False}) if devices * nodes > 1 else "auto"
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=devices,
        num_nodes=nodes,
        strategy=strategy,
        precision=PRECISIONS[precision],
    )
    fabric.launch()
    return fabric


def check_shares(batch_size: int, devices: int) -> None:
    """Raise, before any process is started, if the processes cannot have equal shares of a batch."""
    count = processes(devices)
    if batch_size % count:
        near = max(1, round(batch_size / count)) * count
        raise KDScopeError(
            f"a batch of {batch_size} images cannot be shared equally by {count} devices; try --batch-size {near}"
        )


def processes(devices: int) -> int:
    """How many processes train together, over all nodes."""
    local, nodes = _started_by(devices)
    return local * nodes


def _started_by(devices: int) -> tuple[int, int]:
    """(processes on this node, nodes), as torchrun or SLURM tell them, or `devices` on one node."""
    env = os.environ
    if "LOCAL_WORLD_SIZE" in env and "WORLD_SIZE" in env:
        local = int(env["LOCAL_WORLD_SIZE"])
        return local, int(env["WORLD_SIZE"]) // local
    if "SLURM_NTASKS" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(env.get("SLURM_NNODES", 1))
        return int(env["SLURM_NTASKS"]) // nodes, nodes
    return devices, 1


def is_first() -> bool:
    """Whether this process is the only one or the first: the one that writes and prints."""
    return rank_zero_only.rank in (None, 0)


def any_rank(fabric: Fabric, step: int, flag: bool) -> bool:
    """Whether `flag` holds on any rank. Several ranks ask one another every 20 steps, so that all answer alike."""
    if fabric.world_size == 1:
        return flag
    if step % 20:
        return False
    return bool(fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum") > 0)
