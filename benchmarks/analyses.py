"""The analyses on 10,000 images of 100 classes, from caches alone: seconds and memory.

    python benchmarks/analyses.py [--images 10000] [--only NAME]

The caches hold what a resnet56 and a resnet20 with random weights say of random images: logits, pooled stages, maps of
the size of real ones. Each analysis runs in a process of its own.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS = {"attention-iou": 20, "mutual-information": 5, "calibration": 5, "similarity": 10, "fidelity": None}
KINDS = {"attention-iou": "maps"}


def make_caches(folder: Path, images: int) -> None:
    """A cache of features and one of maps for each network."""
    import torch

    import kdscope
    from kdscope import models
    from kdscope.data import Dataset, Split

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split("test", pixels, torch.randint(0, 100, (images,), generator=generator))
    classes = tuple(f"class {k}" for k in range(100))
    dataset = Dataset("random", split, split, None, classes, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    for name in ("resnet56", "resnet20"):
        torch.manual_seed(0)
        network = models.build(name, 100)
        network(torch.randn(256, 3, 32, 32))  # batch statistics of some data
        for kind in ("features", "maps"):
            kdscope.extract(network, data=dataset, kind=kind, out=folder / f"{name}-{kind}")


def measure(name: str, folder: Path) -> None:
    """Time one analysis in this process."""
    import kdscope
    import kdscope.analyses.base  # so that imports are not timed

    kind = KINDS.get(name, "features")
    sources = [folder / f"{network}-{kind}.kdcache" for network in ("resnet56", "resnet20")]
    began = time.perf_counter()
    rows = len(kdscope.analyze(name, *sources).table)
    seconds = time.perf_counter() - began
    # Not ru_maxrss: a child begins with its parent's.
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**20
    target = f" (target {LIMITS[name]} s)" if LIMITS[name] else ""
    print(f"{name}: {seconds:.1f} s{target}, {peak:.2f} GiB at the most, {rows} rows", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--only", choices=LIMITS)
    parser.add_argument("--folder", type=Path, help="Caches that were made before.")
    options = parser.parse_args()
    if options.folder and options.only:
        measure(options.only, options.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_caches(Path(folder), options.images)
        for name in [options.only] if options.only else LIMITS:
            subprocess.run([sys.executable, __file__, "--only", name, "--folder", folder], check=True)


if __name__ == "__main__":
    main()
