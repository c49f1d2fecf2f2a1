"""Studies of detectors: which runs they are, what their tables say, and what is refused."""

import statistics
from types import SimpleNamespace

import pytest
from scipy.stats import t

from kdscope.demo import _detectors
from kdscope.detection.methods.presets import resolve
from kdscope.errors import KDScopeError
from kdscope.study import cells, load_study
from kdscope.study.tables import for_paper, over_seeds, table


def groups(name, scale):
    """The first cell of each group."""
    return {cell.group: cell for cell in reversed(cells(load_study(name), scale))}


def test_what_the_demo_compares_differs_in_what_it_says():
    found = groups("detection", "cpu")
    students = {name: cell.config for name, cell in found.items() if name != "teacher"}
    assert {config.data.name for config in students.values()} == {"scenes:100"}
    assert {config.data.augment for config in students.values()} == {"none"}
    steps = {name: config.epochs for name, config in students.items() if name != "alone-longer"}
    assert len(set(steps.values())) == 1
    assert 1.4 < students["alone-longer"].epochs / steps["alone"] < 1.65  # of a step of FGD over a plain one
    assert found["teacher"].config.data.name == "scenes"
    for name in ("fgd", "mimicry", "chen2017"):
        assert [taught.cell for taught in found[name].teachers] == ["teacher-seed0"]
        assert not found[name].config.terms["detection"]["weight"] - 1


def test_studies_of_detectors_share_their_runs():
    ours, theirs = groups("detection", "cpu"), groups("fgd", "cpu")
    for name in ("teacher", "alone", "alone-longer", "mimicry", "fgd"):
        assert ours[name].key == theirs[f"{name}-fcos"].key


def test_what_inherits_has_a_uniform_control_and_one_that_learns_from_boxes_alone():
    found = groups("fgd", "cpu")
    for run, method in (("inheriting", "fgd-normalised"), ("inheriting-mimicry", "mimicry"), ("inherited", "none")):
        config = found[f"{run}-fcos"].config
        assert config.terms == resolve(f"{method}+inherit")
        assert config.epochs == found["fgd-fcos"].config.epochs


def test_official_recipe_of_fgd():
    config = groups("fgd", "paper")["inheriting-fcos"].config
    assert (config.epochs, config.data.batch_size, config.optim.lr) == (24, 16, 0.01)
    assert [round(24 * milestone) for milestone in config.optim.milestones] == [16, 22]
    assert "inherit" in config.terms
    assert groups("fgd", "paper")["official-fasterrcnn"].config.optim.lr == 0.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "fcos_resnet9_w8"}, "unknown detector 'fcos_resnet9_w8'.*nearest: fcos_resnet"),
        ({"model": "resnet20"}, "unknown detector 'resnet20'"),
        ({"method": "dkd"}, "unknown detection method 'dkd'"),
        ({"data": "scenes:100", "augment": "strong"}, "unknown augmentation 'strong'"),
    ],
)
def test_names_of_classifiers_are_none_of_detectors(tmp_path, settings, message):
    path = tmp_path / "one.yaml"
    chosen = {"data": "scenes", "model": "fcos_resnet10_w8"} | settings
    path.write_text(f"{{title: t, settings: {chosen}, runs: {{a: {{}}}}}}")
    with pytest.raises(KDScopeError, match=message):
        cells(load_study(path))


RUNS = {
    ("alone", "none", "scenes:100"): (0.30, 0.32, 0.28), ("fgd", "fgd", "scenes:100"): (0.50, 0.54, 0.49),
    ("plain", "none", "digits"): (0.9, 0.92, 0.95),
}  # fmt: skip


def test_tables_show_average_precision_of_detectors_and_accuracy_of_classifiers():
    made, states = [], {}
    for (group, method, data), values in RUNS.items():
        for seed, value in enumerate(values):
            config = SimpleNamespace(model=SimpleNamespace(name="n"), method=method, data=SimpleNamespace(name=data))
            made.append(SimpleNamespace(name=f"{group}{seed}", group=group, seed=seed, config=config))
            states[f"{group}{seed}"] = SimpleNamespace(state="done", score=value)
    study = SimpleNamespace(title="T?", published={}, settings={})
    rows = {row["group"]: row for row in table(study, made, states)}
    assert (rows["alone"]["ap"], rows["alone"]["accuracy"], rows["plain"]["accuracy"]) == ("30.00", "", "92.33")
    half = t.ppf(0.975, 2) * statistics.stdev([50.0, 54.0, 49.0]) / 3**0.5
    assert float(rows["fgd"]["ci_low"]) == pytest.approx(51 - half, abs=0.005)
    assert float(rows["fgd"]["ci_high"]) == pytest.approx(51 + half, abs=0.005)
    shown = for_paper(study, made, states)
    assert [column.title for column in shown.columns] == ["AP (%)", "accuracy (%)"]
    assert "| fgd | n | fgd | 3 | **51.00** ± 2.65 |  |" in shown.markdown()
    assert "| plain | n | none | 3 |  | 92.33 ± 2.52 |" in shown.markdown()


def test_the_demo_says_what_chance_may_explain():
    def runs(method, values, teachers):
        config = SimpleNamespace(model=SimpleNamespace(name="s"), teachers=teachers, method=method)
        summaries = [{"test_ap": v, "test_ap50": v, "seconds": 1.0, "parameters": 7} for v in values]
        return [SimpleNamespace(config=config, summary=s, metrics=[{"step": 9.0}]) for s in summaries]

    rows, gaps, notes = _detectors({
        "alone": runs("none", (0.30, 0.32, 0.28), ()), "alone-longer": runs("none", (0.33, 0.31, 0.32), ()),
        "mimicry": runs("mimicry", (0.50, 0.52, 0.49), (1,)), "fgd": runs("fgd", (0.51, 0.50, 0.50), (1,)),
    })  # fmt: skip
    assert [row["AP %"] for row in rows][-1].startswith("50.3 [")
    gaps = {row["student"]: row for row in gaps}
    low, high = over_seeds([21.0, 18.0, 22.0])
    assert gaps["fgd"]["over alone"] == f"+20.3 [{low:+.1f}, {high:+.1f}]"
    assert (gaps["alone-longer"]["over mimicry"], gaps["mimicry"]["over mimicry"]) == ("", "")
    assert notes == [
        "alone-longer cannot be told from alone (the same steps)",
        "mimicry is better than alone (the same steps), is better than alone-longer (the time of FGD)",
        "fgd is better than alone (the same steps), is better than alone-longer (the time of FGD), cannot be told from "
        "mimicry (the uniform control)",
    ]
