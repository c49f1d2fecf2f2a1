"""The study of Guo et al. from made-up tables whose relations are known: trials, tables side by side, and claims."""

import itertools

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import ttest_rel
from told import sayings, subject

from kdscope.analyses.base import run_analysis
from kdscope.analyses.paper_contrasts import contrasts
from kdscope.analyses.paper_trials import rethinkkd, side_by_side, study_table
from kdscope.analyses.papers import PAPERS
from kdscope.analyses.published import claims, correlations, read_published
from kdscope.errors import KDScopeError
from kdscope.figures import FIGURES

AUGMENT = {"w": "weak", "s": "strong"}
MEASURED = ("agreement", "kl-teacher-student", "mutual-information", "ece", "predictive-entropy", "accuracy-gap")


def a_run(method, augment, taught=(), model="resnet8", data="digits"):
    settings = {"method": method, "data": {"name": data, "augment": augment}, "model": {"name": model}}
    return {"settings": settings, "learns from": list(taught)}


def made(folder, seeds=3, slope=-1.0, shift=0.5, **kinds):
    """A study whose accuracy is `slope` times the overlap of attention within a group, and `shift` more for Ss."""
    runs, rows = {}, []
    rng = np.random.default_rng(0)
    for seed in range(seeds):
        for k, letter in itertools.product((1, 2, 3), "ws"):
            runs[f"t{k}-{letter}-seed{seed}"] = a_run("none", AUGMENT[letter])
        for setting, method, count, model in (
            ("vKD", "kd", 2, "resnet8"), ("hKD", "kd-half", 2, "resnet8"), ("zKD", "kd-z", 2, "resnet8"),
            ("1T", "kd", 1, "resnet8"), ("3T", "kd", 3, "resnet8"), ("ViT", "kd", 2, "vit_tiny"),
        ):  # fmt: skip
            for letters in itertools.product("ws", repeat=count):
                for student in "ws":
                    name = f"{setting}-{''.join(letters)}-S{student}-seed{seed}"
                    taught = [f"t{k + 1}-{each}-seed{seed}" for k, each in enumerate(letters)]
                    runs[name] = a_run(method, AUGMENT[student], taught, model)
                    iou = rng.uniform(0.3, 0.6) - 0.1 * (len(set(letters)) > 1)
                    accuracy = slope * iou + shift * (student == "s") + 0.01 * rng.normal()
                    of = {"accuracy": accuracy, "attention-iou": iou, "affinity": 0.8 + 0.1 * (student == "w")}
                    of |= {measure: rng.random() - (setting == "hKD") for measure in MEASURED}
                    rows += [
                        row(name, measure, p, value)
                        for p in ("guo2024-code", "kdscope")
                        for measure, value in of.items()
                    ]
                    rows += [
                        row(name, "reliability", "kdscope", c, bin_low=c - 0.1, bin_high=c, bin_confidence=c - 0.05)
                        for c in (0.5, 1)
                    ]
        for step in (0, 6, 12):
            name = f"graded-M{step}-seed{seed}"
            runs[name] = a_run("kd", f"randaugment:{step}", [f"t1-w-seed{seed}", f"t2-w-seed{seed}"])
            rows += [
                row(name, "accuracy", "kdscope", step / 100 + seed / 1000),
                row(name, "agreement", "kdscope", 1 - step / 100),
            ]
    (folder / "trials").mkdir(parents=True)
    (folder / "plan.yaml").write_text(yaml.safe_dump({"runs": runs}))
    pd.DataFrame(rows).to_csv(folder / "trials" / "trials.csv", index=False)
    return folder


def row(b, measure, protocol, value, **more):
    if measure == "attention-iou" and protocol == "guo2024-code":
        measure = "threshold-iou"
    if measure == "accuracy":
        protocol = "kdscope"
    empty = dict.fromkeys(("ci_low", "ci_high", "floor", "ceiling", "bin_low", "bin_high", "bin_confidence"))
    about = {
        "analysis": "trials",
        "a": "x",
        "b": b,
        "split": "test",
        "n": 10,
        "seed": b[-1],
        "layer": "",
        "view": "none",
    }
    return (
        empty
        | {"layer": ""}
        | about
        | {"measure": measure, "definition": protocol, "protocol": protocol, "value": value}
        | more
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made(tmp_path_factory.mktemp("study") / "rethinkkd-cpu")


@pytest.fixture(scope="module")
def own(folder):
    return study_table(folder)


def test_trials_have_the_papers_names(own):
    trials = own.drop_duplicates("b").set_index("b")
    names = {b: tuple(trials.loc[b, ["setting", "trial", "student"]]) for b in trials.index}
    assert names["vKD-sw-Ss-seed0"] == ("vKD", "T1sT2wSs", "Ss")
    assert names["hKD-ww-Sw-seed2"] == ("hKD", "T1wT2wSw", "Sw")
    assert names["1T-s-Sw-seed1"] == ("1T", "TsSw", "Sw")
    assert names["3T-sws-Ss-seed0"] == ("3T", "T1sT2wT3sSs", "Ss")
    assert names["ViT-ws-Sw-seed0"] == ("ViT", "T1wT2sSw", "Sw")
    assert names["graded-M6-seed0"] == ("graded", "M6", "graded")
    assert set(own["definition"]) == {"guo2024-code", "kdscope"}


def test_what_is_one_relation_within_groups_and_the_other_over_all(own):
    """Less overlap is better in each group, by construction; the groups differ by more than all of that."""
    found = correlations(own).set_index(["panel", "definition"])
    for definition in ("guo2024-code", "kdscope"):
        f2 = found.loc["f2", definition]
        rows = own[(own["setting"] == "vKD") & (own["measure"] == "accuracy")].set_index("b")["value"]
        iou = own[(own["setting"] == "vKD") & (own["measure"] == "attention-iou") & (own["definition"] == definition)]
        iou = iou.set_index("b")["value"]
        assert f2["n"] == 24
        assert len(f2["by_seed"].split()) == 3
        assert f2["r"] == pytest.approx(np.corrcoef(iou, rows.loc[iou.index])[0, 1])
        strong = iou.index.str.contains("-Ss-")
        inside = np.corrcoef(iou[strong], rows.loc[iou.index][strong])[0, 1]
        assert f2["within_Ss"] == pytest.approx(inside)
        assert inside < -0.95
    judged = claims(correlations(own)).set_index(["place", "definition"])["verdict"]
    assert judged["Figure 2, top", "kdscope"] == "survives"
    assert judged["Figure E.7", "kdscope"].tolist() == ["cannot be told", "survives"]  # noise of three seeds; as above
    assert judged["Table 1", "kdscope"] == "cannot be told"  # affinity is the same for all of a group


def test_a_positive_relation_refutes_the_claim(tmp_path):
    own = study_table(made(tmp_path / "other", slope=1.0))
    judged = claims(correlations(own)).set_index(["place", "definition"])["verdict"]
    assert judged["Figure 2, top", "kdscope"] == "does not survive"


def test_contrasts_are_differences_of_means_by_trial(own):
    table = pd.concat([read_published("rethinkkd")[0].assign(seed=None), own])
    found = pd.concat(contrasts(table)).set_index(["claim", "definition"])
    half = found.loc["Half images lower fidelity"]
    assert half["verdict"].to_dict() == {"published": "survives", "guo2024-code": "survives", "kdscope": "survives"}
    assert half["n"].to_dict() == {"published": 24, "guo2024-code": 3, "kdscope": 3}  # own: a seed each
    mine = own[(own["definition"] == "kdscope") & (own["measure"] == "agreement")]
    seeds = mine.pivot_table("value", "seed", "setting")
    low, high = ttest_rel(seeds["hKD"], seeds["vKD"]).confidence_interval(0.95)
    assert f" [{low:+.4f}, {high:+.4f}], 3 of 3 as claimed" in half.loc["kdscope", "detail"]
    printed = table[(table["definition"] == "published") & (table["measure"] == "agreement")]
    means = printed.groupby("setting")["value"].mean()
    assert f"{means['hKD'] - means['vKD']:+.4f} [" in half.loc["published", "detail"]
    apart = found.loc["Teachers that were trained differently attend to different places"]
    assert apart.loc["kdscope", "n"] == 3  # a seed each: two students of one pair of teachers are not two pairs
    mixed = found.loc["Teachers of mixed augmentation make the best students"]
    assert mixed.loc["published", "verdict"] == "survives"  # 7 of 8
    assert "7 of 8 as claimed" in mixed.loc["published", "detail"]


def test_side_by_side_has_a_row_for_each_number(own):
    table = pd.concat([read_published("rethinkkd")[0].assign(seed=None), own])
    wide = side_by_side(table).set_index(["setting", "trial", "measure"])
    one = wide.loc["vKD", "T1sT2wSs", "agreement"]
    assert (one["published"], one["published_on"], one["seeds"]) == (0.8536, "cifar100", 3)
    mine = own[(own["trial"] == "T1sT2wSs") & (own["setting"] == "vKD") & (own["measure"] == "agreement")]
    for definition, value in mine.groupby("definition")["value"].mean().items():
        assert one[definition] == pytest.approx(value)
    assert np.isnan(wide.loc["zKD", "T1sT2wSs", "agreement"]["published"])


def test_every_figure_is_there_and_its_points_are_the_means_over_seeds(own):
    table = pd.concat([read_published("rethinkkd")[0].assign(seed=None), own], ignore_index=True)
    stems = {}
    for stem in ("f2", "e7", "f8", "graded", "h9-reliability", "f4"):
        stems |= dict(FIGURES["rethinkkd"](table.assign(figure=stem)))
    assert set(stems) == {f"rethinkkd-{s}" for s in ("f2", "e7", "f8", "graded", "h9-reliability", "f4")}
    titles = [axes.get_title(loc="left").split("\n")[0] for axes in stems["rethinkkd-f2"].axes]
    assert titles[3:5] == ["digits, guo2024-code", "digits, kdscope"]  # beside each other, below the published ones
    means = (
        own[(own["setting"] == "vKD") & (own["definition"] == "kdscope")].groupby(["measure", "trial"])["value"].mean()
    )
    axes = stems["rethinkkd-f2"].axes[4]
    points = sorted(tuple(p) for line in axes.lines if line.get_marker() in list("os") for p in line.get_xydata())
    expected = sorted(zip(means["attention-iou"], means["accuracy"], strict=True))
    assert np.allclose(points, expected)
    assert len(stems["rethinkkd-f8"].axes) == 8  # four relations by two definitions
    assert [axes.get_title(loc="left").split("\n")[1][0] for axes in stems["rethinkkd-graded"].axes] == ["ρ", "ρ"]


def test_the_study_is_written_whole(folder, monkeypatch):
    monkeypatch.setattr("kdscope.analyses.paper_trials.draw", lambda table, out: [])
    assert PAPERS["rethinkkd"] is rethinkkd
    written = rethinkkd(folder)
    table = pd.read_csv(folder / "claims.csv")
    assert list(table)[:4] == ["claim", "verdict", "detail", "n"]
    assert set(table["verdict"]) == {"survives", "does not survive", "cannot be told"}
    lines = (folder / "claims.md").read_text().splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(table) + 1
    assert {path.name for path in written} >= {"side-by-side.csv", "claims.csv", "claims.md"}


def test_folders_that_are_no_study(tmp_path):
    with pytest.raises(KDScopeError, match=r"is not the folder of a study \(it has no plan.yaml\)"):
        study_table(tmp_path)
    (tmp_path / "plan.yaml").write_text("runs: {}")
    with pytest.raises(KDScopeError, match="has no table of the analysis trials"):
        study_table(tmp_path)


def test_trials_by_both_protocols_in_closed_form():
    """Four images: on clean test ones teacher and student agree on 3, on augmented train ones on 1."""
    labels = [0, 1, 2, 3]
    clean, strong = sayings([0, 1, 2, 0], labels), sayings([0, 2, 3, 0], labels, noise=1)
    caches = {
        ("test", "none"): clean,
        ("train", "none"): clean,
        ("train", "strong"): strong,
        ("test", "strong"): strong,
    }
    teacher = subject("t", {}, seed=0, method="none", architecture="resnet20", augment="weak")
    teacher.caches.update(dict.fromkeys(caches, sayings([0, 1, 2, 3], labels)))
    ruler = subject("clean", {}, seed=0, method="none", augment="none")
    ruler.caches.update(dict.fromkeys(caches, sayings([0, 1, 2, 3], labels)) | {("test", "strong"): strong})
    student = subject("s", {}, seed=0, method="kd", teachers=[teacher], augment="strong")
    student.caches.update(caches)
    table = run_analysis("trials", [student, ruler]).table
    found = table[table["measure"] != "reliability"].set_index(["measure", "protocol"])["value"]
    assert found["accuracy", "kdscope"] == 0.75
    assert (found["agreement", "kdscope"], found["agreement", "guo2024-code"]) == (0.75, 0.25)
    assert (found["accuracy-gap", "kdscope"], found["accuracy-gap", "guo2024-code"]) == (0.0, 0.25 - 0.75)
    assert found["affinity", "guo2024-code"] == pytest.approx(0.25 / 0.75)  # of the student itself
    assert found["affinity", "kdscope"] == pytest.approx(0.25)  # of the network that was trained on clean images
    ratio = found["kl-teacher-student", "guo2024-code"] / found["kl-teacher-student", "kdscope"]
    assert ratio > 10  # ten times the reversed KL, of images on which they differ more
    floors = table.set_index(["measure", "protocol"])["floor"]
    assert floors["agreement", "kdscope"] == 1.0  # the student without a teacher says here what the teacher does
