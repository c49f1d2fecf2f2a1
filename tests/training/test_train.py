"""The loop: what it learns, what it writes, what it refuses, and that it goes on bit for bit."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kdscope
from kdscope import api
from kdscope.config import Config, load_config
from kdscope.errors import KDScopeError
from kdscope.methods import METHODS, Method, Objective
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.term import Term
from kdscope.run import Run
from kdscope.training.loop import prepare
from kdscope.training.stop import Interrupted, StopSignal

QUICK = {"data": "digits:8", "model": "resnet8", "batch_size": 256, "epochs": 2}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return kdscope.train(tmp_path_factory.mktemp("runs") / "teacher", **QUICK | {"model": "resnet14"})


@pytest.fixture(scope="module")
def student(tmp_path_factory, teacher):
    out = tmp_path_factory.mktemp("runs") / "student"
    return kdscope.train(out, teachers=[teacher], method="kd+at", probe_every=1, probe_size=40, **QUICK)


def test_run_directory(student, teacher):
    assert student.finished
    assert sorted(p.name for p in student.path.iterdir() if p.name != ".lock") == [
        *("checkpoints", "config.yaml", "environment.json", "features", "metrics.csv", "summary.json")
    ]
    environment = json.loads((student.path / "environment.json").read_text())
    assert torch.__version__.startswith(environment["packages"]["torch"])
    with (student.path / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    row = student.metrics[-1]
    total = 0.1 * row["cross-entropy"] + 0.9 * row["kd"] + 1000 * row["at"]
    assert row["loss"] == pytest.approx(total, rel=1e-6)
    assert student.summary["test_accuracy"] == row["test_accuracy"]
    assert student.summary["rule"] == "last epoch"
    assert student.summary["parameters"] == sum(p.numel() for p in student.model().parameters())
    assert student.config.teachers[0].weights_hash == teacher.summary["weights_hash"]


def test_accuracy_of_the_summary_is_that_of_the_saved_weights(student):
    dataset, model = student.dataset(), student.model()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (dataset.mean, dataset.std))
    images = (dataset.test.images.float() / 255 - mean) / std
    with torch.no_grad():
        right = (model(images).argmax(1) == dataset.test.labels).double().mean().item()
    assert right == pytest.approx(student.summary["test_accuracy"], abs=1e-9)


def test_config_alone_repeats_the_run(student, tmp_path):
    again = kdscope.train(tmp_path / "again", config=student.path / "config.yaml")
    assert again.summary["weights_hash"] == student.summary["weights_hash"]


def test_another_seed_is_another_network(teacher, tmp_path):
    other = kdscope.train(tmp_path / "other", **QUICK | {"model": "resnet14"}, seed=1)
    assert other.summary["weights_hash"] != teacher.summary["weights_hash"]


def test_training_learns_something(tmp_path):
    run = kdscope.train(tmp_path / "run", **QUICK | {"epochs": 8, "augment": "none"}, optim={"lr": 0.2})
    assert run.metrics[-1]["train_accuracy"] > 0.9
    assert run.metrics[-1]["loss"] < 0.5 * run.metrics[0]["loss"]


def test_probes_are_of_fixed_images(student):
    caches = sorted(p.name for p in (student.path / "features").iterdir())
    assert caches == [f"probe-epoch-{e:04d}-{s}.kdcache" for e in range(3) for s in ("test", "train")]
    cache = kdscope.FeatureCache(student.path / "features" / caches[-2])
    assert len(cache) == 40
    assert cache.index.tolist() == [k * len(student.dataset().test) // 40 for k in range(40)]


def test_a_validation_part_chooses_the_epoch(tmp_path):
    run = kdscope.train(tmp_path / "run", **QUICK | {"epochs": 3}, validation=0.2)
    scores = [row["validation_accuracy"] for row in run.metrics]
    best = scores.index(max(scores)) + 1
    assert run.summary["epoch"] == best
    assert run.summary["rule"] == "best on validation"
    assert run.summary["test_accuracy"] == run.metrics[best - 1]["test_accuracy"]
    assert len(run.dataset().train) + len(run.dataset().validation) == len(kdscope.run.data.load("digits").train)


def test_a_streamed_run_equals_a_resident_one(teacher, tmp_path):
    options = QUICK | {"model": "resnet14"}
    run = kdscope.train(tmp_path / "run", **options, assignments=["data.memory_budget=1KiB", "data.workers=0"])
    assert run.summary["weights_hash"] == teacher.summary["weights_hash"]


# Stopped and resumed

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


@pytest.mark.slow
def test_two_ranks_train_and_extract_what_one_does(teacher, tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun = [sys.executable, *launch, "-m", "kdscope"]
    run = tmp_path / "run"
    options = [*OPTIONS[:-4], "--epochs", "2", "--method", "kd+at", "--teacher", str(teacher.path), "--out", str(run)]
    subprocess.run([*torchrun, "train", *options], check=True, env=env, capture_output=True, timeout=240)
    assert Run(run).finished
    two = tmp_path / "two.kdcache"
    extract = ["extract", str(run), "--split", "train", "--batch-size", "64", "--out", str(two)]
    subprocess.run([*torchrun, *extract], check=True, env=env, capture_output=True, timeout=240)
    assert len({p.name.split("-")[1] for p in two.glob("shard-*.h5")}) == 2  # a shard of each rank

    both = kdscope.FeatureCache(two)
    one = kdscope.extract(Run(run), split="train", out=tmp_path / "one", batch_size=64)
    assert both.index.tolist() == one.index.tolist() == list(range(len(Run(run).dataset().train)))
    assert (both.labels == one.labels).all()
    assert abs(both.logits - one.logits).max() < 1e-4
    for layer in one.layers:
        assert abs(both.feature(layer)[:].astype(float) - one.feature(layer)[:].astype(float)).max() < 1e-2

    # One global batch is cut in two, so the first step sees the same images: the losses of epoch 1 agree closely.
    alone = kdscope.train(tmp_path / "alone", config=run / "config.yaml")
    assert alone.metrics[0]["loss"] == pytest.approx(Run(run).metrics[0]["loss"], rel=0.2)


# What is refused


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "kd"}, "needs a teacher"),
        ({"method": "kdd"}, "unknown method 'kdd'; nearest: kd"),
        ({"model": "resnet21"}, "unknown model 'resnet21'; nearest: resnet"),
        ({"data": "digit"}, "unknown dataset 'digit'; nearest: digits"),
        ({"augment": "storng"}, "unknown augmentation 'storng'; nearest: strong"),
        ({"epochs": 0}, "epochs: Input should be greater than or equal to 1"),
        ({"optim": {"lrr": 1}}, "unknown setting 'lrr' .*; nearest: lr"),
        ({"teachers": ["nowhere"]}, "teacher 'nowhere' is not a run directory"),
        ({"precision": "16", "device": "cpu"}, "precision 16 needs a CUDA device"),
        ({"devices": 3, "device": "cpu"}, "a batch of 256 images cannot be shared equally by 3 devices; try .* 255"),
        ({"terms": {"cross-entropy": {"label_smoothing": "abc"}}}, r"label_smoothing must be in \[0, 1\), not 'abc'"),
        ({"assignments": ["epochs"]}, "--set takes key.path=value"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
    ],
)
def test_refused_and_nothing_written(options, message, tmp_path):
    with pytest.raises(KDScopeError, match=message):
        kdscope.train(tmp_path / "run", **QUICK | options)
    assert not (tmp_path / "run").exists()


def test_a_teacher_without_a_method_is_refused(teacher, tmp_path):
    with pytest.raises(KDScopeError, match="a teacher is given but no method; add --method kd"):
        kdscope.train(tmp_path / "run", teachers=[teacher], **QUICK)


def test_a_teacher_of_other_classes_is_refused(teacher, tmp_path):
    with pytest.raises(KDScopeError, match="knows 10 classes of 'digits:8', but 'shapes"):
        kdscope.train(tmp_path / "run", teachers=[teacher], method="kd", **QUICK | {"data": "shapes:16:4"})
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_taken_is_refused(teacher, tmp_path):
    with pytest.raises(KDScopeError, match="already holds a run; continue it with `kdscope train --resume"):
        kdscope.train(teacher.path, **QUICK)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(KDScopeError, match="exists and is not an empty directory"):
        kdscope.train(tmp_path, **QUICK)


def test_a_taken_directory_is_refused_before_the_data_are_read(teacher):
    with pytest.raises(KDScopeError, match="already holds a run"):
        kdscope.train(teacher.path, data="folder:nowhere")


def test_what_a_run_killed_at_its_birth_left_is_no_hindrance(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in (".lock", "environment.json", ".config.yaml.1234.tmp", ".environment.json.9.tmp"):
        (tmp_path / name).touch()
    Run.check_free(tmp_path)


def test_a_run_moved_with_its_teacher_finds_it(tmp_path):
    teacher = kdscope.train(tmp_path / "runs" / "teachers" / "t", **QUICK | {"epochs": 1})
    kdscope.train(tmp_path / "runs" / "s", teachers=[teacher], method="kd", **QUICK | {"epochs": 1})
    (tmp_path / "runs").rename(tmp_path / "moved")
    run = Run(tmp_path / "moved" / "s")
    assert run.config.teachers[0].run == tmp_path / "moved" / "teachers" / "t"
    assert len(run.teachers()) == 1


def test_a_date_is_a_seed(tmp_path):
    assert kdscope.train(tmp_path / "run", **QUICK | {"epochs": 1}, seed=20261231).finished


def test_a_run_that_another_process_holds_is_refused(tmp_path):
    config, _, _ = prepare(load_config(overrides={"data": {"name": "digits:8"}, "model": {"name": "resnet8"}}))
    run = Run.create(tmp_path / "run", config)
    with run.locked(), pytest.raises(KDScopeError, match="is held by another process"):
        api.resume(run.path)


@pytest.mark.parametrize("damage", ["truncated", "another architecture", "pickle"])
def test_a_bad_checkpoint_is_refused(damage, teacher, student, tmp_path):
    path = tmp_path / ("weights.pt" if damage == "pickle" else "weights.safetensors")
    if damage == "truncated":
        path.write_bytes(teacher.weights.read_bytes()[:1000])
    elif damage == "pickle":
        import pickle

        path.write_bytes(pickle.dumps({"weights": Path("/")}))
    else:
        path.write_bytes(student.weights.read_bytes())
    with pytest.raises(KDScopeError, match=path.name) as caught:
        kdscope.train(tmp_path / "run", teachers=[f"resnet14@{path}"], method="kd", **QUICK)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


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


def test_method_as_a_yaml_list(teacher, tmp_path):
    (tmp_path / "c.yaml").write_text(
        "method:\n  - {term: kd, weight: 0.5, temperature: 2}\n  - {term: cross-entropy}\n"
    )
    run = kdscope.train(tmp_path / "run", config=tmp_path / "c.yaml", teachers=[teacher], **QUICK)
    assert run.config.method == "custom"
    assert run.config.terms["kd"] == {"temperature": 2, "weight": 0.5}
    row = run.metrics[0]
    assert row["loss"] == pytest.approx(row["cross-entropy"] + 0.5 * row["kd"])


def test_defaults_are_a_config():
    assert load_config() == Config()
    assert issubclass(Objective, torch.nn.Module)


def test_a_long_epoch_is_saved_on_the_way(tmp_path, monkeypatch):
    from kdscope.training import loop

    saved = []
    save = loop.Session.save
    monkeypatch.setattr(loop.Session, "save", lambda self: (saved.append(self.progress.step), save(self)))
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    kdscope.train(tmp_path / "run", **QUICK | {"epochs": 1})
    assert saved == [1, 2, 3, 4, 5, 6, 0]


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


def test_checkpoints_can_be_read_by_others(teacher):
    mask = os.umask(0)
    os.umask(mask)
    for path in (teacher.path / "checkpoints").iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.slow
def test_compiling_changes_nothing_but_rounding(tmp_path):
    plain = kdscope.train(tmp_path / "plain", **QUICK | {"epochs": 1})
    compiled = kdscope.train(tmp_path / "compiled", compile=True, **QUICK | {"epochs": 1})
    assert compiled.metrics[0]["loss"] == pytest.approx(plain.metrics[0]["loss"], rel=1e-2)


def test_tensorboard_has_the_curves(tmp_path):
    event = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = kdscope.train(tmp_path / "run", tensorboard=True, **QUICK)
    events = event.EventAccumulator(str(run.path / "tensorboard")).Reload()
    values = [scalar.value for scalar in events.Scalars("test_accuracy")]
    assert values == pytest.approx([row["test_accuracy"] for row in run.metrics], abs=1e-6)
