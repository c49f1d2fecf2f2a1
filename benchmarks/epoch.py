"""An epoch of `kd` against the bare forward and backward passes of the same two networks: what the tool costs.

    python benchmarks/epoch.py [--device cuda] [--batch-size 128] [--steps 12] [--rounds 5]

Both sides run the same number of steps on 32 x 32 images. The bare side has its normalised images resident, calls the
teacher without gradients, the student, the plain loss and backward: no data pipeline, no augmentation, no optimiser, no
sums. The other side is `kdscope.training.loop` as it is. Rounds alternate, and the ratio is the median over rounds.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import torch

from kdscope import models
from kdscope.config import load_config
from kdscope.data import DATASETS, Dataset, Split
from kdscope.methods.kd import kd_loss
from kdscope.training import loop, session
from kdscope.training.tally import Tally


def synthetic(images: int) -> Dataset:
    """Random 32 x 32 images of 100 classes; the test part is tiny, so that evaluation counts for nothing."""
    generator = torch.Generator().manual_seed(0)

    def split(name: str, count: int) -> Split:
        pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return Split(name, pixels, torch.randint(0, 100, (count,), generator=generator))

    classes = tuple(f"class {k}" for k in range(100))
    train, test = split("train", images), split("test", 2)
    return Dataset("synthetic", train, test, None, classes, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def bare(student, teacher, image, label, steps, precision, device) -> float:
    """Seconds of `steps` passes through both networks."""
    student.train()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(steps):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                z_t = teacher(image)
            z_s = student(image)
        loss = 0.1 * torch.nn.functional.cross_entropy(z_s.float(), label) + 0.9 * kd_loss(z_s.float(), z_t.float())
        loss.backward()
        student.zero_grad(set_to_none=True)
    synchronise(device)
    return time.perf_counter() - began


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Clock(Tally):
    """A tally that notes the time of its first and its last step, so that set-up and saving are not counted."""

    times: ClassVar[list[float]] = []

    def add(self, *args, **kwargs) -> None:
        super().add(*args, **kwargs)
        Clock.times.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="32", choices=["32", "bf16"])
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()

    DATASETS.register("synthetic")(None)
    dataset = synthetic(options.batch_size * options.steps)
    loop.load_data = lambda settings: dataset
    loop.Run.dataset = lambda run: dataset
    session.Tally = Clock

    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "teacher.safetensors"
        models.save_weights(weights, models.build(options.teacher, 100))
        form = {"memory_format": torch.channels_last} if options.device == "cuda" else {}
        teacher = models.build(options.teacher, 100).eval().requires_grad_(False).to(options.device, **form)
        student = models.build(options.student, 100).to(options.device, **form)
        image = torch.randn(options.batch_size, 3, 32, 32).to(options.device, **form)
        label = torch.randint(0, 100, (options.batch_size,), device=options.device)

        config = load_config(
            overrides={
                "data": {"batch_size": options.batch_size},
                "model": {"name": options.student},
                "teachers": [{"model": options.teacher, "checkpoint": str(weights)}],
                "method": "kd",
                "epochs": 2,  # the first warms up, the second counts
                "device": options.device,
                "precision": options.precision,
                "compile": options.compile,
            }
        )
        passes = (student, teacher, image, label)
        bare(*passes, 2, options.precision, options.device)
        ratios, rates = [], []
        for round_ in range(options.rounds):
            Clock.times = []
            loop.start(config, Path(folder) / f"run-{round_}")
            synchronise(options.device)
            whole = (Clock.times[-1] - Clock.times[-options.steps]) / (options.steps - 1)
            plain = bare(*passes, options.steps, options.precision, options.device) / options.steps
            ratios.append(whole / plain)
            rates.append(options.batch_size / whole)
    print(
        f"epoch of kd {options.teacher} -> {options.student}, batch {options.batch_size}, {options.device}, "
        f"{options.precision}: {statistics.median(ratios):.3f} of the bare passes (rounds: "
        f"{', '.join(f'{ratio:.3f}' for ratio in sorted(ratios))}); {statistics.median(rates):,.0f} images/s"
    )


if __name__ == "__main__":
    main()
