"""The analyses of detectors on networks whose detections and maps are known: each number in closed form."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up import (
    CLASSES,
    IMAGES,
    SIDE,
    STRIDES,
    Memory,
    detections,
    every_object,
    half_of_the_images,
    inside,
    network,
    subject,
    truth,
)

from kdscope.analyses.base import run_analysis
from kdscope.analyses.detection_patch_in import losses
from kdscope.detection.measures.shapley import subsets
from kdscope.detection.patch import PARTS, named
from kdscope.errors import KDScopeError
from kdscope.figures import FIGURES
from kdscope.figures.style import read_table
from kdscope.measures.controls import derangement
from kdscope.measures.statistics import wilson

ALONE = "floor:independent-student"
HALF_RECALL = 51 / 101  # AP where half of the objects are found, and nothing else: recalls 0 to 0.5


def pair_of(equal: bool, where: int | None = None) -> Memory:
    """A cache of kind "pair": equal networks, or ones that differ in their rows, and in features in one region."""
    rows, rng = 20, np.random.default_rng(0)
    labels = np.tile(np.r_[[1, 2, 2], np.zeros(rows - 3, dtype=int)], (IMAGES, 1))
    teacher = rng.normal(size=(IMAGES, rows, len(CLASSES)))
    targets = rng.normal(size=(IMAGES, rows, 4))
    arrays = truth() | {"rows/dense/labels": labels, "rows/dense/teacher": teacher, "rows/dense/targets": targets}
    arrays["rows/dense/student"] = teacher if equal else -teacher
    arrays["rows/dense/teacher_deltas"] = targets
    arrays["rows/dense/student_deltas"] = targets if equal else targets + 1
    for stride in STRIDES:
        side = SIDE // stride
        error = np.zeros((IMAGES, side, side)) if equal else np.where(inside(stride), 3.0, 0.0) + (where or 0)
        arrays |= {f"error/{stride}": error, f"energy/{stride}": np.full((IMAGES, side, side), 4.0)}
    return Memory(arrays, {"strides": list(STRIDES), "heads": {"dense": "sigmoid"}, "coders": {"dense": [1.0] * 4}})


@pytest.fixture(scope="module")
def cast_of_five():
    """A teacher that finds all, a student that is like it, and two students alone that find half each."""
    teacher = subject("teacher", "teacher")
    copies = [subject(f"copy-seed{k}", "copy", k, (teacher,)) for k in (0, 1)]
    alone = [subject(f"alone-seed{k}", "alone", k) for k in (0, 1)]
    caches = {"teacher": network(every_object(), 0.8, attention=3.0)}
    caches |= {one.name: network(every_object(), 0.8, attention=3.0) for one in copies}
    caches |= {one.name: network(half_of_the_images(k), 0.0) for k, one in enumerate(alone)}

    def beside(student, teacher, split, kind="pair", untrained=False, fitted=False):
        if kind != "pair":
            return patched("ring" if student.name.startswith("copy") else "fg")
        return pair_of(student.name.startswith("copy") and not untrained)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdscope.analyses.detection_views.detection_cache", lambda one, split: caches[one.name])
        for analysis in ("dense", "patch_in"):
            patch.setattr(f"kdscope.analyses.detection_{analysis}.pair_cache", beside)
        yield [*copies, *alone]


def one(table: pd.DataFrame, **where) -> pd.Series:
    """The only row with these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, f"{len(table)} rows"
    return table.iloc[0]


@pytest.fixture(scope="module")
def table(cast_of_five):
    return run_analysis("detection", cast_of_five).table


def test_precision_is_that_of_what_is_found(table):
    truth_rows = table[(table["pair"] == "truth") & (table["class"] == "all")]
    for area in ("small", "medium", "large"):
        assert one(truth_rows, measure="ap", area=area, b="alone-seed0").value == pytest.approx(HALF_RECALL)
    alone = one(truth_rows, measure="ap", area="all", b="alone")
    assert (alone.value, alone.seeds) == (pytest.approx(HALF_RECALL), 2)
    assert one(truth_rows, measure="ar", area="all", b="alone").value == pytest.approx(0.5)
    assert one(truth_rows, measure="ap", area="all", b="teacher").value == 1  # its false ones have lower scores


def test_gains_are_paired_differences_between_floor_and_ceiling(table):
    row = one(table, measure="ap", area="all", b="copy", pair="truth", **{"class": "all"})
    assert (row.floor, row.ceiling) == (pytest.approx(HALF_RECALL), 1)
    assert row.gain == pytest.approx(1 - HALF_RECALL)
    assert row.gain_low < row.gain < row.gain_high  # which images the student alone finds is resampled
    gap = one(table, measure="ap-difference", area="all", b="copy", a="alone")
    assert (gap.value, gap.pair) == (pytest.approx(row.gain), "floor:independent-student")
    churn = one(table, measure="ap-difference", b="alone-seed1", a="alone-seed0")
    assert churn.value == pytest.approx(0)
    assert churn.ci_low < 0 < churn.ci_high


def test_a_student_that_is_its_teacher_agrees_in_everything(table):
    own = table[(table["pair"] == "teacher-student") & (table["seed"] == "all")]
    for measure in ("agree-f1", "agree-f1-any-class"):
        values = own[own["measure"] == measure]
        assert values["value"].tolist() == [1] * 11
    for measure, value in {"label-agreement": 1, "box-iou": 1, "score-gap": 0}.items():
        assert one(own, measure=measure).value == pytest.approx(value, abs=1e-7)
    assert one(own, measure="fidelity-ap").value == pytest.approx(1)
    for part in ("foreground", "background"):
        assert one(own, measure="row-agreement", part=part).value == 1
        assert one(own, measure="row-kl", part=part).value == 0
    assert one(own, measure="worse-boxes").value == 0


def test_the_student_alone_is_the_floor_and_two_seeds_the_ceiling(table):
    row = one(table, measure="agree-f1", iou="0.5", pair="teacher-student", seed="all")
    # Half of the images agree in all three objects, in the others one of the two is empty.
    assert row.floor == pytest.approx(0.5)
    assert row.ceiling == 1
    assert row.gain == pytest.approx(0.5)
    assert "floor: independent student" in row.control
    fidelity = one(table, measure="fidelity-ap", pair="teacher-student", seed="all")
    assert fidelity.gain == pytest.approx(fidelity.value - fidelity.floor)
    assert fidelity.gain_low < fidelity.gain < fidelity.gain_high  # which images the student alone finds is resampled
    assert 0 <= fidelity.ci_low <= fidelity.ci_high <= 1
    rows = one(table, measure="worse-boxes", pair="floor:independent-student", seed="all")
    assert rows.value == 1


def test_rows_stand_beside_an_untrained_network_and_rows_of_others(table):
    untrained = table[table["pair"] == "floor:random-init"]
    assert one(untrained, measure="worse-boxes").value == 1
    assert one(untrained, measure="row-agreement", part="foreground", b="fcos (random init)").value < 0.7
    rows, rng = 20, np.random.default_rng(0)  # as in `pair_of`, all images of which have the same labels
    teacher = rng.normal(size=(IMAGES, rows, len(CLASSES)))
    answer = np.where(teacher.max(2) > 0, teacher.argmax(2), len(CLASSES))
    other = answer[derangement(IMAGES)]
    shuffled = table[(table["pair"] == "floor:shuffled") & (table["seed"] == "0")]
    for part, of in (("foreground", slice(0, 3)), ("background", slice(3, None))):
        row = one(shuffled, measure="row-agreement", part=part)
        assert row.value == pytest.approx((answer[:, of] == other[:, of]).mean())
        assert row.n == IMAGES


def test_objects_that_only_the_teacher_found_are_transferred(cast_of_five):
    table = run_analysis("detection-outcomes", cast_of_five).table
    whole = table[(table["area"] == "all") & (table["class"] == "all") & (table["iou"] == "0.5")]
    for seed in ("0", "1", "all"):
        own = whole[(whole["seed"] == seed) & (whole["pair"] == "teacher-student")]
        transfer = one(own, measure="transfer")
        # The second student alone finds all that the first one missed.
        assert (transfer.value, transfer.floor, transfer.gain) == (1, 1, 0)
        harm = one(own, measure="harm")
        assert (harm.value, harm.floor, harm.gain) == (0, 1, 1)  # a gain is what is better than the floor
        # Of 18 objects none is lost, in any of the resampled images: that is no certainty.
        assert (harm.ci_low, harm.ci_high) == pytest.approx(wilson(0, 18))
        # Nor is by how much less it is than of the student alone, which lost 18 of 18.
        assert (harm.gain_low, harm.gain_high) == pytest.approx((wilson(1, 18)[0] - wilson(0, 18)[1], 1))
        assert np.isnan(one(own, measure="beyond-teacher").value)  # there is nothing that the teacher missed
        objects = own[own["measure"] == "objects"].set_index("outcome")["value"]
        assert objects.sum() == 3 * IMAGES
        assert (objects["TBK"], objects["TbK"]) == (18, 18)
        assert transfer.baseline == {"0": "alone-seed1", "1": "alone-seed0", "all": "alone"}[seed]
        # The floor has rows of its own, and the same eight cells.
        floor = whole[(whole["seed"] == seed) & (whole["pair"] == "floor:independent-student")]
        assert (one(floor, measure="transfer").value, one(floor, measure="transfer").n) == (1, IMAGES)
        objects = floor[floor["measure"] == "objects"].set_index("outcome")["value"]
        assert (objects["TBK"], objects["TbK"], objects["TBk"]) == (0, 18, 18)
    small = one(table, measure="transfer", area="small", iou="0.5", seed="0", pair="teacher-student")
    assert small.objects == IMAGES / 2


def some_objects(seed: int, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).random((IMAGES, 3)) < share


@pytest.fixture
def seen(monkeypatch):
    """Networks by name that found those objects; the second of two is taught by the first."""
    caches: dict[str, Memory] = {}
    monkeypatch.setattr("kdscope.analyses.detection_views.detection_cache", lambda one, split: caches[one.name])
    return caches


def outcomes_of(table: pd.DataFrame, measure: str, seed: str, pair: str = "teacher-student") -> pd.Series:
    return one(table, measure=measure, seed=seed, pair=pair, iou="0.5", area="all", **{"class": "all"})


@pytest.mark.parametrize("seeds", [2, 3])
def test_what_a_student_shares_with_the_student_alone_of_its_seed_is_no_harm_and_no_lack(seen, seeds):
    """Students that learned nothing: each is the student alone of its own seed, once more."""
    teacher = subject("teacher", "teacher")
    alone = [subject(f"alone-seed{k}", "alone", k) for k in range(seeds)]
    copies = [subject(f"copy-seed{k}", "copy", k, (teacher,)) for k in range(seeds)]
    hits = [some_objects(k) for k in range(seeds)]
    seen |= {"teacher": network(every_object())}
    seen |= {f"{name}-seed{k}": network(hits[k]) for name in ("alone", "copy") for k in range(seeds)}
    table = run_analysis("detection-outcomes", [*copies, *alone]).table
    for k in range(seeds):
        others = [other for other in range(seeds) if other != k]
        transfer = outcomes_of(table, "transfer", str(k))
        assert transfer.value == pytest.approx(np.mean([hits[k][~hits[b]].mean() for b in others]))
        assert transfer.objects == np.mean([(~hits[b]).sum() for b in others])
        assert (transfer.floor, transfer.gain) == (pytest.approx(transfer.value), 0)
        for measure in ("transfer", "harm", "kept"):
            row, floor = (outcomes_of(table, measure, str(k), p) for p in ("teacher-student", ALONE))
            assert (row.value, row.ci_low, row.ci_high) == (floor.value, floor.ci_low, floor.ci_high)
            assert (row.gain, row.gain_low, row.gain_high) == (0, 0, 0)
    together = outcomes_of(table, "kept", "all")
    pairs = [hits[k][hits[b]].mean() for b in range(seeds) for k in range(seeds) if b != k]  # ordered pairs
    assert together.floor == pytest.approx(np.mean(pairs))


def test_without_a_student_alone_of_its_seed_all_of_them_stand_in_its_place(seen):
    teacher = subject("teacher", "teacher")
    alone = [subject(f"alone-seed{k}", "alone", k) for k in (1, 2)]
    hits = {k: some_objects(k) for k in (0, 1, 2)}
    seen |= {"teacher": network(every_object()), "kd": network(hits[0])}
    seen |= {one.name: network(hits[one.seed]) for one in alone}
    table = run_analysis("detection-outcomes", [subject("kd", "kd", 0, (teacher,)), *alone]).table
    kept = outcomes_of(table, "kept", "0")
    assert kept.value == pytest.approx(np.mean([hits[0][hits[b]].mean() for b in (1, 2)]))
    assert kept.floor == pytest.approx(np.mean([hits[2][hits[1]].mean(), hits[1][hits[2]].mean()]))


def test_a_lone_student_alone_of_the_same_seed_is_told(seen):
    teacher = subject("teacher", "teacher")
    seen |= {"teacher": network(every_object()), "kd": network(some_objects(0)), "alone": network(some_objects(1))}
    report = run_analysis("detection-outcomes", [subject("kd", "kd", 0, (teacher,)), subject("alone", "alone", 0)])
    assert any("kd stands beside a student alone of its own seed" in note for note in report.notes)
    assert np.isnan(outcomes_of(report.table, "transfer", "0").floor)


@pytest.mark.parametrize("backwards", [False, True])
def test_every_number_has_the_same_student_alone_for_its_floor(seen, backwards):
    """Not the one that trained for longer, whichever source came first."""
    teacher = subject("teacher", "teacher")
    alone = [replace(subject(f"alone-seed{k}", "alone", k), recipe={"epochs": 4}) for k in (0, 1)]
    longer = [replace(subject(f"a-longer-seed{k}", "a-longer", k), recipe={"epochs": 6}) for k in (0, 1)]
    students = [replace(subject(f"kd-seed{k}", "kd", k, (teacher,)), recipe={"epochs": 4}) for k in (0, 1)]
    sources = [*longer, *alone, *students]
    seen |= {one.name: network(some_objects(k)) for k, one in enumerate([teacher, *sources])}
    sources = sources[::-1] if backwards else sources
    table = run_analysis("detection", sources, heads=False).table
    own = table[(table["group"] == "kd") & table["floor"].notna()]
    for seed, text in own.loc[own["pair"] == "truth", ["seed", "control"]].itertuples(index=False):
        assert text.partition(";")[0] == ("floor: alone" if seed == "all" else f"floor: alone-seed{seed}")
    named = own.loc[(own["pair"] == "teacher-student") & (own["seed"] == "all"), "control"]
    assert {text.partition(";")[0] for text in named} == {"floor: independent student (alone)"}
    table = run_analysis("detection-outcomes", sources).table
    own = table[(table["group"] == "kd") & (table["seed"] == "all")]
    assert set(own["baseline"].dropna()) == {"alone"}
    assert all(text.endswith("(alone)") for text in own["control"].dropna() if text)


def test_outcomes_over_seeds_know_of_the_seeds(seen):
    """Two trainings that differ in everything: found all, and what the student alone found."""
    teacher = subject("teacher", "teacher")
    alone = [subject(f"alone-seed{k}", "alone", k) for k in (0, 1)]
    students = [subject(f"kd-seed{k}", "kd", k, (teacher,)) for k in (0, 1)]
    large = np.broadcast_to(np.arange(3) == 2, (IMAGES, 3))
    seen |= {"teacher": network(every_object()), "kd-seed0": network(every_object()), "kd-seed1": network(large)}
    seen |= {one.name: network(large) for one in alone}
    table = run_analysis("detection-outcomes", [*students, *alone]).table
    row = outcomes_of(table, "transfer", "all")
    assert (row.value, row.ci_low, row.ci_high) == (0.5, 0, 1)
    assert (row.gain, row.gain_low, row.gain_high) == (0.5, -1, 1)
    assert row.objects == 2 * IMAGES
    missed = one(table, measure="error-cost", kind="missed", seed="all", b="kd")
    assert 0 <= missed.ci_low <= missed.value <= missed.ci_high <= 1
    assert -1 <= missed.gain_low <= missed.gain <= missed.gain_high <= 1


def test_mistakes_cost_what_mending_them_gains(cast_of_five):
    table = run_analysis("detection-outcomes", cast_of_five).table
    costs = table[(table["measure"] == "error-cost") & (table["b"] == "alone-seed0")].set_index("kind")["value"]
    assert costs["missed"] == pytest.approx(1 - HALF_RECALL)
    assert costs.drop("missed").abs().max() == 0
    gains = table[(table["measure"] == "error-cost") & (table["b"] == "copy")].set_index("kind")["gain"]
    assert gains["missed"] == pytest.approx(1 - HALF_RECALL)  # less is lost: better
    fewer = one(table, measure="errors-per-image", kind="missed", b="copy")
    assert (fewer.value, fewer.floor, fewer.gain) == (0, 1.5, 1.5)
    counts = table[(table["measure"] == "errors-per-image") & (table["b"] == "teacher")].set_index("kind")["value"]
    assert (counts["background"], counts.drop("background").sum()) == (1, 0)


def test_false_positives_of_the_teacher_are_inherited(monkeypatch):
    teacher = subject("teacher", "teacher")
    student, alone = subject("student", "student", 0, (teacher,)), subject("alone", "alone")
    found = every_object()
    found[::3, 0] = False  # so that the cut keeps what has the lowest score
    caches = {"teacher": network(found, 0.9), "student": network(found, 0.9), "alone": network(found, 0.9)}
    moved = caches["alone"].array("detections/boxes")
    moved[moved[..., 0] == 90] -= 60
    monkeypatch.setattr("kdscope.analyses.detection_views.detection_cache", lambda one, split: caches[one.name])
    row = one(run_analysis("detection-outcomes", [student, alone]).table, measure="inherited-false-positives")
    assert (row.value, row.floor, row.gain, row.objects) == (1, 0, 1, IMAGES)


def test_attention_and_errors_are_those_of_the_regions(cast_of_five):
    table = run_analysis("detection-attention", cast_of_five, temperature=1.0, definition="kdscope").table
    table = table.assign(layer=table["layer"].fillna(""))
    truth_rows = table[(table["pair"] == "truth") & (table["area"] == "all")]
    for stride in STRIDES:
        share = inside(stride).mean()
        row = one(truth_rows, measure="energy-in-boxes", layer=f"stride {stride}", b="teacher")
        assert row.value == pytest.approx(share * np.e**2 / (share * np.e**2 + 1 - share))
        flat = one(truth_rows, measure="lift", layer=f"stride {stride}", b="alone-seed0")
        assert flat.value == pytest.approx(1)
        assert one(truth_rows, measure="auroc", layer=f"stride {stride}", b="copy").value == 1
    pairs = table[(table["pair"] == "teacher-student") & (table["area"] == "all") & (table["layer"] == "")]
    pairs = pairs[(pairs["seed"] == "all") & (pairs["region"] == "")]
    assert one(pairs, measure="attention-overlap").value == pytest.approx(1)
    assert one(pairs, measure="gap-foreground").value == one(pairs, measure="gap-background").value == 0


def test_the_ratio_of_gaps_has_a_gain_with_the_interval_of_both(cast_of_five, monkeypatch):
    maps = {"teacher": 3.0, "copy-seed0": 2.0, "copy-seed1": 2.5}
    caches = {name: network(every_object(), attention=value) for name, value in maps.items()}
    alone = network(every_object())
    own = np.arange(IMAGES)[:, None, None] % 3 == 0  # a third of the images the student alone sees as its teacher does
    for stride in STRIDES:
        name = f"maps/attention/{stride}"
        alone.array(name)[:] = np.where(own, caches["teacher"].array(name) * 1.1, 1.0)
    caches |= dict.fromkeys(("alone-seed0", "alone-seed1"), alone)
    monkeypatch.setattr("kdscope.analyses.detection_views.detection_cache", lambda one, split: caches[one.name])
    given = {"temperature": 1.0, "untrained": False, "definition": "kdscope"}
    table = run_analysis("detection-attention", cast_of_five, **given).table
    table = table[(table["measure"] == "gap-ratio") & (table["layer"] == "stride 8") & (table["area"] == "all")]
    for seed in ("0", "all"):
        row = one(table, pair="teacher-student", seed=seed)
        floor = one(table, pair=ALONE, seed=seed)
        assert row.floor == pytest.approx(floor.value)
        assert row.gain == pytest.approx(row.value - row.floor)
        assert row.gain_low <= row.gain <= row.gain_high
        assert row.ci_low >= 0


def test_shares_of_the_error_add_up_to_one(cast_of_five):
    table = run_analysis("detection-attention", cast_of_five, definition="kdscope").table
    floor = table[(table["pair"] == "floor:independent-student") & (table["seed"] == "0")]
    for stride in STRIDES:
        own = floor[floor["layer"] == f"stride {stride}"]
        shares = own[own["measure"] == "error-share"].set_index("region")["value"]
        assert shares.sum() == pytest.approx(1)
        assert shares["ring"] == shares["far"] == 0  # the error was put on the objects alone
        assert one(own, measure="normalised-error", region="large").value == pytest.approx(3 / 4)
    cells = {stride: inside(stride)[0].sum() for stride in STRIDES}
    levels = floor[floor["measure"] == "level-share"].set_index("layer")["value"]
    assert levels.sum() == pytest.approx(1)
    assert levels["stride 8"] == pytest.approx(cells[8] / sum(cells.values()))


def test_the_gallery_has_the_attention_of_all_three_and_the_boxes(cast_of_five):
    report = run_analysis("detection-attention", cast_of_five, temperature=1.0)
    (pictures,) = report.pictures.values()
    assert list(pictures.maps) == ["teacher", "copy-seed0", "alone-seed0"]
    np.testing.assert_allclose(pictures.maps["alone-seed0"], 1)
    assert (pictures.maps["teacher"] == pictures.maps["copy-seed0"]).all()
    assert pictures.values["IoU"][0, 1] == 1
    assert (pictures.masks[0] == inside(4)[0]).all()
    # All are alike, and so come in their order.
    assert pictures.rows == ("no. 1", "no. 3", "no. 6", "no. 8", "no. 10")
    assert report.table["pictures"].notna().sum() == 7  # those of the pairs at this level and of all objects


def patched(costly: str) -> Memory:
    """The teacher's head finds everything, unless one part is replaced: then the objects of half of the images."""
    arrays = truth()
    for some in subsets(PARTS):
        found = half_of_the_images() if costly in some else every_object()
        arrays |= detections(found, start=f"detections/{named(some, PARTS)}")
    return Memory(arrays, {"parts": list(PARTS), "most": 100})


@pytest.mark.parametrize("costly", PARTS)
def test_what_one_part_costs_is_its_own_and_parts_add_up(costly):
    scores = losses(patched(costly), resamples=20)
    assert scores["patched-ap", "none"].value == 1
    assert scores["patched-ap", "+".join(PARTS)].value == pytest.approx(HALF_RECALL)
    assert scores["ap-lost", "all"].value == pytest.approx(1 - HALF_RECALL)
    for part in PARTS:
        assert scores["ap-lost", part].value == pytest.approx((1 - HALF_RECALL) * (part == costly))
    total = sum(scores["ap-lost", part].draws for part in PARTS)
    np.testing.assert_allclose(total, scores["ap-lost", "all"].draws, atol=1e-12)


def test_patch_in_compares_with_the_student_alone(cast_of_five):
    table = run_analysis("detection-patch-in", cast_of_five, by="regions", definition="kdscope").table
    own = table[(table["measure"] == "ap-lost") & (table["b"] == "copy")].set_index("part")
    # Less that is lost is a gain: here all of it in the ring, and of the student alone on the objects.
    assert own.loc["ring", "value"] == pytest.approx(1 - HALF_RECALL)
    assert own.loc["ring", "gain"] == pytest.approx(HALF_RECALL - 1)
    assert (own.loc["fg", "floor"], own.loc["fg", "gain"]) == (pytest.approx(1 - HALF_RECALL),) * 2
    assert set(own["control"]) == {"floor: student alone (alone)"}
    assert own.loc["all", "gain"] == pytest.approx(0)


@pytest.mark.parametrize(("sources", "notes"), [(3, ["copy: gains are over one student alone (alone-seed0)"]), (4, [])])
def test_patch_in_says_that_students_share_a_student_alone(cast_of_five, sources, notes):
    report = run_analysis("detection-patch-in", cast_of_five[:sources], by="regions", definition="kdscope")
    assert [note.partition(",")[0] for note in report.notes if "gains " in note] == notes


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("detection", ["ap", "difference", "agreement", "iou", "rows"]),
        ("detection-outcomes", ["objects", "errors", "inherited"]),
        ("detection-attention", ["boxes", "levels", "error"]),
        ("detection-patch-in", ["lost"]),
    ],
)
def test_figures_are_drawn_from_a_table_alone(cast_of_five, tmp_path, name, parts):
    run_analysis(name, cast_of_five).table.to_csv(tmp_path / "table.csv", index=False)
    made = FIGURES[name](read_table(tmp_path / "table.csv"))
    drawn = {stem: figure.told for stem, figure in made if figure is not None}
    assert list(drawn) == [f"{name}-{part}" for part in parts]
    assert name not in drawn  # its rows would be written over the table
    for stem, (rows, caption) in drawn.items():
        assert set(rows["figure"]) == {stem}
        # Nobody has a false positive, and of no image there is a share of them.
        assert ("2 seeds" if stem == "detection-outcomes-inherited" else "12 images; 2 seeds") in caption


def test_a_lone_detector_has_precision_and_no_outcomes(monkeypatch):
    lone = subject("lone", "lone")
    cache = network(every_object())
    monkeypatch.setattr("kdscope.analyses.detection_views.detection_cache", lambda one, split: cache)
    table = run_analysis("detection", [lone]).table
    assert one(table, measure="ap", area="all", **{"class": "all"}).value == 1
    assert set(table["measure"]) == {"ap", "ap50", "ap75", "ar"}
    assert set(run_analysis("detection-attention", [lone]).table["pair"]) == {"truth", "floor:shuffled"}
    with pytest.raises(KDScopeError, match="lone has no teacher to be compared with; name one by --teacher RUN"):
        run_analysis("detection-outcomes", [lone])


def test_bad_options_are_named(cast_of_five):
    with pytest.raises(KDScopeError, match="parts by 'colour' are unknown; they are by regions or levels"):
        run_analysis("detection-patch-in", cast_of_five, by="colour")
    with pytest.raises(KDScopeError, match="temperature 0 is not above 0"):
        run_analysis("detection-attention", cast_of_five, temperature=0)
