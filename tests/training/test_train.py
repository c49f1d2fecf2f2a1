"""The loop: what it learns, what it writes, and what it refuses."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kdscope
from kdscope.config import Config, load_config
from kdscope.errors import KDScopeError
from kdscope.methods import Objective
from kdscope.run import Run

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


@pytest.mark.slow
def test_two_ranks_train_and_extract_what_one_does(teacher, tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun = [sys.executable, *launch, "-m", "kdscope"]
    run = tmp_path / "run"
    options = ["--data", "digits:8", "--model", "resnet8", "--batch-size", "128", "--epochs", "2", "--method", "kd+at"]
    options += ["--teacher", str(teacher.path), "--out", str(run)]
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


def test_a_run_moved_with_its_teacher_finds_it(tmp_path):
    teacher = kdscope.train(tmp_path / "runs" / "teachers" / "t", **QUICK | {"epochs": 1})
    kdscope.train(tmp_path / "runs" / "s", teachers=[teacher], method="kd", **QUICK | {"epochs": 1})
    (tmp_path / "runs").rename(tmp_path / "moved")
    run = Run(tmp_path / "moved" / "s")
    assert run.config.teachers[0].run == tmp_path / "moved" / "teachers" / "t"
    assert len(run.teachers()) == 1


def test_a_date_is_a_seed(tmp_path):
    assert kdscope.train(tmp_path / "run", **QUICK | {"epochs": 1}, seed=20261231).finished


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


def test_method_as_a_yaml_list(teacher, tmp_path):
    (tmp_path / "c.yaml").write_text(
        "method:\n  - {term: kd, weight: 0.5, temperature: 2}\n  - {term: cross-entropy}\n"
    )
    run = kdscope.train(tmp_path / "run", config=tmp_path / "c.yaml", teachers=[teacher], **QUICK)
    assert run.config.method == "custom"
    assert run.config.terms["kd"] | {"temperature": 2, "weight": 0.5} == run.config.terms["kd"]
    row = run.metrics[0]
    assert row["loss"] == pytest.approx(row["cross-entropy"] + 0.5 * row["kd"])


def test_defaults_are_a_config():
    assert load_config() == Config()
    assert issubclass(Objective, torch.nn.Module)


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
