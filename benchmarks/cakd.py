"""What causal attention transfer costs: a training step over that of `kd`, and the masks that are made once.

    python benchmarks/cakd.py [--teacher resnet50_cbam --student resnet18] [--device cuda] [--batch-size 64]

Steps are those of the engine's learner (both networks forward, losses, backward pass) on resident images, each in turn
with `kd`, medians over rounds. Kept masks are looked up on the host as in training; to make them here takes one view of
each image, not all 162 that crop and flip has, which changes nothing of the look-up.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from kdscope import models
from kdscope.data import Batches, Dataset, Split
from kdscope.data.orbit import count_views
from kdscope.data.split import moments
from kdscope.methods import Objective, resolve
from kdscope.methods.term import TrainingData
from kdscope.training.learner import Learner
from kdscope.training.preparation import TrainingImages, teaching

CLASSES = 100
ROWS = {
    "masks made live": {},
    "masks looked up": {"views": "cached"},
    "Grad-CAM masks made live": {"mask": "gradcam"},
    "no mask": {"mask": "none"},
}


def learner_of(method: str, settings: dict, images: TrainingImages, options: argparse.Namespace) -> Learner:
    """The two networks, with the terms of `method` prepared."""
    terms = resolve(method, {"cakd": settings} if method == "cakd" else None)
    torch.manual_seed(0)
    student, teacher = models.build(options.student, CLASSES), models.build(options.teacher, CLASSES)
    data = TrainingData(images.labels.cpu(), CLASSES, "none")
    learner = Learner(student, Objective(terms, student, [teacher], data=data), [teacher])
    learner.build(torch.zeros(2, 3, 32, 32))
    form = {"memory_format": torch.channels_last} if options.device == "cuda" else {}
    learner = learner.to(options.device, **form).train()
    for term in learner.objective.terms["cakd"] if method == "cakd" else ():
        if term.preparation() is not None:
            term.use(term.prepare(images, teaching(learner, "cakd", 0)))
    return learner


def step_of(learner: Learner, batch) -> Callable[[], None]:
    learner.view = batch.view

    def step() -> None:
        with learner.capturing():
            values, _ = learner(batch.image, batch.label, batch.index)
        (learner.objective.weights @ values).backward()
        learner.zero_grad(set_to_none=True)

    return step


def seconds(work: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    count = max(options.batch_size, CLASSES)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    train = Split("train", pixels, torch.arange(count) % CLASSES)
    dataset = Dataset("random", train, train, None, tuple(map(str, range(CLASSES))), *moments(pixels))
    images = TrainingImages(dataset, torch.device(options.device))
    batch = Batches(train, dataset, device=options.device).batch(torch.arange(options.batch_size))

    base = step_of(learner_of("kd", {}, images, options), batch)
    print(f"{options.teacher} to {options.student}, batch {options.batch_size}, {options.device}")
    for row, settings in ROWS.items():
        learner = learner_of("cakd", settings, images, options)
        step = step_of(learner, batch)
        pairs = [(seconds(step, options.device), seconds(base, options.device)) for _ in range(options.rounds + 1)][1:]
        print(f"step with {row}: {statistics.median(one / other for one, other in pairs):.2f} of kd", flush=True)
    learner = learner_of("cakd", {"views": "cached"}, images, options)
    (term,) = learner.objective.terms["cakd"]
    teach = teaching(learner, "cakd", 0)
    rounds = range(options.rounds + 1)
    made = [seconds(lambda: term.prepare(images, teach), options.device) / count for _ in rounds][1:]
    passed = [seconds(lambda: teach(batch.image), options.device) / options.batch_size for _ in rounds][1:]
    each, views = term.kept[0, 0].nbytes, count_views("standard")
    print(
        f"a mask that is kept: {statistics.median(made) / statistics.median(passed):.1f} teacher passes, {each} bytes; "
        f"all {views} views of 50,000 images: {views * 50_000 * each / 2**30:.2f} GiB"
    )


if __name__ == "__main__":
    main()
