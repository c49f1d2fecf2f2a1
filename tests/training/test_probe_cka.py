"""CKA while a run trains: the numbers of the whole Gram matrices, no features kept, and the same after a kill."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch

import kdscope
from kdscope import api
from kdscope.config import load_config
from kdscope.data import Batches, load
from kdscope.errors import KDScopeError
from kdscope.features.hooks import Capture
from kdscope.figures import draw
from kdscope.measures.cka import linear_cka
from kdscope.measures.hsic import unbiased_hsic
from kdscope.models import build
from kdscope.training.probe_cka import stream_cka
from kdscope.training.stop import Interrupted, StopSignal

QUICK = {"data": "digits:8", "model": "resnet8", "batch_size": 256, "epochs": 2, "device": "cpu"}
DEEP = ["layer1", "layer2", "layer3"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return kdscope.train(tmp_path_factory.mktemp("runs") / "teacher", **QUICK | {"epochs": 1})


@pytest.fixture(scope="module")
def student(tmp_path_factory, teacher):
    out = tmp_path_factory.mktemp("runs") / "student"
    return kdscope.train(out, teachers=[teacher], method="kd", probe="cache+cka", probe_size=60, **QUICK)


def rows_of(run):
    with (run.path / "features" / "cka.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_it_is_the_cka_of_the_whole_gram_matrices():
    torch.manual_seed(0)
    digits = load("digits:8")
    a, b = build("resnet8", num_classes=10, image_size=8).eval(), build("resnet14", num_classes=10, image_size=8)
    part = digits.test.subset(torch.arange(70))
    found = stream_cka(a, b.train(), Batches(part, digits, batch_size=32)).compute()
    assert a.training is False
    assert b.training is True
    assert set(found) == {(one, other) for one in DEEP for other in DEEP}  # the penultimate vector is layer3, pooled
    image = Batches(part, digits, batch_size=70).batch(torch.arange(70)).image
    sides = []
    for net in (a, b.eval()):
        with torch.no_grad(), Capture(net, DEEP) as capture:
            sides.append({k: v.mean((2, 3)).double().numpy() for k, v in capture(image).maps.items()})
    for (one, other), result in found.items():
        x, y = (side[name] @ side[name].T for side, name in zip(sides, (one, other), strict=True))
        expected = unbiased_hsic(x, y) / np.sqrt(unbiased_hsic(x, x) * unbiased_hsic(y, y))
        assert result.value == pytest.approx(expected, abs=1e-5)
        assert result.n == 70
        assert result.ci_low < result.value < result.ci_high


def test_the_table_agrees_with_the_caches_of_the_same_probes(student, teacher):
    rows = rows_of(student)
    assert len(rows) == 3 * 2 * 9  # epochs, splits, pairs of layers
    clean = kdscope.extract(teacher, split="test", device="cpu")
    for epoch in range(3):
        probe = kdscope.FeatureCache(student.path / "features" / f"probe-epoch-{epoch:04d}-test.kdcache")
        where = np.searchsorted(clean.index, probe.index)
        for row in rows:
            if (row["epoch"], row["split"]) == (str(epoch), "test"):
                x, y = clean.feature(row["layer_a"])[:][where], probe.feature(row["layer_b"])[:]
                assert float(row["value"]) == pytest.approx(linear_cka(x, y), abs=2e-3)  # caches are float16
                assert (row["n"], row["a"], row["b"]) == ("60", "teacher", "student")


def test_without_caches_nothing_but_the_table_is_kept_and_training_is_the_same(student, teacher, tmp_path):
    run = kdscope.train(tmp_path / "student", teachers=[teacher], method="kd", probe="cka", probe_size=60, **QUICK)
    assert [path.name for path in (run.path / "features").iterdir()] == ["cka.csv"]
    assert rows_of(run) == rows_of(student)
    assert run.summary["weights_hash"] == student.summary["weights_hash"]
    plain = kdscope.train(tmp_path / "plain", teachers=[teacher], method="kd", **QUICK)
    assert plain.summary["weights_hash"] == student.summary["weights_hash"]


def test_stopped_and_resumed_it_ends_with_the_same_table(student, teacher, tmp_path, monkeypatch):
    steps = len(Batches(student.dataset().train, student.dataset(), batch_size=256))
    asked = iter([False] * (steps + 1) + [True])  # in epoch 2
    monkeypatch.setattr(StopSignal, "agreed", lambda self, fabric, step: next(asked))
    options = {"teachers": [teacher], "method": "kd", "probe": "cka", "probe_size": 60} | QUICK
    with pytest.raises(Interrupted):
        kdscope.train(tmp_path / "student", **options)
    monkeypatch.undo()
    table = tmp_path / "student" / "features" / "cka.csv"
    kept = table.read_text()
    assert {row["epoch"] for row in csv.DictReader(kept.splitlines())} == {"0", "1"}
    last = kept.splitlines()[-1].split(",")
    epoch = kept.splitlines()[0].split(",").index("epoch")
    last[epoch] = "2"  # a row of an epoch that is still to come, as a kill after its probe leaves it
    table.write_text(kept + ",".join(last) + "\n")
    run = api.resume(tmp_path / "student")
    assert table.read_bytes() == (student.path / "features" / "cka.csv").read_bytes()
    assert run.summary["weights_hash"] == student.summary["weights_hash"]


def test_analyze_and_figures_show_it(student, teacher, tmp_path):
    run = kdscope.train(tmp_path / "only", teachers=[teacher], method="kd", probe="cka", probe_size=60, **QUICK)
    table = kdscope.analyze("similarity", run, device="cpu", layers="layer*", measures="cka").table
    shown = table[table["epoch"].notna()].set_index(["epoch", "layer_a", "layer_b"])["value"]
    kept = [row for row in rows_of(run) if row["split"] == "test"]
    assert len(shown) == len(kept) == 27
    for row in kept:
        assert shown[int(row["epoch"]), row["layer_a"], row["layer_b"]] == pytest.approx(float(row["value"]), rel=1e-12)
    some = kdscope.analyze("similarity", run, device="cpu", layers="layer3", measures="cka", confidence=0.5).table
    some = some[some["epoch"].notna()]
    assert len(some) == 3
    assert some["ci_low"].isna().all()  # an interval of 95 % is not one of 50 %
    drawn = draw(run.path / "features" / "cka.csv", tmp_path / "out")
    assert {path.name for path in drawn} == {f"similarity-epochs.{ending}" for ending in ("pdf", "png", "csv", "txt")}


def test_a_damaged_table_is_one_line(student, tmp_path):
    from kdscope.analyses.kept_cka import _table
    from kdscope.sources import Subject

    for text in ("", "epoch,n\n1,2\n", "a,b\n1,2,3\n4\n"):
        (tmp_path / "cka.csv").write_text(text)
        with pytest.raises(KDScopeError, match=r"cka\.csv is not the table that a run writes"):
            _table(Subject(name="s", architecture="a", group="g", folder=tmp_path))


def test_settings():
    teachers = [{"model": "resnet8", "checkpoint": "w.safetensors"}]
    assert load_config(overrides={"probe": "cka", "teachers": teachers}).probe_every == 1
    assert load_config(overrides={"probe": "cka", "probe_every": 5, "teachers": teachers}).probe_every == 5
    assert load_config().probe_every == 0
    with pytest.raises(KDScopeError, match="compares with teachers, and there is none"):
        load_config(overrides={"probe": "cka"})
    with pytest.raises(KDScopeError, match="probe: Input should be 'cache', 'cka' or 'cache\\+cka'"):
        load_config(overrides={"probe": "ckaa", "teachers": teachers})


def test_wide_layers_keep_no_interval_rather_than_much_memory():
    from kdscope.training.probe_cka import MEMORY, _groups

    assert _groups([[16, 32, 64], [16, 32, 64]]) == 20
    assert _groups([[256, 512, 1024, 2048], [64, 128, 256, 512]]) == 1
    widths = [512, 512]
    kept = _groups([widths, widths])
    assert 5 <= kept < 20
    assert kept * 8 * 8 * 512**2 <= MEMORY


def test_pandas_reads_it_as_numbers(student):
    table = pd.read_csv(student.path / "features" / "cka.csv")
    assert table["value"].between(-1, 1).all()
    assert table["floor"].isna().all()
    assert table["variance_a"].between(0, 1).all()
