"""The analysis `controls` and the share of a gain that an arm explains, on answers that are written down."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from told import CLASSES, sayings, subject

from kdscope.analyses.base import run_analysis
from kdscope.errors import KDScopeError
from kdscope.measures.explained import share_explained

IMAGES = 300
LABELS = np.random.default_rng(0).integers(0, CLASSES, IMAGES)
EASE = np.random.default_rng(1).random(IMAGES)
RIGHT = {"none": 0.5, "mhgd": 0.8, "shuffled": 0.65, "constant": 0.8}


def right(name, seed, shares):
    noise = 0.04 * np.random.default_rng([len(name), seed]).normal(size=IMAGES)
    return EASE + noise < shares[name]


def run(name, seed, shares=RIGHT):
    top = np.where(right(name, seed, shares), LABELS, (LABELS + 1) % CLASSES)
    method = name if name in ("none", "mhgd") else "mhgd"
    recipe = {"epochs": 4, "terms.mhgd.graph": name, "headline": "last epoch"}
    return subject(
        f"{name}-seed{seed}", {"test": sayings(top, LABELS)}, group=name, seed=seed, method=method, recipe=recipe,
        effort={"phases": 0, "chain": 0, "seconds": 1.0},
    )  # fmt: skip


def ask(shares=RIGHT, **options):
    return run_analysis("controls", [run(n, s, shares) for n in shares for s in range(5)], method="mhgd", **options)


def test_shares_are_ratios_of_the_gains():
    rows = ask().table
    rows = rows[rows["measure"] == "share-explained"].set_index("b")
    mean = {name: np.mean([right(name, s, RIGHT).mean() for s in range(5)]) for name in RIGHT}
    for arm in ("shuffled", "constant"):
        expected = (mean[arm] - mean["none"]) / (mean["mhgd"] - mean["none"])
        assert rows.loc[arm, "value"] == pytest.approx(expected)
        assert rows.loc[arm, "ci_low"] < expected < rows.loc[arm, "ci_high"]
    assert rows.loc["shuffled", "ci_high"] < 1 < rows.loc["constant", "ci_high"]
    assert "mhgd" not in rows.index


def test_what_is_said_and_shown():
    report = ask()
    shown = report.summary.set_index("arm")
    assert shown.loc["mhgd", "share explained"] == ""
    assert shown.loc["constant", "share explained"].startswith("1.0")
    assert shown.loc["mhgd", "arm - alone"].startswith("+")
    assert shown.loc["none", "method - arm"] == shown.loc["mhgd", "arm - alone"]
    assert "not to be told from it: constant" in report.notes[0]
    assert max(map(len, str(report.summary.to_string(index=False)).splitlines())) <= 110


def test_where_the_method_gains_nothing_there_is_no_share():
    same = RIGHT | {"mhgd": 0.5, "shuffled": 0.5, "constant": 0.52}
    report = ask(same)
    shares = report.table[report.table["measure"] == "share-explained"]
    assert shares["value"].isna().all()
    assert "nothing to explain at this scale" in report.notes[0]


def test_a_method_that_harms_has_shares_of_a_loss():
    report = ask(RIGHT | {"mhgd": 0.3, "shuffled": 0.4, "constant": 0.3})
    assert "which is a loss beyond chance" in report.notes[0]
    rows = report.table[report.table["measure"] == "share-explained"].set_index("b")
    assert rows.loc["shuffled", "value"] == pytest.approx(0.5, abs=0.05)
    assert (rows["gain"] < 0).all()


def test_the_figure_has_both_comparisons(tmp_path):
    report = run_analysis("controls", [run(n, s) for n in RIGHT for s in range(5)], tmp_path, method="mhgd")
    assert {path.name for path in report.figures} == {"controls-differences.png", "controls-differences.pdf"}


@given(st.floats(0, 1), st.integers(0, 50))
def test_an_arm_between_the_two_explains_what_lies_below_it(share, seed):
    rng = np.random.default_rng(seed)
    alone = rng.random((4, 200))
    method = alone + 0.3 + 0.01 * rng.random((4, 200))
    found = share_explained(alone, alone + share * (method - alone), method, resamples=50)
    assert found.value == pytest.approx(share, abs=1e-9)
    assert (found.ci_low, found.ci_high) == pytest.approx((share, share), abs=1e-9)


def test_one_seed_has_no_interval():
    rng = np.random.default_rng(0)
    alone = rng.random((1, 50))
    found = share_explained(alone, alone + 0.1, alone + 0.2 + 0.01 * rng.random((1, 50)))
    assert math.isnan(found.ci_low)
    assert found.value == pytest.approx(0.1 / 0.205, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"method": ""}, "controls of what"), ({"method": "mhdg"}, "unknown way of training .mhdg. .*nearest: mhgd")],
)
def test_refused(options, message):
    with pytest.raises(KDScopeError, match=message):
        run_analysis("controls", [run(n, s) for n in RIGHT for s in range(2)], **options)
