"""What every number of detectors must keep, made from its card: none is without one, and no card without a number."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from made_up import Memory

from kdscope.analyses.detection_attention_pairs import errors, gaps, ratios
from kdscope.analyses.detection_maps import Cell, Framing, Grid
from kdscope.analyses.detection_patch_in import losses
from kdscope.detection.average_precision import Areas, average_precision
from kdscope.detection.data.record import Objects
from kdscope.detection.error_types import error_types, false_positives, inherited
from kdscope.detection.matching import match
from kdscope.detection.measures.agreement import best_score, detection_agreement
from kdscope.detection.measures.attention_boxes import against_boxes
from kdscope.detection.measures.cards import CARDS, label_of
from kdscope.detection.measures.dense_fidelity import dense_fidelity, tilted, worse_boxes
from kdscope.detection.measures.found import Found
from kdscope.detection.measures.outcomes import outcomes, table_of_outcomes
from kdscope.detection.measures.shapley import subsets
from kdscope.detection.patch import named
from kdscope.measures.base import INVARIANCES
from kdscope.report.cards import card

CLASSES, IMAGES, GRID = 3, 12, (8, 8)


@dataclass(frozen=True)
class Case:
    """What numbers are of: detections and objects of images, rows of heads, and mean |F| and errors on a grid."""

    found: dict[str, list[Found]]  # of teacher, student, alone
    objects: tuple[list[np.ndarray], list[np.ndarray]]  # boxes and labels of each image
    rows: dict[str, np.ndarray]  # logits and deltas, labels, image
    maps: dict[str, np.ndarray]  # mean |F| of teacher and student
    error: np.ndarray
    energy: np.ndarray
    side: float = 64.0
    order: np.ndarray = field(default_factory=lambda: np.arange(IMAGES))

    @property
    def truth(self) -> Objects:
        boxes, labels = self.objects
        return Objects.of([torch.from_numpy(some).float() for some in boxes], [torch.from_numpy(k) for k in labels])

    def on(self, grid: tuple[int, int] = GRID) -> Grid:
        size = (self.side, self.side)
        boxes = [some.astype(float) for some in self.objects[0]]
        return Framing(boxes, np.array([size] * IMAGES), size).on(grid)

    @property
    def region(self) -> np.ndarray:
        return self.on().region

    def cut(self, who: str) -> list[Found]:
        matches = match(self.found[who], self.truth)
        score = best_score(matches.scores, matches.right[0], int(matches.counted.sum()))
        return [some.above(score) for some in self.found[who]]

    def hits(self, who: str) -> np.ndarray:
        return match(self.cut(who), self.truth).hits[0]


def made(seed: int = 0) -> Case:
    """Networks that find some of the objects roughly, and other things, some of it twice under two labels."""
    rng = np.random.default_rng(seed)
    boxes, labels, found = [], [], {who: [] for who in ("teacher", "student", "alone")}
    for _ in range(IMAGES):
        corner = rng.integers(0, 40, (3, 2))
        boxes.append(np.c_[corner, corner + rng.integers(6, 24, (3, 2))].astype(np.float64))
        labels.append(rng.integers(1, CLASSES + 1, 3))
        for many in found.values():
            near = boxes[-1] + rng.normal(0, 2.5, (3, 4))
            far = rng.random((2, 2)) * 40
            every = np.r_[near, near[:1], np.c_[far, far + 12]]
            said = np.r_[np.where(rng.random(3) < 0.7, labels[-1], 1), 2, rng.integers(1, CLASSES + 1, 2)]
            many.append(Found.of(np.clip(every, 0, 64), rng.random(len(said)), said))
    count = 60
    rows = {name: rng.normal(size=(count, CLASSES)) for name in ("teacher", "student")}
    rows |= {f"{name}-deltas": rng.normal(size=(count, 4)) for name in ("teacher", "student", "target")}
    rows |= {"labels": rng.integers(0, CLASSES + 1, count), "image": rng.integers(0, IMAGES, count)}
    maps = {name: rng.random((IMAGES, *GRID)) for name in ("teacher", "student")}
    error, energy = rng.random((2, IMAGES, *GRID))
    return Case(found, (boxes, labels), rows, maps, error, energy + 1)


def attention(mean: np.ndarray) -> np.ndarray:
    power = np.exp(mean / 0.5)
    return power.size / len(power) * power / power.sum(axis=(1, 2), keepdims=True)


def mean_of(values: np.ndarray) -> float:
    return float(np.nanmean(values))


def precision(case: Case, who: str = "student", truth: Objects | None = None):
    areas = Areas({"all of it": (0, 1e10)})
    return average_precision(case.found[who], truth or case.truth, CLASSES, areas=areas)


def agreement(name: str) -> Callable[[Case], float]:
    return lambda case: mean_of(getattr(detection_agreement(case.cut("teacher"), case.cut("student")), name))


def rows(name: str, background: float = 1.0) -> Callable[[Case], float]:
    def value(case: Case) -> float:
        known = case.rows
        asked = tilted(known["teacher"], background)
        found = dense_fidelity(asked, known["student"], known["labels"], known["image"], IMAGES)
        return mean_of(getattr(found["foreground"], name))

    return value


def worse(case: Case) -> float:
    names = ("teacher-deltas", "student-deltas", "target-deltas", "labels", "image")
    return mean_of(worse_boxes(*(case.rows[name] for name in names), IMAGES))


def outcome(name: str) -> Callable[[Case], float]:
    def value(case: Case) -> float:
        hits = [case.hits(who) for who in ("teacher", "alone", "student")]
        return outcomes(*hits, case.truth.image.numpy(), IMAGES)[name].value

    return value


def mistakes(name: str) -> Callable[[Case], float]:
    def value(case: Case) -> float:
        errors = error_types(case.found["student"], case.truth)
        return errors.cost["localisation"] if name == "cost" else errors.counts["background"] / IMAGES

    return value


def shared_mistakes(case: Case) -> float:
    wrong = [false_positives(case.cut(who), match(case.cut(who), case.truth)) for who in ("student", "teacher")]
    shared, count = inherited(*wrong)
    return float(shared.sum() / count.sum())


def look(name: str) -> Callable[[Case], float]:
    inside = lambda case: case.region < 3  # noqa: E731
    return lambda case: mean_of(getattr(against_boxes(attention(case.maps["student"]), inside(case)), name))


def gap(name: str) -> Callable[[Case], float]:
    def value(case: Case) -> float:
        both = ({8: attention(case.maps[who])} for who in ("teacher", "student"))
        found, cell = gaps(*both, {8: case.on()}), Cell(name, "stride 8", "all", "")
        return ratios(found)[cell].value if name == "gap-ratio" else mean_of(found[cell])

    return value


def error(name: str, region: str = "ring") -> Callable[[Case], float]:
    """Of two levels, the second of which is on every other cell of the first."""

    def value(case: Case) -> float:
        both = {"error": case.error, "energy": case.energy}
        arrays = {f"{k}/{8 * step}": v[:, ::step, ::step] for k, v in both.items() for step in (1, 2)}
        grids = {8: case.on(), 16: case.on((GRID[0] // 2, GRID[1] // 2))}
        return mean_of(errors(Memory(arrays, {"strides": [8, 16]}), grids)[Cell(name, "stride 8", "all", region)])

    return value


def patched(measure: str, part: str) -> Callable[[Case], float]:
    """Of two parts: the teacher's own, one part the student alone's, all the student's."""
    parts, who = ("fg", "far"), {0: "teacher", 1: "alone", 2: "student"}

    def value(case: Case) -> float:
        size = np.full((IMAGES, 2), case.side)
        boxes, labels = (np.stack(some) for some in case.objects)
        area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
        arrays = {"truth/boxes": boxes, "truth/labels": labels, "truth/crowd": 0 * labels, "truth/area": area}
        arrays |= {"frame/size": size, "frame/original": size}
        for some in subsets(parts):
            for name in Found._fields:
                found = np.stack([getattr(each, name) for each in case.found[who[len(some)]]])
                arrays[f"detections/{named(some, parts)}/{name}"] = found
        cache = Memory(arrays, {"parts": list(parts), "most": 100})
        cache.classes = tuple("abc")
        return losses(cache, resamples=1)[measure, part].value

    return value


NUMBERS: dict[str, Callable[[Case], float]] = {
    "ap": lambda case: precision(case).ap(),
    "ap50": lambda case: precision(case).ap(0.5),
    "ap75": lambda case: precision(case).ap(0.75),
    "ar": lambda case: precision(case).ar(),
    "ap-difference": lambda case: precision(case).ap() - precision(case, "alone").ap(),
    "fidelity-ap": lambda case: precision(case, truth=_as_truth(case.cut("teacher"))).ap(),
    "agree-f1": agreement("f1"),
    "agree-f1-any-class": agreement("f1_any_class"),
    "label-agreement": agreement("same_label"),
    "box-iou": agreement("iou"),
    "score-gap": agreement("score_gap"),
    "row-agreement": rows("agreement"),
    "row-kl": rows("kl"),
    "row-kl-tilted": rows("kl", 1.5),
    "worse-boxes": worse,
    **{name: outcome(name) for name in ("transfer", "beyond-teacher", "harm", "kept")},
    "objects": lambda case: float(table_of_outcomes([case.hits(who) for who in case.found])[1, 1, 1]),
    "error-cost": mistakes("cost"),
    "errors-per-image": mistakes("count"),
    "inherited-false-positives": shared_mistakes,
    "energy-in-boxes": look("energy"),
    "lift": look("lift"),
    "auroc": look("auroc"),
    "area-matched-iou": look("iou"),
    "attention-overlap": gap("attention-overlap"),
    "gap-foreground": gap("gap-foreground"),
    "gap-background": gap("gap-background"),
    "gap-ratio": gap("gap-ratio"),
    "error-share": error("error-share"),
    "error-density": error("error-density"),
    "normalised-error": error("normalised-error"),
    "level-share": error("level-share", ""),
    "patched-ap": patched("patched-ap", "fg+far"),
    "ap-lost": patched("ap-lost", "fg"),
}


def _as_truth(found: list[Found]) -> Objects:
    return Objects.of(
        [torch.from_numpy(some.boxes) for some in found], [torch.from_numpy(some.labels) for some in found]
    )


def each_detection(case: Case, change: Callable[[Found], Found]) -> Case:
    return replace(case, found={who: [change(some) for some in many] for who, many in case.found.items()})


def other_order_of_images(case: Case) -> Case:
    order = np.random.default_rng(1).permutation(IMAGES)
    boxes, labels = ([part[k] for k in order] for part in case.objects)
    found = {who: [many[k] for k in order] for who, many in case.found.items()}
    maps = {who: each[order] for who, each in case.maps.items()}
    moved = case.rows | {"image": np.argsort(order)[case.rows["image"]]}
    return Case(found, (boxes, labels), moved, maps, case.error[order], case.energy[order], case.side)


def other_order_of_detections(case: Case) -> Case:
    rng = np.random.default_rng(2)

    def mixed(some: Found) -> Found:
        order = rng.permutation(len(some.scores))
        return Found(*(column[order] for column in some))

    return each_detection(case, mixed)


def other_names_of_classes(case: Case) -> Case:
    boxes, labels = case.objects
    renamed = each_detection(case, lambda some: Found(some.boxes, some.scores, some.labels % CLASSES + 1))
    return replace(renamed, objects=(boxes, [some % CLASSES + 1 for some in labels]))


def twice_as_large(case: Case) -> Case:
    boxes, labels = case.objects
    larger = each_detection(case, lambda some: Found(2 * some.boxes, some.scores, some.labels))
    return replace(larger, objects=([2 * some for some in boxes], labels), side=2 * case.side)


def other_scores(case: Case) -> Case:
    found = case.found | {"student": [Found(s.boxes, s.scores**3 / 2, s.labels) for s in case.found["student"]]}
    return replace(case, found=found)


def other_order_of_rows(case: Case) -> Case:
    order = np.random.default_rng(3).permutation(len(case.rows["labels"]))
    return replace(case, rows={name: each[order] for name, each in case.rows.items()})


def exchanged(case: Case) -> Case:
    turned = {"teacher": "student", "student": "teacher", "teacher-deltas": "student-deltas"}
    turned |= {"student-deltas": "teacher-deltas"}
    found, known, maps = (
        {name: each[turned.get(name, name)] for name in each} for each in (case.found, case.rows, case.maps)
    )
    return replace(case, found=found, rows=known, maps=maps)


CHANGES = {
    "sample-order": other_order_of_images,
    "detection-order": other_order_of_detections,
    "class-relabelling": other_names_of_classes,
    "box-scale": twice_as_large,
    "scores": other_scores,
    "row-order": other_order_of_rows,
    "swap": exchanged,
    "scale": lambda case: replace(case, maps=case.maps | {"student": 2.5 * case.maps["student"]}),
    "common-scale": lambda case: replace(case, error=4 * case.error, energy=4 * case.energy),
}
CLAIMS = [(name, claim) for name, each in CARDS.items() for claim in each.invariances]
# What is not claimed and does not hold: a card that left out what is true would be as wrong.
BREAKS = [
    *[(name, "scores") for name in ("score-gap",)],
    *[(name, "scale") for name in ("energy-in-boxes", "lift", "gap-foreground", "gap-background", "gap-ratio")],
    *[(name, "swap") for name in ("row-kl", "worse-boxes", "fidelity-ap", "ap-lost")],
]


def test_every_number_has_a_card_and_every_card_a_number():
    assert NUMBERS.keys() == CARDS.keys()
    assert CHANGES.keys() == {claim for _, claim in CLAIMS}
    for name, each in CARDS.items():
        assert each.name == name
        assert each.text.endswith(".")
        assert each.citation
        assert each.family.startswith("detection")
        assert each.resampling == "bootstrap"
        assert set(each.invariances) <= INVARIANCES.keys()
        assert label_of(name).startswith(each.title)


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_number_is_in_its_range(name, seed):
    value = NUMBERS[name](made(seed))
    assert CARDS[name].range[0] <= value <= CARDS[name].range[1]
    assert np.isfinite(value)
    assert value not in CARDS[name].range  # where a change could not be told


@pytest.mark.parametrize(("name", "claim"), CLAIMS)
def test_what_must_not_change_it_does_not(name, claim):
    case = made(2)
    assert NUMBERS[name](CHANGES[claim](case)) == pytest.approx(NUMBERS[name](case), abs=1e-9)


@pytest.mark.parametrize(("name", "claim"), BREAKS)
def test_what_is_not_claimed_does_not_hold(name, claim):
    case = made(2)
    assert claim not in CARDS[name].invariances
    assert abs(NUMBERS[name](CHANGES[claim](case)) - NUMBERS[name](case)) > 1e-6


@pytest.mark.parametrize("name", [name for name, each in CARDS.items() if each.null is not None])
def test_maps_that_know_nothing_of_objects_are_at_the_null(name):
    values = [NUMBERS[name](made(seed)) for seed in range(40)]
    assert np.mean(values) == pytest.approx(CARDS[name].null, abs=4 * np.std(values) / 40**0.5)


@pytest.mark.parametrize(
    "name", [n for n, each in CARDS.items() if each.direction != "none" and each.against == "teacher"]
)
def test_nothing_is_more_alike_than_the_teacher_itself(name):
    """A student that is its teacher has the best value that there is; row-kl-tilted is best at another one."""
    case = made(3)
    same = dict.fromkeys(case.found, case.found["teacher"])
    known = case.rows | {"student": case.rows["teacher"], "student-deltas": case.rows["teacher-deltas"]}
    maps = dict.fromkeys(case.maps, case.maps["teacher"])
    equal = replace(case, found=same, rows=known, maps=maps, error=np.zeros_like(case.error))
    if name == "row-kl-tilted":
        known["student"] = tilted(known["teacher"], 1.5)
    best = {"higher": CARDS[name].range[1], "lower": 0.0}[CARDS[name].direction]
    assert NUMBERS[name](equal) == pytest.approx(best, abs=1e-9)


def test_the_report_says_what_the_cards_say():
    shown = card("lift/image-size")
    assert (shown.name, shown.range, shown.direction, shown.null) == (
        "Lift (image-size)",
        "0 to ∞",
        "higher is better",
        "1",
    )
    assert card("agree-f1").direction == "higher is more alike"
    assert card("agree-f1").invariances == [INVARIANCES[each] for each in CARDS["agree-f1"].invariances]
    assert card("error-cost").source == "Bolya et al., ECCV 2020"
