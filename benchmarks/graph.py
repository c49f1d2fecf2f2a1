"""What the graphs of MHGD cost beside the student that learns from them.

    python benchmarks/graph.py [--device cuda] [--batch-size 128] [--rounds 7]

One step of the student is a forward and backward pass of resnet20 on 32 x 32 images. Beside it stand, forward and
backward: the decomposition and alignment of one pair of maps of 64 channels on 8 x 8 places; that of the three stages;
the whole term (decompositions, attention heads, divergence) given the maps of both networks. Rounds alternate, and each
ratio is the median over rounds of its time over that of the student's step.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from kdscope import models
from kdscope.data import Batch
from kdscope.features.features import Features
from kdscope.methods.mhgd import MultiHeadGraph
from kdscope.methods.singular import align, top_right_vectors

STAGES = {"layer1": (16, 32), "layer2": (32, 16), "layer3": (64, 8)}


def seconds(work: Callable[[], torch.Tensor], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def rectified(images: int, seed: int, device: str) -> dict[str, torch.Tensor]:
    """Maps as a network's stages give them: rectified, and with a strong mean."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(images, c, side, side, generator=generator) for name, (c, side) in STAGES.items()}
    return {name: (value + 0.5).relu().to(device).requires_grad_() for name, value in drawn.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    count, device = options.batch_size, options.device
    torch.manual_seed(0)
    student = models.build("resnet20", 100).to(device).train()
    image = torch.randn(count, 3, 32, 32, device=device)
    label = torch.randint(0, 100, (count,), device=device)
    ours, theirs = (rectified(count, seed, device) for seed in (1, 2))
    student_side, teacher_side = (Features(torch.zeros(count, 100, device=device), maps) for maps in (ours, theirs))
    term = MultiHeadGraph().to(device)
    term.build(student_side, teacher_side)
    term.to(device)
    batch = Batch(image, label, torch.arange(count, device=device), None)

    def compressed(names: list[str]) -> torch.Tensor:
        pairs = [(top_right_vectors(ours[n], 4)[1], top_right_vectors(theirs[n].detach())[1]) for n in names]
        return torch.stack([align(s, t).sum() for s, t in pairs]).sum()

    works = {
        "one map of 64 channels on 8 x 8 places": lambda: compressed(["layer3"]),
        "the three stages": lambda: compressed(list(STAGES)),
        "the whole term": lambda: term(student_side, teacher_side, batch),
    }

    def step() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(student(image), label)

    times: dict[str, list[float]] = {name: [] for name in ("student", *works)}
    for _ in range(options.rounds + 1):
        times["student"].append(seconds(step, device))
        for name, work in works.items():
            times[name].append(seconds(work, device))
    own = times["student"][1:]
    print(f"{device}, batches of {count}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print(f"the student's step: {statistics.median(own):.3f} s")
    for name in works:
        ratios = [a / b for a, b in zip(times[name][1:], own, strict=True)]
        print(f"{name}: {statistics.median(ratios):.3f} of it ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
