"""Every method through the whole engine: stopped again and again and resumed, it ends as if it had never been."""

import csv

import pytest
import torch
from safetensors.torch import load_file

import kdscope
from kdscope.methods import METHODS, resolve
from kdscope.methods.method import known_terms

NEEDS_NO_TEACHER = {"labels", "peers"}


def needs_teacher(method):
    return METHODS[method].chain == "assistants" or any(
        known_terms()[name].reads not in NEEDS_NO_TEACHER for name in resolve(method)
    )


def train(out, method, data, teacher, **options):
    teachers = [teacher] if needs_teacher(method) else []
    return kdscope.train(out, method=method, teachers=teachers, **data | options)


def state(run):
    return load_file(run.path / "checkpoints" / "last.safetensors")


DRAWING = {  # control arms that draw random numbers as they train, or look up what was computed once
    "mhgd noise-matched": ("mhgd", {"gradients": "noise-matched"}),
    "letkd-2 shuffled": ("letkd-2", {"terms": {"letkd": {"noise": "shuffled"}}}),
    "letkd-2 permuted": ("letkd-2", {"terms": {"letkd": {"labels": "permuted-assignment"}}}),
    "cakd cached": ("cakd", {"terms": {"cakd": {"views": "cached", "mask": "random"}}, "augment": "none"}),
}
WAYS = {method: (method, {}) for method in sorted(METHODS)} | DRAWING


@pytest.mark.parametrize(("method", "options"), WAYS.values(), ids=WAYS)
def test_stopped_and_resumed_is_bit_identical(method, options, tiny_data, tiny_teacher, tmp_path, with_stops):
    data = tiny_data | options
    whole = train(tmp_path / "whole", method, data, tiny_teacher)
    run, stops = with_stops(lambda place: train(place, method, data, tiny_teacher), tmp_path / "run", every=4)
    assert stops >= 1
    expected, got = state(whole), state(run)
    assert expected.keys() == got.keys()
    assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    assert run.summary["weights_hash"] == whole.summary["weights_hash"]
    for name in ("metrics.csv", "phases.csv"):
        assert rows(run, name) == rows(whole, name)


def rows(run, name):
    path = run.path / name
    if not path.exists():
        return []
    with path.open(newline="") as lines:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(lines)]


@pytest.mark.parametrize("method", [name for name in sorted(METHODS) if name != "none"])
def test_trains_across_architectures_and_the_teacher_stays(method, tiny_data, tiny_teacher, tmp_path):
    before = load_file(tiny_teacher.weights)
    run = train(tmp_path / "run", method, tiny_data, tiny_teacher, model="vgg8", epochs=1, precision="bf16")
    assert run.finished
    after = load_file(tiny_teacher.weights)
    assert all(torch.equal(before[key], after[key]) for key in before)
    losses = [row["loss"] for row in run.metrics]
    assert all(abs(loss) < 1e6 for loss in losses)
