"""What the analyses of detectors say of several seeds, and of a student alone that these share."""

import math

import numpy as np
import pandas as pd
import pytest
from made_up import IMAGES, Memory, every_object, network, subject

from kdscope.analyses.base import run_analysis
from kdscope.analyses.cast import Pair, Party
from kdscope.analyses.compare import Finding, over_groups
from kdscope.analyses.detection_lines import all_seeds, line_of
from kdscope.analyses.detection_words import shared_floors
from kdscope.detection.measures.resampling import Score
from kdscope.measures.result import Result
from kdscope.measures.statistics import wilson


def some_objects(seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random((IMAGES, 3)) < share


@pytest.fixture
def found(monkeypatch):
    """A function of how many seeds each way of training has: the sources, networks that find more the later named."""
    caches: dict[str, Memory] = {"teacher": network(every_object())}
    monkeypatch.setattr("kdscope.analyses.detection_views.detection_cache", lambda one, split: caches[one.name])

    def sources(**seeds: int):
        teacher, made = subject("teacher", "teacher"), []
        for place, (group, count) in enumerate(seeds.items()):
            for k in range(count):
                made.append(subject(f"{group}-seed{k}", group, k, () if group == "alone" else (teacher,)))
                caches[made[-1].name] = network(some_objects(10 * place + k, 0.4 + 0.2 * place))
        return made

    return sources


def said(report, words: str) -> list[str]:
    return [note for note in report.notes if words in note]


def test_caveats_of_few_seeds_are_of_each_way_of_training(found):
    report = run_analysis("detection", found(alone=2, kd=2, fgd=1), heads=False)
    alone = "one seed of fgd-seed0: intervals are over images, and say nothing of another training"
    assert said(report, "one seed") == [alone]
    assert len(said(report, "fewer than five seeds: the intervals over seeds and images are wide")) == 1
    report = run_analysis("detection", found(alone=5, kd=5), heads=False)
    assert said(report, "one seed of") == said(report, "fewer than") == []


@pytest.mark.parametrize(
    ("alone", "words"), [(1, "over one student alone (alone-seed0), another"), (2, "share 2 students")]
)
def test_gains_over_fewer_students_alone_than_students_say_so_once(found, alone, words):
    report = run_analysis("detection", found(alone=alone, kd=3, fgd=1), heads=False)
    (note,) = said(report, words)
    assert note.startswith("kd: gains")
    report = run_analysis("detection", found(alone=3, kd=3, fgd=1), heads=False)
    assert said(report, "over one student alone") == said(report, "gains share") == []


def same(value: float) -> Score:
    """In all resampled images what it is in the images."""
    return Score(value, np.full(401, value))


def of_few(value: float, floor: Score, *, objects: int, floor_objects: int, measure: str = "transfer"):
    return line_of(
        measure, same(value), 12, {}, confidence=0.95, floor=floor, objects=objects, floor_objects=floor_objects
    )


def test_a_gain_of_few_objects_is_no_more_certain_than_its_share():
    line = of_few(1.0, same(0.0), objects=2, floor_objects=3)
    (low, _), (_, high) = wilson(1.0, 2), wilson(0.0, 3)
    assert line.gain.value == 1
    assert (line.gain.ci_low, line.gain.ci_high) == pytest.approx((low - high, 1))
    # Less harm is better: the same ends the other way round.
    less = of_few(0.0, same(1.0), objects=3, floor_objects=2, measure="harm")
    assert (less.gain.ci_low, less.gain.ci_high) == pytest.approx((line.gain.ci_low, line.gain.ci_high))
    # A floor whose resamples differ brings its own interval.
    floor = Score(0.5, np.linspace(0.3, 0.7, 401))
    line = of_few(1.0, floor, objects=2, floor_objects=40)
    assert (line.gain.ci_low, line.gain.ci_high) == pytest.approx((low - 0.69, 1 - 0.31))
    # All of one and half of the other in all resamples, of one image with two objects.
    line = of_few(0.5, same(0.5), objects=2, floor_objects=2)
    low, high = wilson(0.5, 2)
    assert (line.result.ci_low, line.result.ci_high) == (low, high)
    assert (line.gain.ci_low, line.gain.ci_high) == pytest.approx((low - high, high - low))


def test_over_seeds_a_gain_of_few_objects_is_as_uncertain():
    lines = [of_few(1.0, same(0.0), objects=2, floor_objects=3) for _ in range(3)]
    together = all_seeds(lines, {}, 0.95)
    assert (together.gain.ci_low, together.gain.ci_high) == pytest.approx((lines[0].gain.ci_low, 1))
    assert together.result.ci_low == pytest.approx(wilson(1.0, 2)[0])


def test_trainings_without_a_number_are_not_counted():
    lines = [of_few(value, same(0.0), objects=2, floor_objects=3) for value in (1.0, math.nan, 0.5)]
    together = all_seeds(lines, {}, 0.95)
    assert (together.result.value, together.row()["seeds"]) == (0.75, 2)


def test_two_of_two_objects_are_not_surely_more_than_a_second_student_finds(found, monkeypatch):
    """Of two objects that the teacher alone found, the student found both and the second student none."""
    hits = {name: every_object() for name in ("teacher", "kd-seed0", "alone-seed0", "alone-seed1")}
    for name in ("alone-seed0", "alone-seed1"):
        hits[name][:2, 0] = False
    sources, caches = found(alone=2, kd=1), {name: network(some) for name, some in hits.items()}
    monkeypatch.setattr("kdscope.analyses.detection_views.detection_cache", lambda one, split: caches[one.name])
    report = run_analysis("detection-outcomes", sources)
    assert said(report, "kd-seed0 finds 100.0%") == [
        "kd-seed0 finds 100.0% of the objects that only the teacher found, "
        "not surely more than the 0.0% of a second student alone"
    ]


def test_pairs_of_which_no_image_counts_are_not_counted():
    teacher = Party((subject("teacher", "teacher"),))
    pairs = [Pair("teacher-student", teacher, Party((subject(f"kd-seed{k}", "kd", k),))) for k in range(3)]
    known = [Result("agreement", value, None, 10, value, value) for value in (0.4, 0.6)]
    none = Result("agreement", math.nan, None, 0, math.nan, math.nan)
    (together,) = over_groups([Finding(*each) for each in zip(pairs, [*known, none], strict=True)])
    assert (together.result.value, together.seeds) == (0.5, 2)


def test_the_floor_of_one_network_is_what_its_gain_is_over(found):
    table = run_analysis("detection", found(alone=2, kd=3, fgd=2), heads=False).table
    own = table[(table["pair"] == "truth") & table["gain"].notna() & table["group"].str.match("kd|fgd")]
    assert set(own["seed"]) == {"all", "0", "1", "2"}
    np.testing.assert_allclose(own["value"] - own["floor"], own["gain"], atol=1e-12)
    for (group, seed), text in own.set_index(["group", "seed"])["control"].items():
        alone = "alone" if seed in ("all", "2") else f"alone-seed{seed}"  # there is none of seed 2: both
        assert text.partition(";")[0] == f"floor: {alone}", group


@pytest.mark.parametrize(("alone", "notes"), [(1, ["kd: gains are over one student alone (alone-seed0)"]), (2, [])])
def test_attention_says_so_as_well(found, alone, notes):
    options = {"temperature": 1.0, "untrained": False, "definition": "kdscope"}
    report = run_analysis("detection-attention", found(alone=alone, kd=2), **options)
    assert [note.partition(",")[0] for note in said(report, "gains ")] == notes


def test_a_table_without_controls_has_no_shared_floor():
    row = {"pair": "teacher-student", "seed": "all", "gain": math.nan, "control": math.nan, "group": "kd", "b": "kd"}
    assert shared_floors(pd.DataFrame([row])) == []
