"""What networks cost: counted where it can be, and measured once."""

import dataclasses

import numpy as np
import pytest
import torch
from told import family
from torch import nn

from kdscope.analyses.base import run_analysis
from kdscope.data import load
from kdscope.errors import KDScopeError
from kdscope.features.efficiency import kept_efficiency, measure_efficiency, peak_memory
from kdscope.files import read_json


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 8 * 8, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 4, bias=False)
    )


def test_counts_are_exact():
    found = measure_efficiency(network(), 8)
    assert found["parameters"] == 192 * 1000 + 4000
    assert found["flops"] == 2 * (192 * 1000 + 4000)
    assert found["megabytes"] == pytest.approx(4 * 196_000 / 1e6)
    # Two activations of 1,000 numbers live at once (before and after the ReLU).
    assert peak_memory(network(), 8, 128) == pytest.approx(2 * 128 * 1000 * 4, rel=0.02)
    assert found["throughput"] == pytest.approx(128e3 / found["latency-128"])


def test_measured_once_for_the_same_weights(tmp_path):
    first = kept_efficiency(network, tmp_path, "", 8, "cpu")
    assert kept_efficiency(network, tmp_path, "", 8, "cpu") == first
    assert read_json(tmp_path / "efficiency-cpu.json") == first
    other = kept_efficiency(lambda: network().append(nn.Linear(4, 4)), tmp_path, "", 8, "cpu")
    assert other["key"] != first["key"]
    (tmp_path / "efficiency-cpu.json").write_text("{")
    assert kept_efficiency(network, tmp_path, "", 8, "cpu")["flops"] == first["flops"]


def test_a_table_and_a_figure(tmp_path):
    people = family(seeds=1, methods=("kd",), n=40)

    def real(subject):
        teachers = tuple(real(teacher) for teacher in subject.teachers)
        more = {"load": network, "folder": tmp_path / subject.name, "dataset": load("digits:8"), "device": "cpu"}
        return dataclasses.replace(subject, teachers=teachers, **more)

    report = run_analysis("efficiency", [real(person) for person in people if person.method != "none"], tmp_path)
    table = report.table
    assert set(table["role"]) == {"teacher", "distilled"}
    assert (table.loc[table["measure"] == "parameters", "value"] == 196_000).all()
    kd = next(person for person in people if person.method == "kd").cache("test")
    accuracy = table[(table["measure"] == "accuracy") & (table["role"] == "distilled")].iloc[0]
    assert accuracy.value == np.mean(kd.logits.argmax(1) == kd.labels)
    assert {path.name for path in report.figures} == {"efficiency-accuracy.pdf", "efficiency-accuracy.png"}


def test_a_bare_cache_has_no_cost():
    with pytest.raises(KDScopeError, match="is a cache: its cost can be measured on a run only"):
        run_analysis("efficiency", family(seeds=1, methods=("kd",), n=40))
