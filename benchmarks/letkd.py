"""What letKD costs: the student with its layers, a training step against one of `kd`, the clustering of all patches.

    python benchmarks/letkd.py [--device cuda] [--batch-size 64] [--rounds 5] [--patches 3200000] [--threads 2]

Steps are those of the engine's learner (forward passes of both networks, losses, backward pass), on resident images;
`kd` and letKD in turn, medians over rounds. Memory is the peak of the process on CPU (each measured in a process of its
own), of the allocator on a GPU. Of the clustering one iteration is measured on as many patches as asked for.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from kdscope import models
from kdscope.data import Dataset, Split
from kdscope.data.split import moments
from kdscope.methods import Objective, resolve
from kdscope.methods.letkd.kmeans import lloyd
from kdscope.methods.objective import changed
from kdscope.methods.term import TrainingData
from kdscope.training.allocator import keep_freed_memory
from kdscope.training.learner import Learner
from kdscope.training.preparation import TrainingImages, teaching

CLASSES = 100
ROWS = {
    "none": ("none", {}),
    "kd": ("kd", {}),
    "letkd-1, K = 64": ("letkd-1", {"letkd": {"codes": 64}}),
    "letkd-1": ("letkd-1", {"letkd": {"codebook": "patches", "codes": 4096}}),
    "letkd-2": ("letkd-2", {"letkd": {"codebook": "patches", "codes": 4096}}),
}


def learner_of(row: str, options: argparse.Namespace) -> Learner:
    """The networks of a row of the table, its term prepared on random images."""
    method, overrides = ROWS[row]
    terms = resolve(method, overrides)
    torch.manual_seed(0)
    student = changed(models.build(options.student, CLASSES), terms)
    teachers = [] if method == "none" else [models.build(options.teacher, CLASSES)]
    count = 2 * CLASSES
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    train = Split("train", pixels, torch.arange(count) % CLASSES)
    classes = tuple(map(str, range(CLASSES)))
    images = TrainingImages(
        Dataset("random", train, train, None, classes, *moments(pixels)), torch.device(options.device)
    )
    learner = Learner(student, Objective(terms, student, teachers, data=TrainingData(train.labels, CLASSES)), teachers)
    learner.build(torch.zeros(2, 3, 32, 32))
    form = {"memory_format": torch.channels_last} if options.device == "cuda" else {}
    learner = learner.to(options.device, **form).train()
    for name, each in learner.objective.terms.items():
        for k, term in enumerate(each):
            if term.preparation() is not None:
                made = term.prepare(images, teaching(learner, name, k))
                term.use({key: value.to(options.device) for key, value in made.items()})
    return learner


def steps(learner: Learner, options: argparse.Namespace, count: int) -> float:
    """Seconds of one step."""
    form = {"memory_format": torch.channels_last} if options.device == "cuda" else {}
    image = torch.randn(options.batch_size, 3, 32, 32).to(options.device, **form)
    label = torch.randint(0, CLASSES, (options.batch_size,), device=options.device)
    with learner.capturing():
        wait(options.device)
        began = time.perf_counter()
        for _ in range(count):
            with torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.precision == "bf16"):
                values, _ = learner(image, label, torch.arange(options.batch_size))
            (learner.objective.weights @ values).backward()
            learner.zero_grad(set_to_none=True)
        wait(options.device)
    return (time.perf_counter() - began) / count


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak(device: str) -> float:
    """MiB at the most so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()  # ru_maxrss is inherited by what a large process starts
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def memory(row: str, options: argparse.Namespace) -> float:
    """Peak of a process that does nothing but training steps of a row, MiB."""
    command = [sys.executable, __file__, "--memory-of", row, "--device", options.device]
    command += ["--batch-size", str(options.batch_size), "--threads", str(options.threads)]
    command += ["--precision", options.precision, "--student", options.student, "--teacher", options.teacher]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def table(options: argparse.Namespace) -> None:
    learners = {row: learner_of(row, options) for row in ROWS}
    for learner in learners.values():
        steps(learner, options, 2)
    times = {row: [] for row in ROWS}
    for _ in range(options.rounds):
        for row, learner in learners.items():
            times[row].append(steps(learner, options, options.steps))
    ratios = {row: statistics.median(a / b for a, b in zip(times[row], times["kd"], strict=True)) for row in ROWS}
    print(f"{options.teacher} -> {options.student}, batch {options.batch_size}, {options.device}, {options.precision}")
    print("| method | parameters | multiply-adds | latency, 1 image | latency, 128 | step over kd | peak of training |")
    print("|---|---|---|---|---|---|---|")
    for row, learner in learners.items():
        student = learner.student
        one = models.profile(student, 32, device=options.device)
        many = models.profile(student, 32, batch_size=128, device=options.device, repeats=5)
        print(
            f"| {row} | {one.parameters / 1e6:.3f} M | {one.macs / 1e6:.1f} M | {one.latency_ms:.1f} ms | "
            f"{many.latency_ms:.0f} ms | {ratios[row]:.2f} ({1e3 * statistics.median(times[row]):.0f} ms) | "
            f"{memory(row, options):.0f} MiB |"
        )


def ratios(options: argparse.Namespace) -> None:
    """A step of each row over one of `kd`, alone."""
    learners = {row: learner_of(row, options) for row in ("kd", "letkd-1")}
    found = []
    for k in range(options.rounds + 1):
        ours, theirs = (steps(learners[row], options, options.steps) for row in ("letkd-1", "kd"))
        found += [ours / theirs] if k else []
    print(f"letkd-1 over kd: {statistics.median(found):.2f} ({', '.join(f'{r:.2f}' for r in sorted(found))})")


def clustering(options: argparse.Namespace) -> None:
    """One iteration of Lloyd over all patches, and what it adds to the memory of the patches themselves."""
    torch.manual_seed(0)
    points = torch.randn(options.patches, 64, device=options.device)
    start = points[:4096].clone()
    lloyd(points[:50_000], 4096, iterations=1, start=start)
    before = peak(options.device)
    wait(options.device)
    began = time.perf_counter()
    lloyd(points, 4096, iterations=1, start=start)
    wait(options.device)
    seconds, after = time.perf_counter() - began, peak(options.device)
    held = points.numel() * 4 / 2**20
    print(
        f"clustering: {options.patches:,} patches of 64 channels, 4,096 clusters: {seconds:.1f} s an iteration; "
        f"patches {held:.0f} MiB, peak of the process {after:.0f} MiB, {after - before:.0f} MiB of it by the iteration"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="32", choices=["32", "bf16"])
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patches", type=int, default=3_200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-of", choices=list(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["table", "ratio", "clustering"], help="One of the parts.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.device == "cpu":
        keep_freed_memory()  # as every training does
    if options.memory_of:
        steps(learner_of(options.memory_of, options), options, 3)
        print(peak(options.device))
        return
    for part, make in (("table", table), ("ratio", ratios), ("clustering", clustering)):
        if options.only in (None, part):
            make(options)


if __name__ == "__main__":
    main()
