"""What a training step of each method costs, over that of `kd` on the same two networks.

    python benchmarks/methods.py [--methods nst,crd] [--device cuda] [--out docs/methods_cost.csv]

A step is the one of `kdscope.training`: teachers and student forward, loss, backward, optimiser, on a batch that is
already made. Of methods with phases the main one is timed, of chains the last link. Steps of a method and of kd
alternate, and the ratio is the median over rounds. With `--methods` all (the default) three losses are compared with
their plain forms as well: those that public code uses, written below, at the sizes of resnet56 -> resnet20.
"""

import argparse
import csv
import datetime
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn.functional import normalize, smooth_l1_loss

from kdscope import api, models
from kdscope.comparison import needs_teacher
from kdscope.config import TeacherSettings
from kdscope.data import DATASETS, Dataset, Split
from kdscope.features.features import Features
from kdscope.files import replacing
from kdscope.methods.crd import CRD, contrast_loss
from kdscope.methods.nst import neuron_selectivity_loss
from kdscope.methods.rkd import rkd_loss
from kdscope.methods.term import TrainingData
from kdscope.training.explain import all_methods
from kdscope.training.loop import checked
from kdscope.training.ranks import make_fabric
from kdscope.training.session import Session

CLASSES, IMAGES, FEW = 100, 50_000, 1024  # images where a term prepares itself on all of them


def synthetic(images: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(name: str, count: int) -> Split:
        pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return Split(name, pixels, torch.arange(count) % CLASSES)

    classes = tuple(f"class {k}" for k in range(CLASSES))
    return Dataset("synthetic", split("train", images), split("test", 2), None, classes, (0.5,) * 3, (0.25,) * 3)


DATASETS.register("benchmark")(lambda request: synthetic(IMAGES))
DATASETS.register("benchmark-few")(lambda request: synthetic(FEW))


def session_of(method: str, options: argparse.Namespace, folder: Path) -> Callable[[], None]:
    """A function that makes one step of the main training."""
    given = {"model": options.student, "method": method, "batch_size": options.batch_size, "epochs": 240}
    given |= {"device": options.device, "precision": options.precision}
    wanted = [TeacherSettings(model=options.teacher)] if needs_teacher(method) else []

    def prepared(data: str):
        teachers = [models.build(options.teacher, CLASSES) for _ in wanted]
        config = api.settings(teachers=wanted, data=data, **given)
        return checked(config, folder, teachers or None)

    config, dataset, learner = prepared("benchmark")
    if any(term.preparation() is not None for each in learner.objective.terms.values() for term in each):
        config, dataset, learner = prepared("benchmark-few")
    fabric = make_fabric(options.device, 1, options.precision)
    session = Session(SimpleNamespace(config=config, path=folder, name=method), fabric, dataset, learner)
    session.enter(len(session.stages) - 1)
    session.begin_epoch(session.stage.epochs - 1)  # warm-ups are over
    learner.train()
    batch = next(iter(session.batches.epoch(0)))

    def step() -> None:
        with learner.capturing():
            session.step(batch, 1e-3)

    return step


def alternated(one: Callable[[], object], other: Callable[[], object], options: argparse.Namespace) -> float:
    """Time of `one` over that of `other`, which has run once already: the median over rounds."""
    ratios = []
    one()  # what its first call makes is not timed; `other` has been called before
    for round_ in range(options.rounds):
        pair = (one, other) if round_ % 2 else (other, one)
        spent = {each: seconds(each, options) for each in pair}
        ratios.append(spent[one] / spent[other])
    return statistics.median(ratios)


def seconds(step: Callable[[], object], options: argparse.Namespace) -> float:
    synchronise(options.device)
    began = time.perf_counter()
    for _ in range(options.steps):
        step()
    synchronise(options.device)
    return time.perf_counter() - began


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# The plain forms.


def plain_nst(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """All products of channels at all places at once, [B, C, C', HW], as in RepDistiller."""
    s, t = (normalize(each.flatten(2), dim=2) for each in (student, teacher))

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.unsqueeze(2) * b.unsqueeze(1)).sum(-1).square().mean((1, 2))

    return (kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)).mean()


def plain_rkd(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """All differences [B, B, D] and the angles between them [B, B, B], as in the authors' code."""

    def distance(x: torch.Tensor) -> torch.Tensor:
        d = (x.unsqueeze(0) - x.unsqueeze(1)).square().sum(2).clamp_min(1e-12).sqrt() * (1 - torch.eye(len(x)).to(x))
        return d / d[d > 0].mean()

    def angle(x: torch.Tensor) -> torch.Tensor:
        d = normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)
        return d @ d.mT

    with torch.no_grad():
        theirs = distance(teacher), angle(teacher)
    return 25 * smooth_l1_loss(distance(student), theirs[0]) + 50 * smooth_l1_loss(angle(student), theirs[1])


class PlainCRD:
    """Negatives drawn on the host for each image, and their rows of the memories gathered [B, 1 + K, D]."""

    def __init__(self, labels: torch.Tensor, negatives: int, embed: int, device: str):
        self.others = [np.flatnonzero(labels.numpy() != c) for c in range(CLASSES)]
        self.negatives, self.images = negatives, len(labels)
        self.memory = [normalize(torch.randn(self.images, embed, device=device), dim=1) for _ in range(2)]

    def __call__(self, s: torch.Tensor, t: torch.Tensor, label: list[int], index: torch.Tensor) -> torch.Tensor:
        drawn = np.stack([np.random.choice(self.others[c], self.negatives, replace=False) for c in label])
        rows = torch.cat([index[:, None], torch.from_numpy(drawn).to(index.device)], dim=1)
        loss = s.new_zeros(())
        for embedded, memory in ((s, self.memory[1]), (t, self.memory[0])):
            scores = torch.bmm(memory[rows], embedded.unsqueeze(2)).squeeze(2).div(0.07).exp()
            loss = loss + contrast_loss(scores / (scores.detach().mean() * self.images), self.images)
        return loss


def against_plain(options: argparse.Namespace) -> None:
    """Each fast form with its backward pass, over the plain one."""
    size, device = options.batch_size, options.device
    torch.manual_seed(0)
    shapes = [(size, width, side, side) for width, side in ((16, 32), (32, 16), (64, 8))]
    maps = [[torch.rand(shape, device=device).requires_grad_(k == 0) for k in range(2)] for shape in shapes]
    vectors = [torch.randn(size, 64, device=device).requires_grad_(k == 0) for k in range(2)]
    forms = {
        "nst": [lambda f=f: sum(f(*pair) for pair in maps) for f in (neuron_selectivity_loss, plain_nst)],
        "rkd": [lambda f=f: f(*vectors) for f in (rkd_loss, plain_rkd)],
    }
    for name, (fast, plain) in forms.items():
        a, b = float(fast().detach()), float(plain().detach())
        if abs(a - b) > 1e-4 * abs(b):
            sys.exit(f"{name}: the two forms are not the same loss ({a} and {b})")
    labels = torch.arange(IMAGES) % CLASSES
    term = CRD()
    term.know(TrainingData(labels, CLASSES))
    ours, theirs = (Features(torch.zeros(size, CLASSES), {"penultimate": v}) for v in vectors)
    term.build(ours, theirs)
    term.to(device)
    label, index = labels[:size], torch.randperm(IMAGES)[:size].to(device)
    plain = PlainCRD(labels, term.negatives, term.embed, device)
    batch = SimpleNamespace(label=label.to(device), index=index)

    def plain_crd() -> torch.Tensor:
        s, t = (normalize(layer(v), dim=1) for layer, v in zip((term.student, term.teacher), vectors, strict=True))
        return plain(s, t, label.tolist(), index)

    forms["crd"] = [lambda: term(ours, theirs, batch), plain_crd]
    for name, (fast, slow) in forms.items():
        fast().backward()
        ratio = alternated(lambda f=slow: f().backward(), lambda f=fast: f().backward(), options)
        print(f"{name}: the plain form takes {ratio:.1f} times as long", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="Names with commas [all].")
    parser.add_argument("--out", type=Path, help="CSV to write: method, ratio, where.")
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="32", choices=["32", "bf16"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, help="In a round [1; 20 on a GPU].")
    options = parser.parse_args()
    options.steps = options.steps or (20 if options.device == "cuda" else 1)
    names = options.methods.split(",") if options.methods else all_methods()
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    where = (
        f"{options.teacher} to {options.student}, batch {options.batch_size}; {device} ({platform.machine()}), "
        f"torch {torch.__version__}, {datetime.date.today()}, `python {' '.join(sys.argv)}`"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        kd = session_of("kd", options, Path(folder))
        kd()
        for name in names:
            step = session_of(name, options, Path(folder)) if name != "kd" else kd
            ratio = alternated(step, kd, options) if name != "kd" else 1.0
            rows.append({"method": name, "ratio": f"{ratio:.3f}", "where": where})
            print(f"{name}: {ratio:.2f} of kd", flush=True)
            del step
    if not options.methods:
        against_plain(options)
    if options.out:
        with replacing(options.out) as draft, draft.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
