"""A study that is killed goes on where it stopped."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml
from small_study import PAIR, SMALL

from kdscope.run import Run

EPOCHS, RUNS = 4, 5


def kept(root):
    """Of each finished run: when its weights were written, and all its files that say what was learned."""
    found = {}
    for summary in (root / "runs").glob("*/summary.json"):
        weights = summary.parent / "checkpoints" / "model.safetensors"
        texts = tuple((summary.parent / name).read_text() for name in ("config.yaml", "metrics.csv", "summary.json"))
        found[summary.parent.name] = (weights.stat().st_mtime_ns, weights.read_bytes(), *texts)
    return found


def epochs_of(root):
    """How many epochs all runs of a root have behind them."""
    return sum(len(path.read_text().splitlines()) - 1 for path in (root / "runs").glob("*/metrics.csv"))


def trained(root):
    """Name, hash of the weights, accuracy and epochs of each run."""
    for path in sorted((root / "runs").iterdir()):
        run = Run(path)
        yield run.name, run.summary["weights_hash"], run.summary["test_accuracy"], run.metrics


def numbers(root):
    """What the runs and the analyses of a root say, without how long they took."""
    for *said, rows in trained(root):
        yield *said, [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    for path in sorted(root.glob("killed/*/*.csv")):
        yield path.name, path.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_three_moments_it_goes_on_repeats_nothing_and_ends_with_the_same_numbers(tmp_path):
    """SIGKILL to the whole group of processes, three times, at random; what was finished before is not touched."""
    file = tmp_path / "killed.yaml"
    runs = {"t": {"settings": {"model": "resnet14"}, "seeds": 1}, "s": PAIR["s"] | {"seeds": 2}, "alone": {"seeds": 2}}
    settings = SMALL | {"epochs": EPOCHS, "batch_size": 64}
    questions = [{"name": "fidelity", "options": {"splits": "test"}}]
    file.write_text(yaml.safe_dump({"title": "t", "settings": settings, "runs": runs, "analyses": questions}))

    def command(root):
        return [sys.executable, "-m", "kdscope", "study", "run", str(file), "--root", str(root), "--jobs", "2"]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True, timeout=400)
    epoch = sum(row[-1]["seconds"] for *_, row in trained(tmp_path / "whole")) / (RUNS * EPOCHS)
    chance = random.Random(20)
    root, seen = tmp_path / "killed", {}
    # Within the epoch after a random one, with enough of them left that the study does not end before.
    for goal in sorted(chance.sample(range(1, RUNS * EPOCHS - 4), 3)):
        process = subprocess.Popen(
            command(root), start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while epochs_of(root) < goal and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, epoch))
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        now = kept(root)
        assert {name: now[name] for name in seen} == seen
        seen = now
    assert 0 < len(seen) < RUNS
    last = subprocess.run(command(root), capture_output=True, text=True, timeout=400)
    assert last.returncode == 0, last.stderr
    assert f"{RUNS} of {RUNS} runs are done" in last.stdout
    assert f"{len(seen)} runs are there, {RUNS - len(seen)} to train" in last.stderr
    now = kept(root)
    assert {name: now[name] for name in seen} == seen
    whole = [*numbers(tmp_path / "whole")]
    assert whole[-1][0] == "fidelity.csv"
    assert [*numbers(root)] == whole
