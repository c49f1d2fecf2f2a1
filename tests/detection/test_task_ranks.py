"""Two processes that train a detector together, under torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

import kdscope
from kdscope.run import Run
from kdscope.sources import of_run

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
SIZE = {"min_size": 64}
QUICK = {"data": "scenes:16:128:7", "batch_size": 8, "epochs": 2, "preflight": "off", "eval_every": 1}
FCOS = {"name": "fcos_resnet10_w8", "options": SIZE}
TWO_STAGE = {"name": "fasterrcnn_resnet10_w8", "options": SIZE}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(one process's runs, two ranks' runs, what the ranks held in the end)."""
    folder = tmp_path_factory.mktemp("ranks")
    teachers = {
        name: str(kdscope.train(folder / name, **QUICK, model=model).path)
        for name, model in (("own", "own_detector:teacher"), ("fcos", FCOS), ("two-stage", TWO_STAGE))
    }
    jobs = {
        # Adam would make a step of the rounding of a gradient that is nearly zero.
        "own": {"model": "own_detector:student", "method": "mimicry", "teachers": [teachers["own"]]}
        | {"optim": {"name": "sgd", "lr": 0.05}},
        "fgd": {"model": FCOS, "method": "fgd-normalised+kd", "teachers": [teachers["fcos"]]},
        "chen": {"model": TWO_STAGE, "method": "chen2017", "teachers": [teachers["two-stage"]]}
        | {"probe_every": 1, "probe_size": 3},
    }
    jobs = {name: QUICK | options for name, options in jobs.items()}
    (folder / "jobs.json").write_text(json.dumps(jobs))
    one = kdscope.train(folder / "one", **jobs["own"])
    script = HERE.parent / "training" / "two_ranks.py"
    done = subprocess.run(
        [*TORCHRUN, script, folder / "two", folder / "jobs.json"], env=ENV, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[:3000]
    return one, folder / "two", json.loads((folder / "two" / "held.json").read_text())


@pytest.mark.parametrize("name", ["own", "fgd", "chen"])
def test_both_ranks_hold_the_same_in_the_end(trained, name):
    _, two, held = trained
    assert held[name][0] == held[name][1]
    assert Run(two / name).finished


def test_two_ranks_do_what_one_process_does(trained):
    one, two, _ = trained
    ours, theirs = load_file(one.weights), load_file(Run(two / "own").weights)
    for key, value in ours.items():
        assert (value - theirs[key]).abs().max() < 1e-4, key
    for a, b in zip(one.metrics, Run(two / "own").metrics, strict=True):
        for key in set(a) - {"seconds"}:
            assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-4), key


def test_the_ranks_score_all_images_between_them(trained):
    from kdscope.detection.evaluate import detect, scored
    from kdscope.detection.task import HeldOut

    run = Run(trained[1] / "fgd")
    dataset = run.dataset()
    found = detect(run.model(), HeldOut(dataset, dataset.test, batch_size=4))[1]
    assert scored(found, dataset.test, 3)["ap"] == pytest.approx(run.summary["test_ap"], abs=1e-6)


def test_the_first_rank_looks_at_the_probe_set(trained):
    run = Run(trained[1] / "chen")
    subject = of_run(run)
    for kind in ("features", "pair"):
        assert subject.probe_epochs("test", kind) == subject.probe_epochs("train", kind) == [0, 1, 2]
        assert subject.probe(2, "test", kind).identity["weights"] == run.summary["weights_hash"]


def test_two_ranks_that_are_told_to_stop_go_on_bit_for_bit(trained, tmp_path):
    _, two, _ = trained
    command, run = [*TORCHRUN, "-m", "kdscope", "train"], tmp_path / "run"
    config = ["--config", two / "chen" / "config.yaml", "--epochs", "12", "--set", "eval_every=0", "--out"]
    subprocess.run([*command, *config, tmp_path / "whole"], env=ENV, check=True, capture_output=True, timeout=200)
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, *config, run], env=ENV, **pipes)
    while process.poll() is None and not (run / "metrics.csv").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert f"go on with: kdscope train --resume {run}" in said
    assert 1 <= len(Run(run).metrics) < 12
    subprocess.run([*command, "--resume", run], env=ENV, check=True, capture_output=True, timeout=200)
    expected, got = (load_file(Run(path).weights) for path in (tmp_path / "whole", run))
    assert [key for key in expected if not expected[key].equal(got[key])] == []
    rows = [Run(path).metrics for path in (tmp_path / "whole", run)]
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in each] for each in rows]
    assert timeless[0] == timeless[1]
