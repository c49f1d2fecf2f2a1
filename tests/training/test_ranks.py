"""Two processes that train together, under torchrun: every kind of training, and stopped and resumed."""

import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdscope.run import Run
from kdscope.training import session

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENV = os.environ | {"OMP_NUM_THREADS": "1"}

COMMON = {"data": "test-brightness", "model": "two_ranks:student", "batch_size": 48, "epochs": 2, "optim": {"lr": 0.1}}
METHODS = {
    "ft": {},  # a phase that learns the term
    "ab": {"terms": {"ab": {"layers": "stages:0"}}},  # a phase that learns the student; equal widths: no batch norm
    "kd-svd": {"terms": {"kd-svd": {"variant": "repdistiller", "layers": ["stage1", "stage2"]}}},  # clipped gradients
    "crd": {"terms": {"crd": {"negatives": 8}}},  # memories
    "takd": {"assistants": ["two_ranks:student"]},  # a chain
    "dml": {"teachers": []},  # a peer
    "h-at": {},  # channels chosen by the first batch
}
LONG = {"data": "digits:8", "model": "resnet8", "batch_size": 128, "epochs": 10}  # an epoch is of 11 steps


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(one process's runs, two ranks' runs, what the ranks held in the end), by method."""
    folder = tmp_path_factory.mktemp("ranks")
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(HERE)
    here = importlib.import_module("two_ranks")
    here.train_all(folder, {"teacher": COMMON | {"model": "two_ranks:teacher"}})
    teachers = [str(folder / "teacher")]
    jobs = {name: COMMON | {"method": name, "teachers": teachers} | options for name, options in METHODS.items()}
    (folder / "jobs.json").write_text(json.dumps(jobs | {"whole": LONG}))
    here.train_all(folder / "one", jobs)
    command = [*TORCHRUN, HERE / "two_ranks.py", folder / "two", folder / "jobs.json"]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[:3000]
    yield folder / "one", folder / "two", json.loads((folder / "two" / "held.json").read_text())
    patch.undo()


def rows(run, name):
    path = run / name
    if not path.exists():
        return []
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_do_what_one_process_does(trained, method):
    """Every loss here is a mean over images, so that the mean over two ranks' halves is that of one process."""
    one, two, held = trained
    assert len(held[method]) == 2
    assert held[method][0] == held[method][1]  # weights, adapters, memories, choices
    for name in ("phases.csv", "metrics.csv"):
        ours, theirs = rows(one / method, name), rows(two / method, name)
        assert len(ours) == len(theirs) >= (name == "metrics.csv")
        for a, b in zip(ours, theirs, strict=True):
            for key in [key for key in a if key not in ("seconds", "phase")]:
                assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-3, abs=1e-5), (name, key)
    first, again = (rows(path / method, "metrics.csv")[0] for path in (one, two))
    assert float(first["loss"]) == pytest.approx(float(again["loss"]), rel=1e-5)
    expected, got = (load_file(Run(path / method).weights) for path in (one, two))
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_what_is_tested_is_there(trained):
    _, two, _ = trained
    assert {row["phase"] for m in ("ft", "ab") for row in rows(two / m, "phases.csv")} == {
        "ft paraphraser", "ab boundaries"
    }  # fmt: skip
    assert "gradient_ratio" in rows(two / "kd-svd", "metrics.csv")[0]
    assert Run(two / "takd" / "chain" / "1-two_ranks-student").finished
    assert (two / "dml" / "checkpoints" / "peer-1.safetensors").is_file()


def test_each_rank_takes_its_own_row_of_the_saved_generators():
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(session._get_rng())
    session._set_rng(torch.stack(states)[1])  # a view that begins in the middle of its memory
    assert torch.equal(session._get_rng(), states[1])


@pytest.mark.slow
def test_two_ranks_that_are_told_to_stop_go_on_bit_for_bit(trained, tmp_path):
    _, two, _ = trained
    options = [word for key, value in LONG.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    command, run = [*TORCHRUN, "-m", "kdscope", "train"], tmp_path / "run"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, *options, "--out", run], env=ENV, **pipes)
    while process.poll() is None and not (run / "metrics.csv").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert "stopped in epoch" in said
    assert f"go on with: kdscope train --resume {run}" in said
    assert not Run(run).finished
    assert 1 <= len(Run(run).metrics) < LONG["epochs"]
    subprocess.run([*command, "--resume", run], env=ENV, check=True, capture_output=True, timeout=120)
    expected, got = load_file(Run(two / "whole").weights), load_file(Run(run).weights)
    assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    timeless = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in Run(r).metrics] for r in (two / "whole", run)
    ]
    assert timeless[0] == timeless[1]
