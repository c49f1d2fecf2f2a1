"""An extraction that is killed, three times at random, ends with the content of one that was not."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kdscope.features import FeatureCache
from kdscope.features.upkeep import verify

# Slow on purpose: 24 batches of at least 40 ms each, and a shard of each two.
PROGRAM = """
import sys, time, torch
from torch import nn
from kdscope.data import Dataset, Split
from kdscope.features import extract_features

torch.set_num_threads(1)
torch.manual_seed(0)
images = torch.randint(0, 256, (190, 3, 8, 8), dtype=torch.uint8)
split = Split("test", images, torch.arange(190) % 5)
data = Dataset("noise", split, split, None, tuple("abcde"), (0.5,) * 3, (0.25,) * 3)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(288, 5))
net[0].register_forward_hook(lambda *_: time.sleep(float(sys.argv[2])))
print("begun", flush=True)
extract_features(net, data, "test", sys.argv[1], layers=["1", "2"], reduction="full", dtype="float32",
                 view="standard", batch_size=8, shard_bytes=30_000)
"""


def start(folder, delay):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), str(delay)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"begun\n"
    return process


@pytest.mark.slow
def test_killed_three_times(tmp_path):
    chance = random.Random(0)
    killed = tmp_path / "killed.kdcache"
    shards = 0
    for _ in range(3):
        process = start(killed, 0.04)
        while len(list(killed.glob("shard-*.h5"))) <= shards:  # it has come farther than the one before
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it was still at work
        shards = len(list(killed.glob("shard-*.h5")))
        assert not FeatureCache(killed).complete
    assert 3 <= shards < 12
    assert start(killed, 0).wait() == 0
    assert start(tmp_path / "whole.kdcache", 0).wait() == 0

    assert verify(killed) == []
    assert not list(killed.glob(".*.tmp"))
    a, b = FeatureCache(killed), FeatureCache(tmp_path / "whole.kdcache")
    assert a.key == b.key
    assert a.index.tolist() == list(range(190))
    for name in ("logits", "labels", "index", "1", "2"):
        one, other = (next(cache.blocks([name], 190))[name] for cache in (a, b))
        np.testing.assert_array_equal(one, other)
