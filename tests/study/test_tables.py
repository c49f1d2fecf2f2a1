"""The table of a study: who competes with whom, and whose distance to the best chance may explain."""

import math
from types import SimpleNamespace

import pytest
from scipy.stats import ttest_rel

from kdscope.study.tables import for_paper, paired_p

RUNS = {
    ("kd", "resnet8"): (0.92, 0.93, 0.94), ("teacher", "resnet20"): (0.96, 0.97, 0.95),
    ("at", "resnet8"): (0.925, 0.921, 0.938), ("bad", "resnet8"): (0.61, 0.6, 0.632),
    ("new", "resnet8"): (0.9, None, None),
}  # fmt: skip


def shown(data="digits", published=None):
    cells, states = [], {}
    for (group, network), values in RUNS.items():
        for seed, value in enumerate(values):
            config = SimpleNamespace(model=SimpleNamespace(name=network), method=group, data=SimpleNamespace(name=data))
            name = f"{group}-seed{seed}"
            cells.append(SimpleNamespace(name=name, group=group, seed=seed, config=config))
            states[name] = SimpleNamespace(state="to do" if value is None else "done", score=value)
    study = SimpleNamespace(title="T?", published=published or {}, settings={"data": "cifar100"})
    return for_paper(study, cells, states)


def test_networks_are_blocks_and_what_chance_may_explain_is_signed():
    lines = [line for line in shown().markdown().splitlines() if line.startswith("|")][2:]
    assert lines == [
        "| kd | resnet8 | kd | 3 | **93.00** ± 1.00 |",
        "| at | resnet8 | at | 3 | <u>92.80</u>† ± 0.89 |",
        "| bad | resnet8 | bad | 3 | 61.40 ± 1.64 |",
        "| new | resnet8 | new | 1 | 90.00 |",  # one seed: not tested
        "| teacher | resnet20 | teacher | 3 | 96.00 ± 1.00 |",
    ]


def test_published_numbers_of_other_data_are_said_to_be_so():
    table = shown(published={"Paper": {"kd": 99.0}})
    assert "| kd | resnet8 | kd | 3 | **93.00** ± 1.00 | 99.00 |" in table.markdown()
    assert any(note.startswith("Published numbers are on cifar100") for note in table.notes)
    same = shown("cifar100", {"Paper": {"kd": 99.0}})
    assert not any(note.startswith("Published") for note in same.notes)


def test_the_test_is_paired_by_seed():
    a, b = {0: 1.0, 1: 3.5, 2: 5.0, 9: 7.0}, {2: 2.0, 1: 1.0, 0: 0.0}
    assert paired_p(a, b) == pytest.approx(ttest_rel([1.0, 3.5, 5.0], [0.0, 1.0, 2.0]).pvalue)
    assert math.isnan(paired_p(a, {9: 1.0}))
    assert math.isnan(paired_p(a, {k: v + 1 for k, v in a.items()}))  # a t-test of no spread says nothing
