"""The explorer of the page against numpy on the same arrays."""

import base64

import numpy as np
import pytest

from kdscope.measures.map_overlap import chance_iou, top_iou
from kdscope.measures.map_threshold import intersection_union, per_image_iou, threshold_masks

pytestmark = pytest.mark.browser
SIZES = {"runs": 3, "images": 150, "charts": 0, "rows": 3}


def array(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


class Arrays:
    """The arrays of an explorer, and its cells by their definition."""

    def __init__(self, explorer):
        self.labels, self.index = array(explorer.labels, "<u2"), array(explorer.index, "<i4")
        self.models = {model.role: model for model in explorer.models}
        self.prediction = {role: array(model.prediction, "<u2") for role, model in self.models.items()}
        self.confidence = {role: array(model.confidence, "u1") / 255 for role, model in self.models.items()}
        right = {role: each == self.labels for role, each in self.prediction.items()}
        same = self.prediction["student"] == self.prediction["teacher"]
        s, t = right["student"], right["teacher"]
        self.right, self.cells = right, [s & t, ~s & ~t & same, s & ~t, ~s & t, ~s & ~t & ~same]

    def maps(self, role, kind):
        found = self.models[role].maps[kind]
        return array(found.data, "u1").reshape(-1, found.height, found.width)

    def iou(self, kind, cut, share, role="student"):
        a, b = self.maps(role, kind), self.maps("teacher", kind)
        if cut == "area":
            known = self.models[role].maps[kind].known
            return np.where(array(known, "u1") if known else True, top_iou(a, b, (share,))[1][:, 0], np.nan)
        return per_image_iou(*intersection_union(*(threshold_masks(each, None, share) for each in (a, b))))


@pytest.fixture
def opened(written, open_file):
    payload, path = written(**SIZES)
    page = open_file(path)
    page.wait_for_selector(".overlap[aria-busy=false]")
    return payload.explorer, Arrays(payload.explorer), page


def counts(page):
    return [int(each) for each in page.locator("[data-cell]").all_text_contents()]


def left(page):
    return int(page.text_content(".chosen").split(" of ")[0])


def choose(page, name, value):
    page.select_option(f"#explorer [name={name}]", value)


def slide(page, name, value):
    """Drag to a value as a hand would: on the thumb, to where it must be."""
    slider = page.locator(f"#explorer [name={name}]")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    low, high, now = (slider.evaluate(f"e => Number(e.{each})") for each in ("min", "max", "value"))
    thumb = 16
    at = [box["x"] + thumb / 2 + (v - low) / (high - low) * (box["width"] - thumb) for v in (now, value)]
    page.mouse.move(at[0], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(at[1], box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    return int(slider.input_value())


def overlap(page):
    """This image, mean, above chance and how many, of student and of the student alone, once they are known."""
    page.wait_for_selector(".overlap[aria-busy=false]")
    return [
        [float(cell) for cell in row]
        for row in page.eval_on_selector_all(
            ".overlap tbody tr", "rows => rows.map(r => [...r.querySelectorAll('td')].map(c => c.dataset.v))"
        )
    ]


def test_the_cells_of_fidelity_and_each_filter_leave_what_numpy_counts(opened):
    explorer, a, page = opened
    everything = np.ones(explorer.count, bool)
    assert counts(page) == [int(cell.sum()) for cell in a.cells]
    assert left(page) == explorer.count

    choose(page, "class", "3")
    kept = a.labels == 3
    assert counts(page) == [int((cell & kept).sum()) for cell in a.cells]
    assert left(page) == kept.sum()
    choose(page, "class", "-1")

    for role in ("student", "teacher", "alone"):
        for verdict, kept in (("right", a.right[role]), ("wrong", ~a.right[role])):
            choose(page, "answer", f"{verdict} {a.models[role].name}")
            assert left(page) == kept.sum()
    choose(page, "answer", "any")

    for k, cell in enumerate(a.cells):
        box = page.locator(f"[name=cell][value='{k}']")
        box.uncheck()
        everything &= ~cell
        assert left(page) == everything.sum()
    assert page.text_content(".image-title") == "No image is left"
    page.click(".filters [type=reset]")
    page.wait_for_function(f"() => document.querySelector('.chosen').value.startsWith('{explorer.count} ')")


def test_a_range_of_confidence_by_mouse_and_by_keys(opened):
    _, a, page = opened
    low = slide(page, "low", 60)
    assert abs(low - 60) <= 3
    assert left(page) == (100 * a.confidence["student"] >= low).sum()
    page.focus("#explorer [name=high]")
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    assert left(page) == ((100 * a.confidence["student"] >= low) & (100 * a.confidence["student"] <= 90)).sum()
    choose(page, "who", a.models["teacher"].name)
    assert left(page) == ((100 * a.confidence["teacher"] >= low) & (100 * a.confidence["teacher"] <= 90)).sum()
    slide(page, "low", 98)  # the ends push each other and never cross
    ends = [int(page.input_value(f"#explorer [name={name}]")) for name in ("low", "high")]
    assert ends[0] == ends[1] > 90


@pytest.mark.parametrize("kind", ["activation", "causal"])
def test_the_iou_at_a_share_of_the_area_is_that_of_the_measure(opened, kind):
    explorer, a, page = opened
    choose(page, "kind", kind)
    cells = explorer.models[0].maps[kind].height * explorer.models[0].maps[kind].width
    for share in (25, slide(page, "threshold", 10)):
        page.locator("#explorer [name=threshold]").fill(str(share))
        for row, role in zip(overlap(page), ("student", "alone"), strict=True):
            iou, chance = a.iou(kind, "area", share / 100, role), chance_iou(round(share / 100 * cells), cells)
            mean, known = np.nanmean(iou), np.isfinite(iou).sum()  # 15 of the student alone have no causal map
            assert row == pytest.approx([iou[0], mean, (mean - chance) / (1 - chance), known], abs=1e-9)


def test_the_iou_at_a_share_of_the_range_is_that_of_guo(opened):
    _, a, page = opened
    choose(page, "cut", "range")
    assert page.input_value("#explorer [name=threshold]") == "40"
    page.focus("#explorer [name=threshold]")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    share = int(page.input_value("#explorer [name=threshold]"))
    assert share == 43
    assert page.get_attribute("#explorer [name=threshold]", "aria-valuetext") == "above 43\u202f%"
    for row, role in zip(overlap(page), ("student", "alone"), strict=True):
        iou = a.iou("activation", "range", share / 100, role)
        assert [row[0], row[1], row[3]] == pytest.approx([iou[0], np.nanmean(iou), np.isfinite(iou).sum()], abs=1e-9)
        assert np.isnan(row[2])  # no one chance level


def test_the_mean_is_over_the_images_that_the_filters_leave(opened):
    _, a, page = opened
    page.locator("[name=cell][value='0']").uncheck()
    iou = a.iou("activation", "area", 0.25)
    found = overlap(page)[0]
    assert found[1] == pytest.approx(iou[~a.cells[0]].mean(), abs=1e-9)
    assert found[3] == (~a.cells[0]).sum()


def test_images_are_chosen_by_mouse_and_keys_and_told_in_words(opened):
    explorer, a, page = opened
    film = page.locator(".film")
    film.locator("[data-at='5']").click()

    def now():
        return int(page.get_attribute(".film [aria-selected=true]", "data-image"))

    across = page.evaluate("() => Math.floor((document.querySelector('.film').clientWidth - 4) / 56)")
    assert now() == 5
    for key, at in (("ArrowRight", 6), ("ArrowDown", 6 + across), ("ArrowLeft", 5 + across), ("Home", 0), ("End", 149)):
        film.press(key)
        assert now() == at
    film.press("Home")
    page.click(".next")
    assert now() == 1
    assert page.get_attribute(".film", "aria-activedescendant") == page.get_attribute(
        ".film [aria-selected=true]", "id"
    )
    cell = next(name for name, has in zip(explorer.cells, a.cells, strict=True) if has[1])
    truth = explorer.classes[a.labels[1]]
    assert page.text_content(".image-title") == f"Image {a.index[1]} · {truth} · {cell}"
    for panel, role in zip(page.locator(".panel[data-role]").all(), ("teacher", "student", "alone"), strict=True):
        answer, sure = explorer.classes[a.prediction[role][1]], round(100 * a.confidence[role][1])
        said = panel.locator("canvas").get_attribute("aria-label")
        verdict = "right" if answer == truth else "wrong"
        assert f"answers {answer} at {sure}\u202f%, {verdict}" in said
        assert f"on image {a.index[1]} ({truth})" in said
        mark = "✓" if verdict == "right" else "✗"
        assert panel.locator(".answer").text_content() == f"{mark} {answer} {sure}\u202f% ({verdict})"
        assert panel.locator(".bars li").count() == 5


def test_the_order_by_iou_is_that_of_the_measure(opened):
    _, a, page = opened
    overlap(page)
    choose(page, "order", "iou-up")
    iou = a.iou("activation", "area", 0.25)
    shown = page.eval_on_selector_all(".film [data-at]", "all => all.map(e => [+e.dataset.at, +e.dataset.image])")
    assert len(shown) > 50
    assert [at for at, _ in sorted(shown)] == list(range(len(shown)))
    assert iou[[image for _, image in sorted(shown)]] == pytest.approx(np.sort(iou)[: len(shown)], abs=1e-9)


def test_the_opacity_and_the_outline_change_what_is_drawn(opened):
    _, _, page = opened
    pixels = "() => document.querySelector('.panel canvas').toDataURL()"
    page.locator("[name=masks]").uncheck()
    page.locator("#explorer [name=opacity]").fill("0")
    plain = page.evaluate(pixels)
    choose(page, "scale", "magma")
    assert page.evaluate(pixels) == plain  # nothing of the map is seen
    page.locator("[name=masks]").check()
    assert page.evaluate(pixels) != plain
    page.locator("[name=masks]").uncheck()
    page.focus("#explorer [name=opacity]")
    page.keyboard.press("End")
    assert page.evaluate(pixels) != plain


def test_an_iou_shows_its_card(opened, written):
    explorer, a, page = opened
    overlap(page)
    page.locator(".overlap tbody .mean button").first.click()
    card = written(**SIZES)[0].cards["attention-iou"]
    assert card.definition in page.text_content("#card")
    facts = page.locator("#card .this dd").all_text_contents()
    assert facts == [f"{a.iou('activation', 'area', 0.25).mean():.3f}", str(explorer.count)]
    page.keyboard.press("Escape")
    choose(page, "cut", "range")
    page.locator(".overlap tbody .own button").first.click()
    assert page.text_content("#card-name") == "IoU of cut maps"  # another number


def test_the_overlap_shows_how_many_cells_both_attend_to(opened):
    _, a, page = opened
    choose(page, "cut", "range")
    page.locator("#explorer [name=threshold]").fill("60")
    teacher, student = (threshold_masks(a.maps(role, "activation"), None, 0.6)[0] for role in ("teacher", "student"))
    expected = {"both": teacher & student, "teacher": teacher & ~student, "student": student & ~teacher}
    assert expected["both"].any()
    for name, cells in expected.items():
        assert page.text_content(f".meeting [data-count={name}]") == str(cells.sum())
    assert f"both attend to {expected['both'].sum()}," in page.get_attribute(".meeting canvas", "aria-label")


def test_a_signed_map_has_a_scale_with_a_middle(opened):
    _, _, page = opened
    assert page.input_value("#explorer [name=scale]") == "viridis"
    choose(page, "kind", "causal")
    assert page.input_value("#explorer [name=scale]") == "blue–orange"
    choose(page, "kind", "activation")
    assert page.input_value("#explorer [name=scale]") == "viridis"
