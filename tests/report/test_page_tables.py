"""Tables, cards and charts of the page, clicked and read back."""

import csv
import re

import pytest

pytestmark = pytest.mark.browser
SMALL = {"runs": 12, "images": 0, "charts": 2, "rows": 30}
RUNS = "#runs tbody"


def column(page, table, k):
    """The texts of a column in the rows that are seen, in their order."""
    return page.eval_on_selector_all(
        f"{table} tr", f"rows => rows.filter(r => !r.hidden).map(r => r.cells[{k}].textContent.trim())"
    )


def values(page, table, k):
    """The exact numbers of a column, as they were written; None where there is none."""
    return page.eval_on_selector_all(
        f"{table} tr", f"rows => rows.filter(r => !r.hidden).map(r => r.cells[{k}].dataset.v ?? null)"
    )


@pytest.fixture
def opened(written, open_file):
    payload, path = written(**SMALL)
    return payload, open_file(path)


def place(table, key):
    return [each.key for each in table.columns].index(key)


def test_a_column_is_sorted_both_ways_with_what_is_missing_last_and_back(opened):
    payload, page = opened
    k = place(payload.runs, "accuracy")
    known = sorted((row["accuracy"] for row in payload.runs.rows if row["accuracy"] is not None), reverse=True)
    missing = [None] * (len(payload.runs.rows) - len(known))
    assert missing
    head = page.locator("#runs th[data-key=accuracy]")
    for way, expected in (("descending", known), ("ascending", known[::-1])):
        head.locator(".sort").click()
        assert head.get_attribute("aria-sort") == way
        assert [v and float(v) for v in values(page, RUNS, k)] == expected + missing
    head.locator(".sort").press("Enter")
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, RUNS, 0) == [row["run"] for row in payload.runs.rows]


def test_texts_are_sorted_as_one_counts(opened):
    payload, page = opened
    page.locator("#runs th[data-key=model] .sort").click()
    assert column(page, RUNS, place(payload.runs, "model")) == sorted(
        (row["model"] for row in payload.runs.rows), key=lambda name: int(name.removeprefix("resnet"))
    )  # resnet8 before resnet14


def test_rows_are_filtered_by_text_and_by_column_and_counted(opened):
    payload, page = opened
    rows = payload.runs.rows
    page.fill("#runs .find", "KD seed0")
    assert column(page, RUNS, 0) == [r["run"] for r in rows if "kd" in r["run"] and "seed0" in r["run"]]
    page.fill("#runs .find", "")
    page.click("#runs .by-column")
    for typed, kept in (
        ("> 80 %", lambda v: v > 0.8),
        ("<= 0.7", lambda v: v <= 0.7),
        ("70..80%", lambda v: 0.7 <= v <= 0.8),
    ):
        page.fill("#runs .filter-row [aria-label='Filter by Accuracy']", typed)
        expected = [r["run"] for r in rows if r["accuracy"] is not None and kept(r["accuracy"])]
        assert expected
        assert column(page, RUNS, 0) == expected
        assert page.text_content("#runs .count") == f"{len(expected)} of {len(rows)} rows"
    page.fill("#runs .filter-row [aria-label='Filter by Accuracy']", "")
    page.fill("#runs .filter-row [aria-label='Filter by State']", "fail")
    assert column(page, RUNS, 0) == [r["run"] for r in rows if r["state"] == "failed"]
    page.click("#runs .by-column")  # what is not seen does not filter
    assert page.text_content("#runs .count") == f"{len(rows)} rows"


def test_what_is_seen_is_saved_with_all_its_digits(opened, tmp_path):
    payload, page = opened
    page.fill("#runs .find", "resnet8")
    with page.expect_download() as caught:
        page.click("#runs .csv")
    caught.value.save_as(tmp_path / "runs.csv")
    with open(tmp_path / "runs.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    expected = [r for r in payload.runs.rows if r["model"] == "resnet8"]
    assert [r["run"] for r in found] == [r["run"] for r in expected]
    for one, other in zip(found, expected, strict=True):
        for key in ("accuracy", "loss", "lr", "parameters", "seconds"):
            assert (float(one[key]) if one[key] else None) == other[key]


def test_a_number_shows_its_card_with_its_frame_and_escape_closes_it(opened):
    payload, page = opened
    row = payload.tables[0].table.rows[1]
    card = payload.cards[row["card"]]
    number = page.locator("#analysis-1 tbody tr").nth(1).locator(".v").first
    number.scroll_into_view_if_needed()
    assert number.text_content() == f"{row['value']:.3f}"
    number.press("Enter")
    dialog = page.locator("#card")
    assert dialog.is_visible()
    assert dialog.locator("h2").text_content() == card.name
    facts = dict(zip(dialog.locator("dt").all_text_contents(), dialog.locator("dd").all_text_contents(), strict=True))
    assert card.definition in dialog.text_content()
    assert facts["Source"] == card.source
    assert [float(facts[k]) for k in ("Value", "Interval from", "to", "Floor", "Ceiling")] == [
        round(row[k], 3) for k in ("value", "ci_low", "ci_high", "floor", "ceiling")
    ]
    assert facts["n"] == "2\u202f000"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert number.evaluate("e => e === document.activeElement")


def test_the_numbers_of_a_table_are_one_stop_and_walked_by_arrows(opened):
    _, page = opened
    assert page.locator("#analysis-1 .v[tabindex='0']").count() == 1
    page.locator("#analysis-1 .v[tabindex='0']").focus()
    at = "() => { const c = document.activeElement.closest('td'); return [c.parentNode.rowIndex, c.cellIndex] }"
    row, k = page.evaluate(at)
    page.keyboard.press("ArrowDown")
    assert page.evaluate(at) == [row + 1, k]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(at) == [row + 1, k + 2]  # over the drawing of the frame
    page.keyboard.press("ArrowUp")
    assert page.evaluate(at) == [row, k + 2]
    assert page.locator("#analysis-1 .v[tabindex='0']").count() == 1


def test_charts_are_drawn_when_they_come_near_and_follow_the_theme(opened):
    payload, page = opened
    assert page.evaluate("typeof Plotly") == "undefined"
    for k, chart in enumerate(payload.charts, start=1):
        page.locator(f"#chart-{k}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#chart-{k} .plot[data-drawn] .main-svg")
        plot = page.locator(f"#chart-{k} .plot")
        assert (plot.get_attribute("role"), plot.get_attribute("aria-label")) == ("img", chart.alt)
    lines = page.eval_on_selector("#chart-1 .plot", "e => e.data.map(t => [t.name, t.y])")
    assert lines == [[trace["name"], trace["y"]] for trace in payload.charts[0].figure["data"]]
    colour = "e => getComputedStyle(e.querySelector('.xtick text')).fill"
    light = page.eval_on_selector("#chart-1 .plot", colour)
    page.click(".theme")  # light
    page.click(".theme")  # dark
    page.wait_for_function(f"() => ({colour})(document.querySelector('#chart-1 .plot')) !== '{light}'")


def test_the_menu_of_a_chart_is_a_select_and_keeps_what_was_chosen(opened):
    payload, page = opened
    page.locator("#chart-2").scroll_into_view_if_needed()
    page.wait_for_selector("#chart-2 .plot[data-drawn] .main-svg")
    shown = "() => document.querySelector('#chart-2 .plot').data.map(trace => trace.visible)"
    menu = page.locator("#chart-2 select")
    labels = [button["label"] for button in payload.charts[1].figure["layout"]["updatemenus"][0]["buttons"]]
    assert menu.locator("option").all_text_contents() == labels
    assert page.evaluate(shown) == [True, False]
    menu.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate(shown) == [False, True]
    page.click(".theme")
    assert page.evaluate(shown) == [False, True]
    assert page.locator("#chart-2 select").count() == 1


def test_the_numbers_of_a_chart_are_under_it(opened):
    payload, page = opened
    page.locator("#chart-1 summary").click()
    rows = payload.charts[0].table.rows
    found = page.locator("#chart-1 tbody tr")
    assert found.count() == len(rows)
    assert re.findall(r"[\d.]+", found.nth(3).locator("td").last.text_content()) == [f"{rows[3]['value']:.3f}"]
