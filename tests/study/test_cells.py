"""From a study file to its runs: the grid, who learns from whom, keys, and what is refused."""

import itertools
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope import models
from kdscope.errors import KDScopeError
from kdscope.methods.objective import changed
from kdscope.study import cells, load_study, names
from kdscope.study.conduct import matches
from kdscope.study.grid import as_axis, points

BASE = {
    "title": "a study",
    "settings": {"data": "digits:8", "model": "resnet8", "epochs": 1},
    "runs": {
        "teacher": {"settings": {"model": "resnet14"}},
        "kd": {"settings": {"method": "kd"}, "teachers": "teacher"},
    },
}


@pytest.fixture
def study(tmp_path):
    """Write a study and load it; `changes` replace its top-level keys."""

    def make(name="study", **changes):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(BASE | changes, sort_keys=False))
        return load_study(path)

    return make


def by_name(study, scale=None):
    return {cell.name: cell for cell in cells(study, scale)}


def test_product_of_grid_and_seeds_with_further_and_without_some_points(study):
    runs = {
        "a": {
            "seeds": [3, 5],
            "grid": {"method": ["none", "label-smoothing"], "optim.lr": [0.1, 0.2]},
            "exclude": [{"method": "label-smoothing", "optim.lr": 0.2}],
            "include": [{"method": "none", "optim.lr": 0.4, "epochs": 7}],
        }
    }
    found = by_name(study(runs=runs))
    assert list(found) == [
        *("a-none-lr=0.1-seed3", "a-none-lr=0.1-seed5", "a-none-lr=0.2-seed3", "a-none-lr=0.2-seed5"),
        *("a-label-smoothing-lr=0.1-seed3", "a-label-smoothing-lr=0.1-seed5"),
        *("a-none-lr=0.4-seed3", "a-none-lr=0.4-seed5"),
    ]
    further = found["a-none-lr=0.4-seed5"]
    assert (further.config.optim.lr, further.config.epochs, further.config.seed) == (0.4, 7, 5)
    assert further.point == {"method": "none", "optim.lr": "0.4"}
    assert len({cell.key for cell in found.values()}) == len(found)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_as_many_points_as_the_product_less_those_excluded(sizes, data):
    grid = {f"x{k}": as_axis(f"x{k}", list(range(size))) for k, size in enumerate(sizes)}
    rule = {f"x{k}": data.draw(st.integers(0, size - 1)) for k, size in enumerate(sizes)}
    kept = [{axis: value for axis, (_, value) in point.items()} for point, _ in points(grid, exclude=[rule])]
    whole = [{axis: value for axis, (_, value) in point.items()} for point, _ in points(grid)]
    total = 1
    for size in sizes:
        total *= size
    assert len(whole) == total
    assert kept == [point for point in whole if point != rule]


def test_axis_with_names_and_axis_of_groups_of_settings(study):
    grid = {
        "optim.lr": {"slow": 0.01, "fast": 0.1},
        "recipe": {"short": {"epochs": 2}, "long": {"epochs": 9, "seed": 4}},
    }
    with pytest.raises(KDScopeError, match=r"unknown setting 'seed'|'seed' is no setting"):
        cells(study(runs={"a": {"settings": {"seed": 4}, "grid": grid}}))
    grid["recipe"]["long"] = {"epochs": 9, "optim.momentum": 0.5}
    found = by_name(study(runs={"a": {"grid": grid}}))
    long = found["a-slow-long-seed0"].config
    assert (long.optim.lr, long.epochs, long.optim.momentum) == (0.01, 9, 0.5)
    assert found["a-fast-short-seed0"].config.optim.momentum == 0.9


def test_precedence_of_settings(study):
    """The study's, the run's, the scale's, the scale's of that run, the grid's: each goes before those ahead of it."""
    made = study(
        settings=BASE["settings"] | {"optim": {"lr": 1.0, "momentum": 0.1}},
        runs={"a": {"settings": {"epochs": 2, "batch_size": 8, "optim.lr": 2.0}, "grid": {"data.augment": ["weak"]}}},
        scales={"s": {"settings": {"epochs": 3, "augment": "none"}, "runs": {"a": {"settings": {"batch_size": 9}}}}},
    )
    (config,) = [cell.config for cell in cells(made, "s")]
    assert (config.optim.lr, config.optim.momentum, config.epochs) == (2.0, 0.1, 3)
    assert (config.data.batch_size, config.data.augment) == (9, "weak")


def test_teachers_are_matched_by_seed_and_by_the_axes_that_both_have(study):
    runs = {
        "t": {"settings": {"model": "resnet14"}, "grid": {"data.augment": ["weak", "strong"]}},
        "s": {"settings": {"method": "kd"}, "grid": {"data.augment": ["weak", "strong"]}, "teachers": "t"},
        "mixed": {"settings": {"method": "kd"}, "teachers": [{"run": "t", "data.augment": ["weak", "strong"]}]},
        "one": {
            "settings": {"method": "kd"},
            "teachers": [{"run": "t", "data.augment": "weak", "seed": 1, "weight": 3}],
        },
    }
    found = by_name(study(runs=runs, seeds=2))
    assert found["s-weak-seed1"].needs == ("t-weak-seed1",)
    assert found["s-strong-seed0"].needs == ("t-strong-seed0",)
    assert found["mixed-seed1"].needs == ("t-weak-seed1", "t-strong-seed1")
    assert found["one-seed0"].needs == ("t-weak-seed1",)
    assert found["one-seed0"].teachers[0].weight == 3


def test_one_teacher_serves_all_seeds_and_offsets_keep_starts_apart(study):
    runs = {"t": {"seeds": 1, "seed_offset": 1000}, "s": {"settings": {"method": "kd"}, "seeds": 3, "teachers": "t"}}
    found = by_name(study(runs=runs))
    assert [found[f"s-seed{k}"].needs for k in range(3)] == [("t-seed0",)] * 3
    assert (found["t-seed0"].config.seed, found["s-seed0"].config.seed) == (1000, 0)


def test_teachers_as_an_axis_and_a_method_that_has_no_use_for_them(study):
    runs = {
        "t1": {}, "t2": {"seed_offset": 1},
        "s": {
            "grid": {"teachers": {"1": ["t1"], "2": ["t1", "t2"]}, "method": ["none", "kd"]},
            "exclude": [{"teachers": 2, "method": "none"}],
        },
    }  # fmt: skip
    found = by_name(study(runs=runs))
    assert {name: cell.needs for name, cell in found.items() if cell.arm == "s"} == {
        "s-teachers=1-none-seed0": (),
        "s-teachers=1-kd-seed0": ("t1-seed0",),
        "s-teachers=2-kd-seed0": ("t1-seed0", "t2-seed0"),
    }
    # The same training under another name: there is one run for both.
    assert found["s-teachers=1-none-seed0"].key == found["t1-seed0"].key


def test_a_start_is_needed_and_changes_the_key(study):
    runs = {"a": {}, "b": {"start": "a"}, "c": {"settings": {"epochs": 2}}, "d": {"start": "c"}}
    found = by_name(study(runs=runs))
    assert found["b-seed0"].needs == ("a-seed0",)
    assert len({found[f"{name}-seed0"].key for name in "abd"}) == 3


def test_keys_are_of_what_is_learned_alone(study):
    """Equal for another name, place of data or device, and for a default that is written out; else different."""
    keys = {
        name: by_name(study(settings=BASE["settings"] | extra))["kd-seed0"].key
        for name, extra in {
            "plain": {}, "device": {"device": "cpu"}, "workers": {"data.workers": 0}, "lr": {"optim.lr": 0.05},
            "default": {"optim.lr": 0.1}, "epochs": {"epochs": 2}, "checked": {"preflight": "warn"},
        }.items()
    }  # fmt: skip
    assert keys["plain"] == keys["device"] == keys["workers"] == keys["default"] == keys["checked"]
    assert len({keys["plain"], keys["lr"], keys["epochs"]}) == 3
    spelled = study(
        runs=BASE["runs"] | {"kd": {"settings": {"method": "kd", "terms.kd.temperature": 4.0}, "teachers": "teacher"}}
    )
    assert by_name(spelled)["kd-seed0"].key == keys["plain"]


def test_another_teacher_is_another_training(study):
    other = {"teacher": {"settings": {"model": "resnet14", "epochs": 2}}, "kd": BASE["runs"]["kd"]}
    assert by_name(study())["kd-seed0"].key != by_name(study(runs=other))["kd-seed0"].key


def test_two_studies_share_what_is_equal(study):
    first = by_name(study("one", runs=BASE["runs"] | {"at": {"settings": {"method": "at"}, "teachers": "teacher"}}))
    second = by_name(
        study(
            "two", runs={"big": BASE["runs"]["teacher"], "student": {"settings": {"method": "kd"}, "teachers": "big"}}
        )
    )
    assert first["kd-seed0"].key == second["student-seed0"].key
    assert first["teacher-seed0"].key == second["big-seed0"].key
    assert first["at-seed0"].key not in {cell.key for cell in second.values()}


def test_a_scale_needs_none_of_the_values_that_are_excluded_or_included(study):
    run = {"grid": {"optim.lr": [0.1, 0.2]}, "exclude": [{"optim.lr": 0.2}], "include": [{"optim.lr": 0.4}]}
    made = study(runs={"a": run}, scales={"all": {}, "one": {"grid": {"optim.lr": [0.1]}}})
    assert list(by_name(made, "all")) == ["a-lr=0.1-seed0", "a-lr=0.4-seed0"]
    assert list(by_name(made, "one")) == ["a-lr=0.1-seed0"]


def test_the_study_of_the_documentation(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "studies" / "index.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "page.yaml").write_text(text)
    made = load_study(tmp_path / "page.yaml")
    assert "kd-temperature=4-Sw-short-seed0" in by_name(made, "smoke")
    # One teacher; alone and kd with 5 seeds: 3 temperatures, 2 views and 2 recipes, less 2 and one more.
    assert len(cells(made, "paper")) == 1 + 5 + 5 * (3 * 2 * 2 - 2 + 1)


def test_a_scale_is_smaller(study):
    made = study(
        seeds=5,
        runs=BASE["runs"] | {"x": {"grid": {"optim.lr": [0.1, 0.2], "kind": {"u": {"epochs": 3}, "v": {"epochs": 4}}}}},
        scales={
            "smoke": {"seeds": 1, "without": ["kd"], "grid": {"optim.lr": [0.9], "kind": ["v"]}},
            "paper": {"seeds": [7, 8]},
        },
    )
    assert list(by_name(made, "smoke")) == ["teacher-seed0", "x-lr=0.9-v-seed0"]
    assert list(by_name(made)) == list(by_name(made, "smoke"))  # the first of the file where none is named
    assert {cell.seed for cell in cells(made, "paper")} == {7, 8}


BAD = yaml.safe_load((Path(__file__).parent / "bad_studies.yaml").read_text())


@pytest.mark.parametrize("fault", BAD)
def test_bad_studies_get_one_line(study, fault):
    changes, message = BAD[fault]["changes"], BAD[fault]["message"]
    with pytest.raises(KDScopeError) as error:
        cells(study(**changes))
    assert re.search(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_study_and_scale(study, tmp_path):
    with pytest.raises(KDScopeError, match="unknown study 'quikstart'; nearest: quickstart"):
        load_study("quikstart")
    with pytest.raises(KDScopeError, match="no such study file"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(KDScopeError, match=r"unknown scale 'smok' in study 'quickstart'; nearest: smoke"):
        cells(load_study("quickstart"), "smok")


@pytest.mark.parametrize("name", names())
def test_every_study_that_is_shipped_can_be_planned_at_every_scale(name):
    shipped = load_study(name)
    assert {"smoke", "cpu", "paper"} <= set(shipped.scales)
    from kdscope.analyses import ANALYSES

    for scale in shipped.scales:
        made = cells(shipped, scale)
        place = {cell.name: k for k, cell in enumerate(made)}
        assert all(place[need] < place[cell.name] for cell in made for need in cell.needs)
        for question in shipped.analyses:
            assert set(question.options) <= set(ANALYSES[question.name].options)
    smoke = cells(shipped, "smoke")
    embedded = {"digits", "shapes", "long-tail", "part", "scenes"}
    assert {cell.config.data.name.split(":")[0] for cell in smoke} <= embedded
    whole = cells(shipped, "paper")
    for question in shipped.analyses:
        named = [question.options.get(option, []) for option in ANALYSES[question.name].sources]
        for pattern in [*question.runs, *itertools.chain(*named)]:
            assert any(matches(cell, pattern) for cell in whole), pattern
    groups = {cell.group for cell in whole}
    for source, numbers in shipped.published.items():
        assert set(numbers) <= groups, source


@pytest.mark.parametrize("scale", ["cpu", "controls", "paper"])
def test_the_wide_student_of_letkd_has_the_parameters_of_the_one_with_the_layer(scale):
    found = by_name(load_study("letkd-supervision"), scale)
    image_size, classes = (32, 100) if scale == "paper" else (16, 10)

    def parameters(name):
        config = found[f"student-{name}-seed0"].config
        network = models.build(config.model.name, classes, image_size=image_size, **config.model.options)
        return sum(p.numel() for p in changed(network, config.terms).parameters())

    wide = [name for name in ("wide-alone", "wide-kd") if f"student-{name}-seed0" in found]
    assert len(wide) == (1 if scale == "controls" else 2)
    for name in wide:
        assert parameters(name) == pytest.approx(parameters("letkd-1"), rel=0.01)
    assert parameters("letkd-1") > 1.3 * parameters("alone")  # so that capacity could be what helps


def test_no_other_scale_of_letkd_has_wide_students():
    study = load_study("letkd-supervision")
    with_wide = {scale for scale in study.scales if any("wide" in cell.name for cell in cells(study, scale))}
    assert with_wide == {"cpu", "controls", "paper"}
