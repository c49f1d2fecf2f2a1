"""The explorer of detectors in Chromium, against kdscope.detection on the same arrays."""

import numpy as np
import pytest
import torch

from kdscope.detection.data.record import Objects
from kdscope.detection.error_types import KINDS, error_types
from kdscope.detection.matching import match
from kdscope.detection.measures.found import Found
from kdscope.report.page import render
from kdscope.report.payload import BoxExplorer, BoxModel, MapSet, Pair
from kdscope.report.pixels import decode, encode, sprite

pytestmark = pytest.mark.browser
WHOLE, IMAGES, TILE, CAP = 65535, 60, 24, 3
ROLES = ("teacher", "student", "alone")
NOISE = {"teacher": 0.03, "student": 0.06, "alone": 0.1}


def around(rng: np.random.Generator, boxes: np.ndarray, noise: float) -> np.ndarray:
    """Boxes [n, 4] in [0, 1], moved."""
    moved = (boxes + rng.normal(0, noise, boxes.shape)).clip(0, 1).reshape(-1, 2, 2)
    return np.sort(moved, axis=1).reshape(-1, 4)


def whole(shares: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(shares) * WHOLE)


def made_model(rng: np.random.Generator, role: str, truth: list[np.ndarray], labels: list[np.ndarray]) -> BoxModel:
    """Some of the objects, some of them twice or as another class, and some that are not there."""
    parts = []
    for boxes, own in zip(truth, labels, strict=True):
        again = np.repeat(np.arange(len(own)), rng.integers(0, 4, len(own)))
        found = np.concatenate([around(rng, boxes[again], NOISE[role]), around(rng, np.full((2, 4), 0.5), 0.3)])
        said = np.concatenate([np.where(rng.uniform(size=len(again)) < 0.8, own[again], 1 - own[again]), [0, 1]])
        scores = np.round(rng.uniform(0.05, 1, len(said)), 2)  # some are equal, and the best need not come first
        parts.append((found, scores, said))
    boxes, scores, said = (np.concatenate(column) for column in zip(*parts, strict=True))
    maps = MapSet("attention, stride 8", 4, 4, encode(rng.integers(0, 256, (IMAGES, 4, 4)), "uint8"))
    return BoxModel(
        name=f"{role}-seed0", role=role, score={"teacher": 0.4, "student": 0.5, "alone": 0.45}[role], least=0.05,
        counts=encode([len(part[1]) for part in parts], "uint32"), boxes=encode(whole(boxes), "uint16"),
        scores=encode(whole(scores), "uint16"), labels=encode(said, "uint16"), maps={"attention-8": maps},
    )  # fmt: skip


def made_explorer(roles=ROLES, classes=("circle", "square"), seed: int = 0) -> BoxExplorer:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, IMAGES)
    corner = [rng.uniform(0, 0.6, (n, 2)) for n in counts]
    truth = [np.concatenate([some, some + rng.uniform(0.1, 0.4, some.shape)], axis=1) for some in corner]
    labels = [rng.integers(0, 2, n) for n in counts]
    crowd = [(rng.uniform(size=n) < 0.15).astype(np.uint8) for n in counts]
    picture, side, columns = sprite(rng.integers(0, 255, (IMAGES, 3, TILE, TILE)).astype(np.uint8))
    models = [made_model(rng, role, truth, labels) for role in roles]
    pairs = [Pair("student-seed0", "teacher-seed0", "alone-seed0")] if "teacher" in roles else []
    return BoxExplorer(
        split="test", view="none", classes=list(classes), count=IMAGES, image_size=side, columns=columns,
        sprite=picture, index=encode(3 * np.arange(IMAGES), "int32"),
        places=encode(np.tile([0, 0, WHOLE, WHOLE // 3 * 2], (IMAGES, 1)), "uint16"),
        truth_counts=encode(counts, "uint32"), truth_boxes=encode(whole(np.concatenate(truth)), "uint16"),
        truth_labels=encode(np.concatenate(labels), "uint16"), truth_crowd=encode(np.concatenate(crowd), "uint8"),
        models=models, pairs=pairs, map_kinds=["attention-8"], cap=CAP,
    )  # fmt: skip


class Numbers:
    """What kdscope.detection says of the arrays of an explorer, in 65535ths of an image."""

    def __init__(self, explorer: BoxExplorer):
        self.counts = decode(explorer.truth_counts, "uint32", -1).astype(int)
        self.labels = decode(explorer.truth_labels, "uint16", -1).astype(int)
        self.crowd = decode(explorer.truth_crowd, "uint8", -1) > 0
        boxes = decode(explorer.truth_boxes, "uint16", -1, 4).astype(np.float64)
        offsets = torch.from_numpy(np.r_[0, self.counts.cumsum()])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        self.objects = Objects(offsets, *map(torch.from_numpy, (boxes, self.labels + 1, self.crowd, area)))
        self.image = np.repeat(np.arange(IMAGES), self.counts)
        self.found = {model.name: self._found(model) for model in explorer.models}
        self.own = {model.name: model.score for model in explorer.models}

    @staticmethod
    def _found(model: BoxModel) -> list[Found]:
        ends = decode(model.counts, "uint32", -1).cumsum()[:-1]
        columns = decode(model.boxes, "uint16", -1, 4), decode(model.scores, "uint16", -1) / WHOLE
        columns = (*columns, decode(model.labels, "uint16", -1).astype(int) + 1)
        return [Found.of(*part) for part in zip(*(np.split(column, ends) for column in columns), strict=True)]

    def used(self, name: str, score: float) -> list[Found]:
        return [some.above(score) for some in self.found[name]]

    def totals(self, name: str, score: float, images=None) -> list[int]:
        """Found, not found, mistakes, and mistakes by kind, in some images."""
        images = np.arange(IMAGES) if images is None else np.asarray(images)
        errors = error_types(self.used(name, score), self.objects, cap=CAP)
        matches = errors.matches
        of = np.isin(np.repeat(np.arange(IMAGES), np.diff(matches.offsets)), images)
        hits, counted = matches.hits[0], matches.counted & np.isin(self.image, images)
        kinds = [int((errors.kind[of] == kind).sum()) for kind in range(len(KINDS))]
        return [int(hits[counted].sum()), int((~hits[counted]).sum()), int(matches.wrong[0][of].sum()), *kinds]

    def hits(self, name: str, score: float) -> np.ndarray:
        return match(self.used(name, score), self.objects, cap=CAP).hits[0]

    def cases(self, scores: dict[str, float]) -> list[set[int]]:
        """The outcomes of each image: transfer, beyond the teacher, harm, all right, the rest."""
        t, k, b = (self.hits(f"{role}-seed0", scores[f"{role}-seed0"]) for role in ROLES)
        of = (t & k & ~b, ~t & k & ~b, b & ~k)
        found = []
        for image in range(IMAGES):
            here = self.image == image
            cases = {case for case, objects in enumerate(of) if objects[here].any()}
            if all(sum(self.totals(name, score, [image])[1:3]) == 0 for name, score in scores.items()):
                cases.add(3)
            found.append(cases or {4})
        return found


@pytest.fixture
def opened(made_up, open_file, tmp_path):
    def open_with(**options):
        payload = made_up.payload(runs=3, images=0, charts=0, rows=3)
        payload.boxes = made_explorer(**{key: options.pop(key) for key in ("roles", "classes") if key in options})
        (tmp_path / "report.html").write_text(render(payload), encoding="utf-8")
        return payload.boxes, Numbers(payload.boxes), open_file(tmp_path / "report.html", **options)

    return open_with


def totals(page) -> dict[str, list[int]]:
    rows = page.eval_on_selector_all(
        ".totals tbody tr",
        "rows => rows.map(r => [r.dataset.network, [...r.querySelectorAll('td')].slice(1).map(c => +c.dataset.v)])",
    )
    return dict(rows)


def counts(page) -> list[int]:
    return [int(each) for each in page.locator("#boxes [data-cell]").all_text_contents()]


def left(page) -> int:
    return int(page.text_content("#boxes .chosen").split(" of ")[0])


def test_hits_misses_and_kinds_of_mistakes_are_those_of_the_matching(opened):
    _, numbers, page = opened()
    expected = {name: numbers.totals(name, score) for name, score in numbers.own.items()}
    assert all(min(row[:6]) > 0 for row in expected.values())  # there is something of each to be told apart
    assert totals(page) == expected


def test_one_score_for_all_matches_again(opened):
    _, numbers, page = opened()
    page.focus("#boxes [name=score]")
    for key, score in (("End", 0.99), ("Home", 0.05), ("ArrowRight", 0.06), ("PageUp", None)):
        page.keyboard.press(key)
        score = score or int(page.input_value("#boxes [name=score]")) / 100
        assert totals(page) == {name: numbers.totals(name, score) for name in numbers.own}
        assert page.text_content("[data-of=score]") == f"{100 * score:.0f}\u202f%"
    assert page.input_value("#boxes [name=cut]") == "one"
    page.select_option("#boxes [name=cut]", "own")
    assert totals(page) == {name: numbers.totals(name, score) for name, score in numbers.own.items()}


def test_outcomes_classes_and_mistakes_choose_the_images(opened):
    _, numbers, page = opened()
    cases = numbers.cases(numbers.own)
    expected = [sum(case in each for each in cases) for case in range(5)]
    assert min(expected[:3]) > 0
    assert counts(page) == expected
    for case in range(5):
        page.locator(f"#boxes [name=cell][value='{case}']").uncheck()
        kept = [k for k, each in enumerate(cases) if each & set(range(case + 1, 5))]
        assert left(page) == len(kept)
        assert totals(page) == {name: numbers.totals(name, score, kept) for name, score in numbers.own.items()}
    assert page.text_content("#boxes .image-title") == "No image is left"
    page.click("#boxes [type=reset]")
    page.wait_for_function(f"() => document.querySelector('#boxes .chosen').value.startsWith('{IMAGES} of')")

    page.select_option("#boxes [name=class]", "1")
    assert left(page) == len(set(numbers.image[numbers.labels == 1]))
    page.select_option("#boxes [name=class]", "-1")
    for who, score in numbers.own.items():
        page.select_option("#boxes [name=who]", who)
        rows = np.array([numbers.totals(who, score, [image]) for image in range(IMAGES)])
        found = {"missed": rows[:, 1] > 0, "wrong": rows[:, 2] > 0, "none": rows[:, 1:3].sum(1) == 0}
        found |= {str(kind): rows[:, 3 + kind] > 0 for kind in range(len(KINDS))}
        for value, which in found.items():
            page.select_option("#boxes [name=errors]", value)
            assert left(page) == which.sum()


def test_each_panel_draws_and_tells_what_its_network_found(opened):
    explorer, numbers, page = opened()
    film = page.locator("#boxes .film")
    film.focus()
    most = int(numbers.counts.argmax())
    for _ in range(most):
        film.press("ArrowRight")
    assert page.text_content("#boxes .image-title").startswith(f"Image {3 * most} · ")
    for model, role in zip(explorer.models, ROLES, strict=True):
        panel = page.locator(f"#boxes .panel[data-role={role}]")
        found, missed, wrong, *kinds = numbers.totals(model.name, model.score, [most])
        drawn = panel.locator(".edge").evaluate_all("all => all.map(e => e.dataset.is)")
        assert {name: drawn.count(name) for name in (*KINDS, "right", "object", "missed")} == {
            **dict(zip(KINDS, kinds, strict=True)), "right": found, "object": found, "missed": missed,
        }  # fmt: skip
        words = f"{found} of {found + missed} found, {wrong} mistake{'' if wrong == 1 else 's'}"
        assert panel.locator(".answer").text_content() == words
        assert words in panel.locator("canvas").get_attribute("aria-label")
        places = panel.locator(".edge[data-is=missed], .edge[data-is=object]").evaluate_all(
            "all => all.map(e => ['x', 'y', 'width', 'height'].map(name => +e.getAttribute(name)))"
        )
        own = numbers.objects.boxes.numpy()[(numbers.image == most) & ~numbers.crowd] / WHOLE
        own = own * [1, 2 / 3, 1, 2 / 3]  # the image fills two thirds of its tile
        expected = np.concatenate([own[:, :2], own[:, 2:] - own[:, :2]], axis=1)
        assert np.array(sorted(places)) == pytest.approx(np.array(sorted(expected.tolist())), abs=1e-4)
    page.locator("#boxes [name=objects]").uncheck()
    assert page.locator("#boxes .edge[data-is=object]").count() == 0
    assert page.locator("#boxes text").count() > 0
    page.locator("#boxes [name=names]").uncheck()
    assert page.locator("#boxes text").count() == 0


def test_the_order_puts_the_most_mistakes_first(opened):
    _, numbers, page = opened()
    page.select_option("#boxes [name=order]", "wrong-down")
    shown = page.eval_on_selector_all("#boxes [data-at]", "all => all.map(e => [+e.dataset.at, +e.dataset.image])")
    name = "student-seed0"
    wrong = [numbers.totals(name, numbers.own[name], [image])[2] for image in range(IMAGES)]
    assert [wrong[image] for _, image in sorted(shown)] == sorted(wrong, reverse=True)[: len(shown)]


def test_the_map_is_drawn_as_opaque_as_asked(opened):
    _, _, page = opened()
    pixels = "() => document.querySelector('#boxes .panel canvas').toDataURL()"
    plain = page.evaluate(pixels)
    page.select_option("#boxes [name=scale]", "magma")
    assert page.evaluate(pixels) == plain  # at first nothing of the map is seen
    page.locator("#boxes [name=opacity]").fill("60")
    assert page.evaluate(pixels) != plain
    assert page.text_content("#boxes [data-of=opacity]") == "60\u202f%"


def test_networks_that_nobody_taught_stand_side_by_side(opened):
    _, numbers, page = opened(roles=("student", "alone"))
    assert page.locator("#boxes .panel canvas:visible").count() == 2
    assert page.locator("#boxes .cells span").all_text_contents() == ["all right", "the rest"]
    assert totals(page) == {name: numbers.totals(name, score) for name, score in numbers.own.items()}
    assert sum(counts(page)) == IMAGES


def test_hostile_names_of_classes_are_text_and_a_phone_has_room(opened, made_up):
    names = made_up.HOSTILE[0], made_up.HOSTILE[8]
    _, numbers, page = opened(classes=names, width=390, height=844)
    assert page.locator("#boxes [name=class] option").all_text_contents()[1:] == list(names)
    at = int(np.flatnonzero(np.bincount(numbers.image[(numbers.labels == 0) & ~numbers.crowd], minlength=IMAGES))[0])
    page.evaluate("at => document.querySelector(`#boxes [data-at='${at}']`).click()", at)
    assert names[0] in page.text_content("#boxes .image-title")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
