"""The first table of a report: each number beside the accuracies stands in the frame that its analysis gives it."""

import shutil

import pandas as pd
import pytest

from kdscope.errors import KDScopeError
from kdscope.report.charts.causal import TITLES, causal
from kdscope.report.found import Asked
from kdscope.report.gather import gather
from kdscope.report.page import render

FRAME = ("value", "ci_low", "ci_high", "floor", "ceiling", "n")


@pytest.fixture(scope="module")
def payload(done):
    return gather(done, explorer=False)


@pytest.fixture(scope="module")
def agreement(done):
    table = pd.read_csv(done / "fidelity" / "fidelity.csv", dtype={"seed": str})
    kept = (table["measure"] == "agreement") & (table["pair"] == "teacher-student") & (table["split"] == "test")
    return table[kept & (table["seed"] == "all")].iloc[0]


def test_a_number_of_the_summary_has_the_interval_the_floor_and_the_ceiling_of_the_csv(payload, agreement):
    frames = {row["group"]: row["frames"] for row in payload.summary.rows}
    assert [frames["kd"]["agreement"][key] for key in FRAME] == [agreement[key] for key in FRAME]
    assert (frames["kd"]["agreement"]["a"], frames["kd"]["agreement"]["seeds"]) == ("teacher", 2)
    assert frames["alone"]["agreement"] == {}
    assert set(frames["kd"]) >= {"agreement", "KL", "CKA", "ECE"}


def test_folders_of_the_machine_are_told_neither_in_settings_nor_in_notes(done, tmp_path, monkeypatch):
    run = next(path for path in (done.parent / "runs").iterdir() if path.name.startswith("alone-seed0"))
    shutil.copytree(run, tmp_path / "alone")
    config = tmp_path / "alone" / "config.yaml"
    config.write_text(config.read_text().replace("name: test-tiny", "name: folder:/home/somebody/cats"))

    def explore(*_, **__):
        raise KDScopeError(f"no images in /mnt/other/cats, nor in {tmp_path}/alone/features")

    monkeypatch.setattr("kdscope.report.explorer.explore", explore)
    payload = gather(tmp_path / "alone")
    settings = {row["setting"]: row["set to"] for row in payload.tables[-1].table.rows}
    assert settings["data.name"] == "folder:cats"
    assert payload.notes == ["no image is shown: no images in cats, nor in alone/features"]


@pytest.mark.browser
def test_the_card_of_a_number_of_the_summary_shows_its_frame(payload, agreement, open_file, tmp_path):
    (tmp_path / "report.html").write_text(render(payload), encoding="utf-8")
    page = open_file(tmp_path / "report.html")
    page.locator("#summary .v[data-card=agreement]").first.click()
    dialog = page.locator("#card .this")
    facts = dict(zip(dialog.locator("dt").all_text_contents(), dialog.locator("dd").all_text_contents(), strict=True))
    names = ("Value", "Interval from", "to", "Floor", "Ceiling")
    assert [float(facts[name]) for name in names] == [round(agreement[key], 3) for key in FRAME[:-1]]
    assert (facts["n"], facts["Seeds"], facts["a"]) == (str(agreement["n"]), "2", "teacher")


def test_a_mask_has_one_colour_in_all_charts_of_causal_maps():
    rows = [
        {
            "measure": measure,
            "by": by,
            "share": share,
            "value": 0.5,
            "pair": "own" if by == "own" else "teacher-student",
        }
        for by in ("random", "teacher", "own")
        for measure, share in (("deletion-curve", 0.5), ("insertion-curve", 0.5), ("deletion-auc", None))
    ]
    same = {"definition": "kdscope", "a": "t", "b": "s", "layer": "input", "split": "test", "seed": "0", "n": 4}
    same |= {"ci_low": 0.4, "ci_high": 0.6, "floor": None, "ceiling": None, "value": 0.5}
    curves, areas = causal(Asked("causal", "causal", "causal.csv", pd.DataFrame([row | same for row in rows])))
    drawn = {trace["name"]: trace["line"]["color"] for trace in curves.figure["data"]}
    assert {trace["name"]: trace["marker"]["color"] for trace in areas.figure["data"]} == drawn
    assert set(drawn) == {TITLES[by] for by in ("random", "teacher", "own")}
