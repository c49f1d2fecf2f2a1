"""What a step of distilling a detector costs, against the student's plain step plus the teacher's forward pass.

    python benchmarks/detection.py [--only fcos] [--device cuda] [--size 128] [--batch-size 8] [--rounds 5]

Steps are those of the engine's learner: transform, both networks, losses, backward pass, clipping and AdamW, on scenes
that are resident. Of the teacher, backbone and neck run, and of its heads those that the method compares; the same is
timed alone. All in turn, medians over rounds; the last column is the claim: at most 1.25. On a CPU the time is the
processor's, of which other programs take none. The masks of FGD are made for all boxes at once: below, what those of 1
and of 40 boxes an image take on all levels, in turn with a step of `fgd`.
"""

import argparse
import itertools
import statistics
import time

import torch

from kdscope.config import OptimSettings
from kdscope.detection import models
from kdscope.detection.data import load
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.learner import DetectionLearner
from kdscope.detection.methods.masks import box_masks, stacked
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.detection.methods.presets import resolve
from kdscope.training.allocator import keep_freed_memory
from kdscope.training.optim import make_optimizer

PAIRS = {
    "fcos": ("fcos_resnet10_w8", "fcos_resnet18_w32", ["fgd", "fgd-normalised", "mimicry", "chen2017", "at", "kd"]),
    "retinanet": ("retinanet_resnet10_w8", "retinanet_resnet18_w32", ["chen2017", "fgd", "kd"]),
    "fasterrcnn": ("fasterrcnn_resnet10_w8", "fasterrcnn_resnet18_w32", ["chen2017", "fgd", "mimicry", "kd"]),
}


class Timed:
    """One row of the table: a learner that takes steps on batches of its own."""

    def __init__(self, student: str, teacher: str, method: str, batches: DetectionBatches, options: argparse.Namespace):
        torch.manual_seed(0)
        network = models.build(student, 3, image_size=options.size)
        teachers = [] if method == "none" else [models.build(teacher, 3, image_size=options.size)]
        self.learner = DetectionLearner(network, DetectionObjective(resolve(method), bool(teachers)), *teachers)
        self.learner.build()
        self.learner.to(options.device).train()
        self.batches, self.device = list(itertools.islice(batches.epoch(), options.steps)), options.device
        for batch in self.batches if self.learner.objective.observing else ():
            self.learner.observe(batch)
        self.optimizer = make_optimizer(self.learner.parameters(), OptimSettings(name="adamw", lr=1e-4))

    def step(self) -> float:
        """Seconds of one step."""
        began = now(self.device)
        for batch in self.batches:
            values, _ = self.learner(*self.learner.arguments(batch))
            (self.learner.objective.weights @ values).backward()
            torch.nn.utils.clip_grad_norm_(self.learner.parameters(), 35.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return (now(self.device) - began) / len(self.batches)

    def teach(self) -> float:
        """Seconds of the teacher's part alone, on what the student's transform and sampling gave."""
        learner, total = self.learner, 0.0
        for batch in self.batches:
            with torch.no_grad():
                step = learner._adapter.learn(learner._adapter.frame(*learner.arguments(batch)))
            began = now(self.device)
            with torch.no_grad():
                learner._taught(step)
            total += now(self.device) - began
        return total / len(self.batches)


def now(device: str) -> float:
    """Seconds, all that was asked of the device being done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def masks(boxes: int, options: argparse.Namespace) -> float:
    """Seconds that the masks of a batch with so many boxes in each image take on all levels of FCOS."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(options.batch_size, boxes, 2, 2, generator=generator).sort(2).values * options.size
    drawn = list(corners.flatten(2).to(options.device))
    began = now(options.device)
    for stride in (8, 16, 32):
        box_masks(stacked(drawn), (options.size,) * 2, (options.size // stride,) * 2)
    return now(options.device) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", choices=["", *PAIRS], help="one family alone")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    count = options.batch_size * options.steps
    data = load(f"scenes:{count}:{options.size}:1")
    batches = DetectionBatches(data.train, batch_size=options.batch_size, device=options.device)
    print(f"{options.size} px, {options.batch_size} images, {options.device}; milliseconds of a step")
    print(f"{'method':28}{'step':>8}{'plain':>8}{'teacher':>9}{'ratio':>7}")
    chosen = {options.only: PAIRS[options.only]} if options.only else PAIRS
    for name, (student, teacher, methods) in chosen.items():
        plain = Timed(student, teacher, "none", batches, options)
        for method in methods:
            row = Timed(student, teacher, method, batches, options)
            times = [(row.step(), plain.step(), row.teach()) for _ in range(options.rounds + 1)][1:]
            step, alone, taught = (statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(a / (b + c) for a, b, c in times)
            print(f"{name + ' ' + method:28}{1e3 * step:8.1f}{1e3 * alone:8.1f}{1e3 * taught:9.1f}{ratio:7.2f}")
    student, teacher, _ = PAIRS["fcos"]
    row = Timed(student, teacher, "fgd", batches, options)
    times = [(masks(1, options), masks(40, options), row.step()) for _ in range(options.rounds + 1)][1:]
    few, many, step = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"masks of 1 box an image {1e3 * few:.2f} ms, of 40 {1e3 * many:.2f} ms, of a step {100 * many / step:.1f} %")


if __name__ == "__main__":
    main()
