"""A run that ends before its time: stopped, killed, out of disk, NaN; and that it goes on bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import kdscope
from kdscope import api
from kdscope.config import load_config
from kdscope.errors import KDScopeError
from kdscope.methods import METHODS, Method
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.term import Term
from kdscope.run import Run
from kdscope.training.loop import prepare
from kdscope.training.stop import Interrupted, StopSignal

QUICK = {"data": "digits:8", "model": "resnet8", "batch_size": 256, "epochs": 2}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return kdscope.train(tmp_path_factory.mktemp("runs") / "teacher", **QUICK | {"model": "resnet14"})


COMMAND = [sys.executable, "-m", "kdscope", "train"]
OPTIONS = ["--data", "digits:8", "--model", "resnet8", "--batch-size", "128", "--epochs", "4", "--method", "kd+at"]


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.weights)


@pytest.mark.slow
def test_killed_three_times_and_resumed_is_bit_identical(teacher, tmp_path):
    options = [*OPTIONS, "--teacher", str(teacher.path), "--set", "checkpoint_every=3"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*COMMAND, *options, "--out", whole], check=True, env=env, capture_output=True)

    moments, kills = random.Random(20), 0
    command = [*COMMAND, *options, "--out", killed]
    for _ in range(3):
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        checkpoint = killed / "checkpoints" / "last.safetensors"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.15))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        command = [*COMMAND, "--resume", killed]
    subprocess.run([*COMMAND, "--resume", killed], check=True, env=env, capture_output=True)

    assert kills == 3
    expected, got = weights_of(Run(whole)), weights_of(Run(killed))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    timeless = [{k: v for k, v in row.items() if k != "seconds"} for row in Run(whole).metrics]
    assert timeless == [{k: v for k, v in row.items() if k != "seconds"} for row in Run(killed).metrics]
    assert not list(killed.rglob("*.tmp")) or all(p.name.startswith(".") for p in killed.rglob("*.tmp"))


def test_ctrl_c_leaves_a_run_that_can_be_resumed(tmp_path, monkeypatch):
    whole = kdscope.train(tmp_path / "whole", **QUICK)
    asked = iter([False, False, True])
    monkeypatch.setattr(StopSignal, "agreed", lambda self, fabric, step: next(asked))
    with pytest.raises(Interrupted, match=r"stopped in epoch 1 after 3 steps; go on with: kdscope train --resume"):
        kdscope.train(tmp_path / "run", **QUICK)
    monkeypatch.undo()
    with pytest.raises(KDScopeError, match="is not finished; continue it with"):
        Run(tmp_path / "run").model()
    run = api.resume(tmp_path / "run")
    assert run.summary["weights_hash"] == whole.summary["weights_hash"]
    assert [r["train_accuracy"] for r in run.metrics] == [r["train_accuracy"] for r in whole.metrics]
    assert api.resume(tmp_path / "run").summary == run.summary  # a finished run is returned as it is


def test_sigint_reaches_the_loop(tmp_path):
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_dropout_resumes_too(tmp_path, monkeypatch):
    (tmp_path / "with_dropout.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Dropout(0.5), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = QUICK | {"model": "with_dropout:net", "optim": {"name": "adamw", "lr": 0.001}}
    whole = kdscope.train(tmp_path / "whole", **options)
    asked = iter([False, False, True])
    monkeypatch.setattr(StopSignal, "agreed", lambda self, fabric, step: next(asked))
    with pytest.raises(Interrupted):
        kdscope.train(tmp_path / "run", **options)
    monkeypatch.setattr(StopSignal, "agreed", lambda self, fabric, step: False)
    assert api.resume(tmp_path / "run").summary["weights_hash"] == whole.summary["weights_hash"]


def test_a_begun_run_needs_no_start_weights(teacher, tmp_path, monkeypatch):
    start = tmp_path / "start.safetensors"
    start.write_bytes(teacher.weights.read_bytes())
    options = QUICK | {"model": {"name": "resnet14", "checkpoint": str(start)}}
    whole = kdscope.train(tmp_path / "whole", **options)
    monkeypatch.setattr(StopSignal, "agreed", lambda self, fabric, step: step == 3)
    with pytest.raises(Interrupted):
        kdscope.train(tmp_path / "run", **options)
    monkeypatch.undo()
    start.unlink()
    assert api.resume(tmp_path / "run").summary["weights_hash"] == whole.summary["weights_hash"]


def test_a_long_epoch_is_saved_on_the_way(tmp_path, monkeypatch):
    from kdscope.training import loop

    saved = []
    save = loop.Session.save
    monkeypatch.setattr(loop.Session, "save", lambda self: (saved.append(self.progress.step), save(self)))
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    kdscope.train(tmp_path / "run", **QUICK | {"epochs": 1})
    assert saved == [1, 2, 3, 4, 5, 6, 0]


class Poison(Term):
    """A term that becomes NaN at its ninth step."""

    name = "test-poison"
    reads = "labels"

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, student, teacher, batch):
        self.steps += 1
        return student.logits.float().mean() * torch.where(self.steps > 8, float("nan"), 1.0)


def test_a_term_that_turns_nan_stops_the_run_and_the_last_good_checkpoint_stays(tmp_path, monkeypatch):
    poisoned = Method({CrossEntropy: 1.0, Poison: 1.0}, "poisoned", "a test")
    monkeypatch.setitem(METHODS._entries, "test-poison", poisoned)
    steps = 6  # in an epoch, so the ninth is the third of epoch 2
    message = (
        r"term 'test-poison' became NaN or infinite in epoch 2, step 3; the last good checkpoint is kept in .*/run"
    )
    with pytest.raises(KDScopeError, match=message):
        kdscope.train(tmp_path / "run", method="test-poison", **QUICK)
    assert Run(tmp_path / "run").metrics[0]["step"] == steps
    kept = load_file(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    assert len(Run(tmp_path / "run").metrics) == 1
    assert not Run(tmp_path / "run").finished


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    import errno

    from kdscope.training import checkpoint

    calls, save_file = iter(range(100)), checkpoint.save_file

    def filling(*args):
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(*args)

    monkeypatch.setattr(checkpoint, "save_file", filling)
    with pytest.raises(KDScopeError, match=r"the disk is full: .*last.safetensors was not written"):
        kdscope.train(tmp_path / "run", **QUICK)
    monkeypatch.undo()
    assert not list((tmp_path / "run").rglob(".*.tmp"))
    assert api.resume(tmp_path / "run").finished


def test_what_a_run_killed_at_its_birth_left_is_no_hindrance(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in (".lock", "environment.json", ".config.yaml.1234.tmp", ".environment.json.9.tmp"):
        (tmp_path / name).touch()
    Run.check_free(tmp_path)


def test_a_run_that_another_process_holds_is_refused(tmp_path):
    config, _, _ = prepare(load_config(overrides={"data": {"name": "digits:8"}, "model": {"name": "resnet8"}}))
    run = Run.create(tmp_path / "run", config)
    with run.locked(), pytest.raises(KDScopeError, match="is held by another process"):
        api.resume(run.path)


def test_a_damaged_run_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(StopSignal, "agreed", lambda self, fabric, step: True)
    with pytest.raises(Interrupted):
        kdscope.train(tmp_path / "run", **QUICK)
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1000])
    with pytest.raises(KDScopeError, match="cannot be read, or belongs to another run"):
        api.resume(tmp_path / "run")


def test_a_teacher_that_changed_is_noticed(tmp_path, monkeypatch, teacher):
    import shutil

    copy = tmp_path / "teacher"
    shutil.copytree(teacher.path, copy)
    monkeypatch.setattr(StopSignal, "agreed", lambda self, fabric, step: True)
    with pytest.raises(Interrupted):
        kdscope.train(tmp_path / "run", teachers=[copy], method="kd", **QUICK)
    from kdscope.models import save_weights

    model = teacher.model()
    model.layer1[0].conv1.weight.data[0, 0, 0, 0] += 1
    save_weights(copy / "checkpoints" / "model.safetensors", model)
    with pytest.raises(KDScopeError, match="has other weights than when this run began"):
        api.resume(tmp_path / "run")
