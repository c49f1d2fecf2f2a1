"""The report of a study that was really run, in Chromium: what the page says is what the CSV files and caches say."""

import csv

import numpy as np
import pandas as pd
import pytest

from kdscope.features.cache import FeatureCache
from kdscope.measures.map_measures import ThresholdIoU
from kdscope.report.found import find
from kdscope.report.gather import gather
from kdscope.report.write import write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def written_report(done, tmp_path_factory):
    return write_report(done, tmp_path_factory.mktemp("real") / "report.html", extract=False)


@pytest.fixture
def page(written_report, open_file):
    return open_file(written_report)


def column(page, section, key):
    """The exact values of a column in the rows that are seen."""
    return page.evaluate(
        """([section, key]) => {
            const head = document.querySelector(`#${section} th[data-key="${key}"]`);
            const rows = [...document.querySelectorAll(`#${section} tbody tr`)].filter((row) => !row.hidden);
            return rows.map((row) => row.cells[head.cellIndex]).map((c) => c.dataset.v ?? c.textContent.trim());
        }""",
        [section, key],
    )


def test_the_tables_are_those_of_the_files(page, done):
    with (done / "runs.csv").open(newline="") as lines:
        runs = list(csv.DictReader(lines))
    assert column(page, "runs", "name") == [row["name"] for row in runs]
    assert [float(v) for v in column(page, "runs", "test_accuracy")] == [float(row["test_accuracy"]) for row in runs]
    page.locator("#runs th[data-key=test_accuracy] .sort").click()
    best = sorted((float(row["test_accuracy"]) for row in runs), reverse=True)
    assert [float(v) for v in column(page, "runs", "test_accuracy")] == best
    page.fill("#runs input[type=search]", "teacher-seed1")  # the run, and the student that it taught
    page.wait_for_function("() => document.querySelectorAll('#runs tbody tr:not([hidden])').length === 2")
    assert set(column(page, "runs", "name")) == {"teacher-seed1", "kd-seed1"}
    with (done / "table.csv").open(newline="") as lines:
        groups = list(csv.DictReader(lines))
    assert [float(v) for v in column(page, "summary", "accuracy")] == [float(row["accuracy"]) for row in groups]


def test_a_chart_draws_the_interval_of_the_csv(page, done):
    table = pd.read_csv(done / "fidelity" / "fidelity.csv", dtype={"seed": str})
    taught = table[(table["measure"] == "agreement") & (table["pair"] == "teacher-student")]
    row = taught[(taught["split"] == "test") & (taught["seed"] == "all")].iloc[0]
    ids = [chart.id for chart in gather(done, explorer=False).charts]
    place = f"#chart-{1 + next(k for k, id in enumerate(ids) if id.startswith('fidelity-agreement'))}"
    page.locator(place).scroll_into_view_if_needed()
    page.wait_for_selector(f"{place} .plot[data-drawn] .main-svg")
    drawn = page.eval_on_selector(f"{place} .plot", "e => e.data.map(t => [t.name, t.x, t.error_x?.array])")
    told = next(trace for trace in drawn if trace[0] == "value, with interval")
    assert told[1:] == [[row["value"]], [pytest.approx(row["ci_high"] - row["value"])]]


def test_the_iou_of_the_page_is_that_of_the_caches_and_of_the_csv(page, done):
    runs = find(done).runs
    folders = [runs[name].path / "features" for name in ("teacher-seed0", "kd-seed0")]
    caches = [FeatureCache(folder / "test-none-maps.kdcache") for folder in folders]
    page.locator("#explorer").scroll_into_view_if_needed()
    page.select_option("#explorer [name=kind]", "activation")
    table = pd.read_csv(done / "attention-iou" / "attention-iou.csv", dtype={"seed": str})
    rows = table[(table["map"] == "activation") & (table["layer"] == "layer3") & (table["pair"] == "teacher-student")]
    row = rows[(rows["seed"] == "0") & (rows["measure"] == "attention-iou") & (rows["area"] == 0.25)].iloc[0]
    _, mean, above, known = shares(page)
    assert known == row["n"]
    assert above == pytest.approx(row["value"], abs=1e-2)
    assert mean == pytest.approx(row["chance"] + row["value"] * (1 - row["chance"]), abs=1e-2)

    page.select_option("#explorer [name=cut]", "range")
    page.focus("#explorer [name=threshold]")
    for _ in range(100):
        now = int(page.input_value("#explorer [name=threshold]"))
        if now == 40:
            break
        page.keyboard.press("ArrowRight" if now < 40 else "ArrowLeft")
    exact = ThresholdIoU().update(*(cache.array("maps/activation/layer3")[:] for cache in caches)).compute()
    this, mean, *_ = shares(page)
    assert mean == pytest.approx(exact.value, abs=1e-2)
    assert this == pytest.approx(exact.per_sample[0], abs=1 / 16 + 1e-9)  # a cell of 16 may round over the threshold
    assert np.isfinite(exact.per_sample).all()


def shares(page):
    """Of student and teacher: IoU of this image, mean IoU, mean above chance, images."""
    page.wait_for_selector(".overlap[aria-busy=false]")
    cells = page.eval_on_selector_all(
        ".overlap tbody tr:first-child td", "cells => cells.map((c) => Number(c.dataset.v))"
    )
    return cells
