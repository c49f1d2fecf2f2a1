"""The analyses on 10,000 images of 100 classes, from caches alone: seconds and memory.

    python benchmarks/analyses.py [--images 10000] [--only NAME]

The caches hold what a resnet56 and a resnet20 with random weights say of random images: logits, pooled stages, maps of
the size of real ones. Overlaps of maps have an untrained network beside them, as those of runs have, from a cache as
well. Each analysis runs in a process of its own.
"""

import argparse
import functools
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIMITS = {"attention-iou": 20, "mutual-information": 5, "calibration": 5, "similarity": 10, "fidelity": None}
KINDS = {"attention-iou": "maps"}


def random_images(images: int) -> Any:
    """A dataset of noise in 100 classes."""
    import torch

    from kdscope.data import Dataset, Split

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split("test", pixels, torch.randint(0, 100, (images,), generator=generator))
    classes = tuple(f"class {k}" for k in range(100))
    return Dataset("random", split, split, None, classes, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def network(name: str, seed: int = 0) -> Any:
    """A network with random weights."""
    import torch

    from kdscope import models

    torch.manual_seed(seed)
    net = models.build(name, 100)
    net(torch.randn(256, 3, 32, 32))  # batch statistics of some data
    return net.eval()


def make_caches(folder: Path, images: int, only: str | None = None) -> None:
    """A cache of features and one of maps for each network, and the maps of an untrained student."""
    import kdscope

    dataset = random_images(images)
    kinds = {KINDS.get(name, "features") for name in ([only] if only else LIMITS)}
    for name in ("resnet56", "resnet20"):
        for kind in sorted(kinds):
            kdscope.extract(network(name), data=dataset, kind=kind, out=folder / f"{name}-{kind}")
    if "maps" in kinds:
        with_control(folder, dataset).random_init("test", kind="maps")


def with_control(folder: Path, dataset: Any) -> Any:
    """The student as a subject that knows its architecture, and so has a control before training."""
    from kdscope.features.cache import FeatureCache
    from kdscope.sources import Subject

    cache = FeatureCache(folder / "resnet20-maps.kdcache")
    return Subject(
        "resnet20", "resnet20", "student", dataset=dataset, folder=folder, others={("maps", "test", "none"): cache},
        build=functools.partial(network, "resnet20", 1), device="cpu",
    )  # fmt: skip


def measure(name: str, folder: Path, images: int) -> None:
    """Time one analysis in this process."""
    import kdscope
    import kdscope.analyses.base  # so that imports are not timed

    kind = KINDS.get(name, "features")
    sources: list[Any] = [folder / f"{network}-{kind}.kdcache" for network in ("resnet56", "resnet20")]
    if kind == "maps":
        sources[1] = with_control(folder, random_images(images))
    began, worked = time.perf_counter(), time.process_time()
    rows = len(kdscope.analyze(name, *sources).table)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    # Not ru_maxrss: a child begins with its parent's.
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**20
    target = f" (target {LIMITS[name]} s)" if LIMITS[name] else ""
    print(
        f"{name}: {seconds:.1f} s{target}, {worked:.1f} s of work, {peak:.2f} GiB at the most, {rows} rows", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--only", choices=LIMITS)
    parser.add_argument("--folder", type=Path, help="Caches that were made before.")
    options = parser.parse_args()
    if options.folder and options.only:
        measure(options.only, options.folder, options.images)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_caches(Path(folder), options.images, options.only)
        for name in [options.only] if options.only else LIMITS:
            asked = ["--only", name, "--folder", folder, "--images", str(options.images)]
            subprocess.run([sys.executable, __file__, *asked], check=True)


if __name__ == "__main__":
    main()
