"""What a network costs, measured on the network once and kept beside its caches: `efficiency-DEVICE.json`.

The peak memory is that of the tensors that one forward pass holds at once, besides weights and images: on a GPU as its
allocator counts it, on a CPU from the profiler's allocations. It is not the size of the process, which Python and its
libraries make up.
"""

import os
import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdscope.errors import KDScopeError
from kdscope.files import digest, read_json, write_json
from kdscope.models import profile, weights_hash
from kdscope.models.watch import evaluating

BATCHES = (1, 128)
REPEATS = {1: 30, 128: 6}


def measure_efficiency(model: nn.Module, image_size: int, device: str = "cpu") -> dict[str, Any]:
    """Parameters, size, arithmetic, time and memory of a network on a device.

    Returns:
        parameters; megabytes (of weights and buffers, 10^6 bytes); flops (of one image, two for each multiply-add);
        latency-1 and latency-128 (ms, medians of batches of 1 and 128); throughput (images a second, batches of 128);
        memory-1 and memory-128 (MB of tensors at once in one forward pass, besides weights and images).

    >>> from kdscope.models import build
    >>> cost = measure_efficiency(build("resnet8", num_classes=10), 8)
    >>> cost["parameters"], cost["latency-128"] > cost["latency-1"] > 0, cost["memory-128"] > cost["memory-1"] > 0
    (78042, True, True)
    """
    found: dict[str, Any] = {}
    for batch in BATCHES:
        cost = profile(model, image_size, batch_size=batch, device=device, repeats=REPEATS[batch])
        found |= {"parameters": cost.parameters, "megabytes": cost.megabytes, "flops": cost.flops}
        found |= {f"latency-{batch}": cost.latency_ms, "throughput": cost.throughput}
        found[f"memory-{batch}"] = peak_memory(model, image_size, batch, device) / 1e6
    return found | {"repeats": {"latency-1": REPEATS[1], "latency-128": REPEATS[128], "throughput": REPEATS[128]}}


def peak_memory(model: nn.Module, image_size: int, batch_size: int = 1, device: str = "cpu") -> int:
    """Bytes of tensors that one forward pass holds at once, besides weights and images."""
    kind = torch.device(device)
    home = next(model.parameters(), torch.zeros(())).device
    try:
        with evaluating(model):
            model.to(kind)
            images = torch.zeros(batch_size, 3, image_size, image_size, device=kind)
            model(images)  # what libraries keep for later is not of this pass
            if kind.type == "cuda":
                torch.cuda.synchronize(kind)
                torch.cuda.reset_peak_memory_stats(kind)
                before = torch.cuda.memory_allocated(kind)
                model(images)
                return torch.cuda.max_memory_allocated(kind) - before
            return _traced(model, images)
    finally:
        model.to(home)


def _traced(model: nn.Module, images: torch.Tensor) -> int:
    """The highest running sum of what the profiler saw allocated and freed."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would write of itself to the terminal
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        model(images)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = top = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top


def kept_efficiency(load: Any, folder: Path, prefix: str, image_size: int, device: str) -> dict[str, Any]:
    """What was measured of these weights on such a device before, or is now, with `machine`, `device` and `torch`."""
    path = folder / f"{prefix}efficiency-{device}.json"
    model = load()
    where = {
        "weights": weights_hash(model),
        "image_size": image_size,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    key = digest(where)
    if path.is_file():
        try:
            known = read_json(path)
        except KDScopeError:  # a damaged note is measured again
            known = {}
        if known.get("key") == key:
            return known
    found = {"key": key, **where, **measure_efficiency(model, image_size, device)}
    write_json(path, found)
    return found
