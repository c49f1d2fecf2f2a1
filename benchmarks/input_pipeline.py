"""The input pipeline against the usual one: Pillow transforms, image by image, in a torch DataLoader with two workers.

    python benchmarks/input_pipeline.py [--images 20000] [--rounds 5] [--threads 2]

Both make normalised float32 batches of 128 from the same random 32 x 32 images. `standard` is held against
RandomCrop(32, padding=4), flip, ToTensor, Normalize; `strong` against RandomResizedCrop, flip, AutoAugment, ToTensor,
Cutout, Normalize. Rounds alternate, so that what else the machine does falls on both alike; medians are printed.
Starting the workers is counted, as it happens every epoch. Target: at least 8 times as many images a second on
`standard`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms as T

from kdscope.data import Batches, Split

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
BATCH = 128


class Pictures(TorchDataset):
    """What torchvision's CIFAR datasets do: an array, made a Pillow image, transformed."""

    def __init__(self, split: Split, transform: Callable):
        self.images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[position])), self.labels[position]


def cutout(image: torch.Tensor) -> torch.Tensor:
    """Black out one square of 2 x 2 pixels."""
    y, x = torch.randint(0, 32, (2,)).tolist()
    image[:, max(0, y - 1) : y + 1, max(0, x - 1) : x + 1] = 0
    return image


def usual(name: str) -> Callable:
    """The transforms that one finds in most training scripts."""
    last = [T.ToTensor(), T.Normalize(MEAN, STD)]
    if name == "standard":
        return T.Compose([T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), *last])
    crop = T.RandomResizedCrop(32, (0.2, 1.0), interpolation=T.InterpolationMode.BICUBIC)
    policy = T.AutoAugment(T.AutoAugmentPolicy.CIFAR10, fill=(128, 128, 128))
    return T.Compose([crop, T.RandomHorizontalFlip(), policy, T.ToTensor(), T.Lambda(cutout), last[1]])


def images_per_second(batches: Iterable, count: int) -> float:
    """Go through all batches once."""
    begin = time.perf_counter()
    for _ in batches:
        pass
    return count / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (options.images, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split("train", images, torch.randint(0, 10, (options.images,), generator=generator))
    for name in ("standard", "strong"):
        ours = Batches(split, (MEAN, STD), augment=name, batch_size=BATCH, shuffle=True)
        theirs = DataLoader(Pictures(split, usual(name)), batch_size=BATCH, shuffle=True, num_workers=2)
        next(ours.epoch())
        rates = [
            (images_per_second(ours.epoch(epoch), options.images), images_per_second(theirs, options.images))
            for epoch in range(options.rounds)
        ]
        fast, slow = (statistics.median(column) for column in zip(*rates, strict=True))
        ratio = statistics.median(first / second for first, second in rates)
        print(
            f"{name}: {ratio:.1f} times; {fast:,.0f} images/s in batches ({1e6 / fast:.1f} us an image), "
            f"{slow:,.0f} images/s through Pillow and a 2-worker DataLoader ({1e6 / slow:.1f} us an image)"
        )


if __name__ == "__main__":
    main()
