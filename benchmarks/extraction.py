"""Extraction to disk against its two parts: the forward pass with the same hooks, and writing the same bytes.

    python benchmarks/extraction.py [--model resnet20] [--images 4096] [--device cpu]

Prints, for pooled features (the default) and for full maps, the ratio of `extract_features` to the sum of a bare
forward pass with the same hooks over the same batches and of one plain sequential write, with fsync, of as many bytes
as the cache takes. Rounds alternate, and the median of the rounds' ratios is printed: target at most 1.25 on CPU.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from kdscope.data import Batches, Dataset, Split
from kdscope.features import Capture, extract_features
from kdscope.features.reduce import reduction
from kdscope.models import build, stages


def noise(count: int) -> Dataset:
    """Random images [count, 3, 32, 32] of 100 classes."""
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    split = Split("test", images, torch.arange(count) % 100)
    return Dataset("noise", split, split, None, tuple(map(str, range(100))), (0.5,) * 3, (0.25,) * 3)


def forward(model: nn.Module, data: Dataset, how: str, batch: int, device: str) -> float:
    """Seconds of the forward pass with hooks; what is caught is dropped."""
    batches = Batches(data.test, data, batch_size=batch, device=device)
    layers = [*stages(model), "penultimate"]
    with torch.inference_mode(), Capture(model, layers, detach=True, reduce=reduction(how)) as capture:
        begin = time.perf_counter()
        for part in batches.epoch():
            capture(part.image)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin


def write(folder: Path, count: int) -> float:
    """Seconds of writing `count` bytes one after the other, with fsync."""
    block = os.urandom(2**20)
    begin = time.perf_counter()
    with open(folder / "plain", "wb") as file:
        for _ in range(count // len(block)):
            file.write(block)
        file.write(block[: count % len(block)])
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    (folder / "plain").unlink()
    return seconds


def extraction(model: nn.Module, data: Dataset, how: str, batch: int, device: str, folder: Path) -> tuple[float, int]:
    """Seconds of the extraction, and the bytes of its cache."""
    begin = time.perf_counter()
    cache = extract_features(model, data, "test", folder / "cache", reduction=how, batch_size=batch, device=device)
    seconds = time.perf_counter() - begin
    size = sum(path.stat().st_size for path in cache.path.iterdir())
    shutil.rmtree(cache.path)
    return seconds, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    model, data = build(chosen.model, 100).eval().to(chosen.device), noise(chosen.images)
    common = (chosen.batch_size, chosen.device)
    print(f"{chosen.model}, {chosen.images} images of 32x32, {chosen.device}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for how in ("pool", "full"):
            extraction(model, data, how, *common, Path(folder))  # warm
            rounds = []
            for _ in range(chosen.rounds):
                bare = forward(model, data, how, *common)
                whole, size = extraction(model, data, how, *common, Path(folder))
                rounds.append((whole, bare, write(Path(folder), size)))
            whole, bare, disk = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratio = statistics.median(whole / (bare + disk) for whole, bare, disk in rounds)
            parts = f"forward {bare:.2f} s, write of {size / 2**20:.0f} MiB {disk:.2f} s"
            print(f"{how:5} extraction {whole:.2f} s, {parts}: ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
