"""One thread a process (the networks of the tests are small, and a forked process has none of its parent's threads),
and a dataset of 48 images, on which a whole training takes a fraction of a second."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


def tiny(request):
    """48 training and 24 test images [3, 16, 16] of four classes, told apart by their brightness."""
    import torch

    from kdscope.data.split import Dataset, Split, moments

    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(72) % 4
    noise = torch.randint(0, 60, (72, 3, 16, 16), generator=generator)
    images = (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    train, test = Split("train", images[:48], labels[:48]), Split("test", images[48:], labels[48:])
    return Dataset(request.name, train, test, None, ("a", "b", "c", "d"), *moments(train.images))


@pytest.fixture(scope="session")
def tiny_data():
    """The settings of a training on the tiny dataset: three steps an epoch."""
    from kdscope.data.catalogue import DATASETS

    patch = pytest.MonkeyPatch()
    patch.setitem(DATASETS._entries, "test-tiny", tiny)
    yield {"data": "test-tiny", "model": "resnet8", "batch_size": 16, "epochs": 2, "optim": {"lr": 0.02}}
    patch.undo()


@pytest.fixture(scope="session")
def tiny_teacher(tiny_data, tmp_path_factory):
    """A trained teacher that is deeper than the student."""
    import kdscope

    return kdscope.train(tmp_path_factory.mktemp("tiny") / "resnet14", **tiny_data | {"model": "resnet14"})


@pytest.fixture
def with_stops(monkeypatch):
    """A training that is stopped again and again and resumed, as a cluster does to it.

    (begin, place, every) -> the run and how often it was stopped: after every so many steps of all its trainings.
    """

    from kdscope import api
    from kdscope.training.stop import Interrupted, StopSignal

    def until_done(begin, place, every):
        asked = [0]

        def agreed(self, fabric, step):
            asked[0] += 1
            return asked[0] % every == 0

        monkeypatch.setattr(StopSignal, "agreed", agreed)
        stops = 0
        while True:
            try:
                run = api.resume(place) if stops else begin(place)
            except Interrupted:
                stops += 1
            else:
                assert stops == asked[0] // every
                return run, stops

    return until_done
