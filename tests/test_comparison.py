"""`kdscope.comparison`: fair, resumable, and refusing what cannot stand in one table."""

import signal

import numpy as np
import pytest

from kdscope import KDScopeError, Run, api, comparison, fleet
from kdscope.comparison import TEACHER_SEED, compare
from kdscope.features.cache import FeatureCache
from kdscope.training.session import Session

HOW = {"data": "test-tiny", "student": "resnet8", "epochs": 2, "seeds": 2, "jobs": 1, "device": "cpu"}
SET = ("data.batch_size=16", "optim.lr=0.02")


def ask(out, methods="at,dkd", **more):
    return compare(methods, out, **HOW | {"teacher": "resnet14", "assignments": (*SET, "terms.dkd.beta=2")} | more)


@pytest.fixture(scope="module")
def made(tiny_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    return out, ask(out)


def values(report):
    """What of a table does not depend on the clock."""
    return report.table.drop(columns=["seconds", "time"])


def test_one_teacher_one_recipe_and_paired_seeds(made):
    out, done = made
    teacher = Run(out / "teacher")
    assert (teacher.config.seed, teacher.config.epochs, teacher.config.model.name) == (TEACHER_SEED, 2, "resnet14")
    assert teacher.config.optim.lr == 0.02
    for method in ("none", "kd", "at", "dkd"):
        for seed in (0, 1):
            config = Run(out / f"{method}-seed{seed}").config
            assert (config.seed, config.epochs, config.optim.lr, config.data.batch_size) == (seed, 2, 0.02, 16)
            hashes = [one.weights_hash for one in config.teachers]
            assert hashes == ([] if method == "none" else [teacher.summary["weights_hash"]])
            assert config.terms.get("dkd", {}).get("beta") == (2 if method == "dkd" else None)
    assert done.failed == ()
    assert any(note.startswith("none was added") for note in done.report.notes)
    assert any("last epoch" in note for note in done.report.notes)


def test_the_table_against_what_the_caches_say(made):
    out, done = made

    def right(method, seed):
        cache = FeatureCache(out / f"{method}-seed{seed}" / "features" / "test-none.kdcache")
        return (np.asarray(cache.logits).argmax(1) == np.asarray(cache.labels)).astype(float)

    table = done.report.table.set_index(["measure", "a", "b", "seed"])
    for method in ("none", "kd", "at", "dkd"):
        both = [right(method, seed) for seed in (0, 1)]
        assert table.loc[("accuracy", "", method, "all"), "value"] == pytest.approx(np.mean(both))
        for seed in (0, 1):
            measured = Run(out / f"{method}-seed{seed}").summary
            assert measured["test_accuracy"] == pytest.approx(both[seed].mean())
            row = table.loc[("accuracy", "", method, str(seed))]
            kd = Run(out / f"kd-seed{seed}").summary["seconds"]
            assert (row.seconds, row.time) == pytest.approx((measured["seconds"], measured["seconds"] / kd))
            for reference in {"none": (), "kd": ("none",)}.get(method, ("none", "kd")):
                difference = (both[seed] - right(reference, seed)).mean()
                found = table.loc[("accuracy-difference", reference, method, str(seed)), "value"]
                assert found == pytest.approx(difference)


def test_what_is_there_is_reused(made, monkeypatch):
    out, done = made
    begun = []
    train = api.train
    monkeypatch.setattr(api, "train", lambda path, **settings: begun.append(path.name) or train(path, **settings))
    assert values(ask(out).report).equals(values(done.report))
    assert begun == []
    more = ask(out, "dkd,rkd", seeds=3)
    assert begun == ["rkd-seed0", "rkd-seed1", "none-seed2", "kd-seed2", "dkd-seed2", "rkd-seed2"]
    assert set(more.report.table["b"]) == {"none", "kd", "dkd", "rkd"}


def test_stopped_and_started_again_it_ends_as_if_it_had_not_been(made, tmp_path, monkeypatch):
    _, done = made
    step, steps = Session.step, []

    def stopping(session, *args):
        steps.append(session.run.name)
        if len(steps) == 16:  # teacher, none-seed0: 6 steps each; the fourth of kd-seed0
            signal.raise_signal(signal.SIGINT)
        step(session, *args)

    monkeypatch.setattr(Session, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "again")
    assert steps[-1] == "kd-seed0"
    assert not Run(tmp_path / "again" / "kd-seed0").finished
    assert not (tmp_path / "again" / "comparison.csv").exists()
    again = ask(tmp_path / "again").report
    assert values(again).equals(values(done.report))
    assert len(steps) == 9 * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "teacher was trained with epochs=2, and 3 is wanted now"),
        ({"epochs": 3, "teacher_epochs": 2}, "none-seed0 was trained with epochs=2, and 3 is wanted now"),
        ({"assignments": (*SET, "terms.dkd.beta=4")}, r"dkd-seed0 was trained with terms.dkd.beta=2, and 4"),
        ({"assignments": ("data.batch_size=16",)}, "teacher was trained with optim.lr=0.02, and 0.1"),
        ({"student": "resnet14"}, "none-seed0 was trained with model.name='resnet8', and 'resnet14'"),
        ({"teacher": "resnet20"}, "teacher was trained with model.name='resnet14', and 'resnet20'"),
    ],
)
def test_other_settings_than_those_of_the_runs_there_are_refused(made, change, message):
    out, _ = made
    before = sorted(out.iterdir())
    with pytest.raises(KDScopeError, match=message):
        ask(out, "at,dkd,sp", **change)
    assert sorted(out.iterdir()) == before


def test_another_teacher_is_refused(made, tiny_teacher):
    with pytest.raises(KDScopeError, match=r"kd-seed0 was trained with another teacher \(.*teacher\)"):
        ask(made[0], teacher=tiny_teacher.path)


@pytest.mark.parametrize(
    ("methods", "change", "message"),
    [
        ("att", {}, "unknown method 'att'; nearest: at"),
        (" ,", {}, "no method is named"),
        ("at", {"seeds": 0}, "0 seeds"),
        ("at", {"jobs": 0}, "0 jobs"),
        ("at", {"assignments": ["seed=3"]}, "--set seed: a comparison takes that by --seeds"),
        ("at", {"assignments": ["terms.dkd.beta=2"]}, "unknown term 'dkd' in the methods that are compared"),
        ("at", {"assignments": ["optim.lrr=2"]}, "unknown setting 'lrr'"),
        ("at", {"teacher": "resnet15"}, "unknown model 'resnet15'"),
        ("at", {"teacher": "runs/none"}, "neither a run directory"),
        ("at", {"student": "resnet9"}, "unknown model 'resnet9'"),
        ("at", {"assignments": ["terms.at.layers=layer9"]}, "layer9"),
    ],
)
def test_bad_input_trains_nothing(tiny_data, tmp_path, methods, change, message):
    with pytest.raises(KDScopeError, match=message):
        ask(tmp_path / "out", methods, **{"assignments": SET} | change)
    assert not (tmp_path / "out").exists()


def test_one_that_failed_is_told_and_left_out(tiny_data, tiny_teacher, tmp_path, monkeypatch):
    train = api.train

    def failing(path, **settings):
        if path.name == "at-seed1":
            raise RuntimeError("out of\nmemory")
        return train(path, **settings)

    monkeypatch.setattr(api, "train", failing)
    done = ask(tmp_path, "at", teacher=tiny_teacher.path, epochs=1, assignments=SET)
    assert [outcome.path.name for outcome in done.failed] == ["at-seed1"]
    assert "at-seed1 failed: RuntimeError: out of memory" in done.report.notes
    rows = done.report.table[(done.report.table["b"] == "at") & (done.report.table["a"] == "kd")]
    assert rows["seed"].tolist() == ["0"]


def test_phases_and_chains_are_extra_epochs(tiny_data, tiny_teacher, tmp_path):
    methods = "fitnets,takd,born-again"
    how = {"teacher": tiny_teacher.path, "seeds": 1, "assignments": (*SET, "assistants=[{name: resnet8}]")}
    table = ask(tmp_path, methods, **how).report.table
    rows = table[table["measure"] == "accuracy"].set_index("b")
    phases = len((tmp_path / "fitnets-seed0" / "phases.csv").read_text().splitlines()) - 1
    assert rows["extra_epochs"].to_dict() == {"none": 0, "kd": 0, "fitnets": phases, "takd": 2, "born-again": 2}
    assert phases > 0
    assert rows.loc["takd", "extra"] == "2 of its chain"
    link = Run(tmp_path / "takd-seed0" / "chain" / "1-resnet8").summary["seconds"]
    assert rows.loc["takd", "seconds"] == pytest.approx(link + Run(tmp_path / "takd-seed0").summary["seconds"])
    assert Run(tmp_path / "born-again-seed0").recipe.teachers == ()


@pytest.mark.slow
def test_several_processes_and_an_error_in_one(tmp_path):
    wanted = {"data": "digits:8", "model": "resnet8", "epochs": 1, "device": "cpu"}
    models = ("resnet9", "resnet8", "resnet8")
    fleet_of = [fleet.Training(tmp_path / f"{k}", wanted | {"model": m, "seed": k}) for k, m in enumerate(models)]
    outcomes = fleet.train_all(fleet_of, 2)
    assert [outcome.path.name for outcome in outcomes] == ["0", "1", "2"]
    assert outcomes[0].error.startswith("unknown model 'resnet9'")
    assert [Run(outcome.path).finished for outcome in outcomes[1:]] == [True, True]
    assert [outcome.error for outcome in outcomes[1:]] == ["", ""]


def test_settings_reach_the_methods_that_have_a_use_for_them():
    texts = ["terms.kd.temperature=2", "generations=2", "optim.lr=0.1", "gradients=sum"]
    of_teacher, of_method = comparison._divided(texts, ["none", "kd", "kd+at", "born-again"])
    assert of_teacher == ["optim.lr=0.1"]
    assert of_method["none"] == ["optim.lr=0.1", "gradients=sum"]
    assert of_method["kd"] == of_method["kd+at"] == [texts[0], *texts[2:]]
    assert of_method["born-again"] == texts
