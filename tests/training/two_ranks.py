"""What test_ranks.py trains, in one process and under torchrun, which runs `two_ranks.py FOLDER JOBS.json`.

The networks have no batch norm, whose statistics are those of a rank's own share, and a step sees all images: so two
ranks do what one process does, to rounding. After each training, all ranks tell the hash of all that they hold.
"""

import json
import sys
from pathlib import Path

import torch
from torch import distributed, nn

import kdscope
from kdscope.data.catalogue import DATASETS
from kdscope.data.split import Dataset, Split, moments
from kdscope.models import weights_hash
from kdscope.training import loop


def brightness(request):
    """48 training and 24 test images [3, 16, 16] of four classes, told apart by their brightness; of many colours."""
    labels, generator = torch.arange(72) % 4, torch.Generator().manual_seed(3)
    noise = torch.randint(0, 40, (72, 3, 16, 16), generator=generator)
    colours = torch.randint(0, 90, (72, 3, 1, 1), generator=generator)
    images = (noise + colours + 40 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    train, test = Split("train", images[:48], labels[:48]), Split("test", images[48:], labels[48:])
    return Dataset(request.name, train, test, None, ("a", "b", "c", "d"), *moments(train.images))


class Plain(nn.Module):
    """Three stages of one convolution, each of half the resolution of the one before; no batch norm."""

    stage_names = ("stage1", "stage2", "stage3")

    def __init__(self, widths, num_classes):
        super().__init__()
        for k, (before, width) in enumerate(zip((3, *widths), widths, strict=False), 1):
            self.add_module(f"stage{k}", nn.Sequential(nn.Conv2d(before, width, 3, 2, 1), nn.Tanh()))
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images):
        return self.classifier(self.stage3(self.stage2(self.stage1(images))).mean((2, 3)))


def student(num_classes):
    return Plain((8, 8, 8), num_classes)


def teacher(num_classes):
    return Plain((8, 8, 16), num_classes)


def train_all(folder, jobs):
    """Train each job in a run directory of its name; gives for each the hashes of what the ranks held in the end."""
    held, train = {}, loop._train
    DATASETS._entries["test-brightness"] = brightness

    def watched(session):
        train(session)
        state = {k: v for k, v in session.learner.state_dict().items() if "running_" not in k}
        hashes = [weights_hash(state)]
        if distributed.is_initialized():
            hashes = [None] * distributed.get_world_size()
            distributed.all_gather_object(hashes, weights_hash(state))
        held[session.run.path.name] = hashes

    loop._train = watched
    try:
        for name, options in jobs.items():
            kdscope.train(folder / name, **options)
    finally:
        loop._train = train
    return held


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    held = train_all(folder, json.loads(Path(sys.argv[2]).read_text()))
    if distributed.get_rank() == 0:
        (folder / "held.json").write_text(json.dumps(held))
