"""The studies that come along: their recipes are those of the papers, and each ends at its smallest."""

import csv

import pandas as pd
import pytest

from kdscope.demo import demo
from kdscope.study import cells, load_study, names
from kdscope.study.conduct import conduct
from kdscope.study.papers import FIGURES


@pytest.fixture(scope="module")
def guo():
    """The first training of each kind of run of Guo et al."""
    return {cell.group: cell.config for cell in cells(load_study("rethinkkd"), "paper") if cell.seed == 0}


# Epochs in all, and those after which the rate falls to a tenth (none: a cosine), by appendix A and the released code.
STUDENTS = {
    "cifar100": (200, [190, 195]), "lt100": (175, [160, 165, 170]), "imagenet": (60, None),
    "imagenet-lt": (165, [150, 155, 160]),
}  # fmt: skip
TEACHERS = {"cifar100": (60, [25, 40]), "lt100": (60, [25, 40]), "imagenet": (30, None), "imagenet-lt": (60, [35, 50])}


@pytest.mark.parametrize("data", STUDENTS)
def test_rates_fall_when_those_of_guo_do(guo, data):
    of_students = [f"{kind}-{data}-T1sT2w-Ss" for kind in ("two", "half", "standardised")]
    groups = dict.fromkeys([*of_students, f"alone-{data}-Ss", f"clean-{data}"], (STUDENTS[data], 8))
    for group, ((epochs, falls), warm) in (groups | {f"t1-{data}-w": (TEACHERS[data], 0)}).items():
        config = guo[group]
        optim = config.optim
        assert (config.epochs, optim.lr, optim.weight_decay, config.data.batch_size) == (epochs, 0.1, 0.0, 128)
        assert optim.warmup * epochs == pytest.approx(warm, abs=0.01)
        assert (optim.schedule == "cosine") == (falls is None)
        if falls is not None:
            assert [m * epochs for m in optim.milestones] == pytest.approx(falls, abs=0.01)


def test_the_loss_is_that_of_guo(guo):
    """0.2 CE + 0.8 tau^2 mean_i KL_i with tau = 10, or the same with a KL of another kind."""
    for kind, term in (("two", "kd"), ("standardised", "kd-z"), ("half", "kd-half")):
        config = guo[f"{kind}-cifar100-T1sT2w-Ss"]
        assert config.ensemble == "mean-loss"
        terms = {name: options for name, options in config.terms.items() if options["weight"]}
        assert {name: options["weight"] for name, options in terms.items()} == {"cross-entropy": 0.2, term: 0.8}
        assert terms[term]["temperature"] == 10


def test_quickstart_at_its_smallest(tmp_path):
    shown = {row["training"]: row for row in demo(tmp_path, "smoke").rows}  # the demo is this study
    done = conduct(load_study("quickstart"), tmp_path, "smoke", jobs=1)
    assert not done.failed
    assert [(answer.label, answer.report) for answer in done.answers] == [("fidelity", None)]  # it was asked already
    table = pd.read_csv(done.answers[0].folder / "fidelity.csv")
    agreement = table[(table.measure == "agreement") & (table.pair == "teacher-student") & (table.split == "test")]
    assert set(agreement.b) == {"kd-seed0", "at-seed0", "ensemble-seed0"}
    assert (agreement.ci_low <= agreement.value).all()
    kd = agreement[agreement.b == "kd-seed0"].iloc[0]
    assert shown["kd"]["agreement %"] == f"{100 * kd.value:.1f} [{100 * kd.ci_low:.1f}, {100 * kd.ci_high:.1f}]"
    assert shown["alone"]["accuracy %"] == f"{100 * done.states['alone-seed0'].score:.1f}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in names() if name != "quickstart"])
def test_every_study_at_its_smallest(name, tmp_path):
    done = conduct(load_study(name), tmp_path, "smoke")
    assert {cell: state for cell, state in done.states.items() if state.state != "done"} == {}
    assert done.answers
    assert [(answer.label, answer.error) for answer in done.answers if answer.error] == []
    drawn = [answer.folder for answer in done.answers if answer.label == FIGURES]
    for answer in done.answers:
        assert answer.folder in drawn or len(answer.report.table) > 0
    if drawn:  # the figures of a paper: its claims have a verdict each, and the study says what they are
        claims = pd.read_csv(done.place.folder / "claims.csv")
        assert set(claims["claim"]) <= set(load_study(name).claims)
        assert set(claims["verdict"]) <= {"survives", "does not survive", "cannot be told"}
        assert len(list(drawn[0].glob("*.png"))) > 10
    with (done.place.folder / "table.csv").open() as lines:
        assert all(0 <= float(row.get("ap") or row["accuracy"]) <= 100 for row in csv.DictReader(lines))
