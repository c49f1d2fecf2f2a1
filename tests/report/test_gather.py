"""What a report says is what the study's files say: numbers, names, notes; nothing is lost, rounded or made up."""

import csv
import json
import math
import re
import shutil
from dataclasses import asdict

import pandas as pd
import plotly.graph_objects as go
import pytest

from kdscope.cli.main import cli
from kdscope.errors import KDScopeError
from kdscope.measures.correlation import correlate
from kdscope.report.charts.accuracy import seed_interval
from kdscope.report.charts.common import intervals
from kdscope.report.found import Asked, find
from kdscope.report.gather import gather
from kdscope.report.tables import headline, of_analysis
from kdscope.report.write import write_report
from kdscope.run import Run

HOSTILE = "<img src=x onerror=alert(1)>&\"'{{7*7}}\u2028"


@pytest.fixture(scope="module")
def payload(done):
    return gather(done)


def rows_of(path):
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def same(value, field):
    """Whether a value of the report is what a field of a CSV file says."""
    if value is None:
        return field in ("", "nan")
    return float(field) == value if isinstance(value, int | float) else field == value


def chart(payload, start):
    return next(each for each in payload.charts if each.id.startswith(start))


def test_what_the_study_says_of_itself(payload, done):
    assert (payload.title, payload.kind, payload.source) == ("Does it <b>help</b>?", "study", "one")
    assert (payload.about, payload.citation) == ("It is small.", "somebody")
    assert [(claim.text, claim.verdict) for claim in payload.claims] == [("It helps.", "claimed")]
    assert str(done.parent) not in json.dumps(asdict(payload))  # no path of the machine that it was made on


def test_the_runs_are_those_of_runs_csv(payload, done):
    known = rows_of(done / "runs.csv")
    assert len(payload.runs.rows) == len(known) == 6
    for row, fields in zip(payload.runs.rows, known, strict=True):
        assert all(same(row[key], fields[key]) for key in row.keys() & fields.keys())
    kd = next(row for row in payload.runs.rows if row["name"] == "kd-seed1")
    assert (kd["network"], kd["method"], kd["teachers"], kd["state"]) == ("resnet8", "kd", "teacher-seed1", "done")
    kinds = {column.key: column.kind for column in payload.runs.columns}
    assert (kinds["state"], kinds["test_accuracy"], kinds["folder"], kinds["seed"]) == (
        "state",
        "percent",
        "link",
        "number",
    )


def test_the_summary_joins_the_headlines_of_the_analyses(payload, done):
    groups = {row["group"]: row for row in rows_of(done / "table.csv")}
    fidelity = pd.read_csv(done / "fidelity" / "fidelity.csv", dtype={"seed": str})
    found = fidelity[(fidelity["group"] == "kd") & (fidelity["seed"] == "all") & (fidelity["split"] == "test")]
    by = found[found["pair"] == "teacher-student"].set_index("measure")["value"]
    rows = {row["group"]: row for row in payload.summary.rows}
    assert list(rows) == list(groups)
    assert all(float(groups[group]["accuracy"]) == row["accuracy"] for group, row in rows.items())
    assert (rows["kd"]["agreement"], rows["kd"]["KL"]) == (by["agreement"], by["kl-teacher-student"])
    assert rows["alone"]["agreement"] is None
    assert {c.key: c.card for c in payload.summary.columns}["agreement"] == "agreement"


def test_every_row_of_an_analysis_stands_in_its_csv(payload, done):
    assert [each.name for each in payload.tables] == ["fidelity", "attention-iou", "similarity", "calibration"]
    for each in payload.tables:
        known = rows_of(done / each.label / f"{each.name}.csv")
        keys = [column.key for column in each.table.columns]
        assert {"value", "ci_low", "ci_high", "floor", "n"} <= set(keys) or each.name == "calibration"
        at = 0  # rows keep their order, so that each is found after the one before it
        for row in each.table.rows:
            while not all(same(row[key], known[at][key]) for key in keys):
                at += 1
            definition = known[at]["definition"]
            assert row["card"] == known[at]["measure"] + (f"/{definition}" if definition != "kdscope" else "")
            at += 1
        assert each.notes == [
            line[2:] for line in (done / each.label / "summary.txt").read_text().splitlines() if line.startswith("- ")
        ]


def test_a_short_table_is_whole_and_its_constants_are_told():
    frame = pd.DataFrame(
        {"measure": ["agreement"] * 3, "a": "t", "b": ["s", "u", "v"], "split": "test", "value": [0.1, 0.2, 0.3]}
    )
    made = of_analysis("mine", "mine", frame, ["note"], "mine.csv")
    assert [column.key for column in made.table.columns] == ["measure", "b", "value"]
    assert made.table.caption == "mine.csv, whole; a (teacher) t; split test"
    assert [row["value"] for row in made.table.rows] == [0.1, 0.2, 0.3]


def test_a_long_table_loses_sweeps_then_floors_then_seeds():
    frame = pd.DataFrame(
        {
            "measure": "m", "value": range(6), "area": [None, 0.5, None, None, None, 0.1],
            "pair": ["floor:shuffled", *["teacher-student"] * 3, "ceiling:student-seeds", "floor:x"],
            "seed": ["all", "all", "0", "all", "all", "1"],
        }
    )  # fmt: skip
    assert [headline(frame, most)["value"].tolist() for most in (1, 2, 4, 5, 6)] == [
        [3], [2, 3], [0, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5],
    ]  # fmt: skip


def test_charts_draw_the_numbers_of_the_csv(payload, done):
    table = pd.read_csv(done / "fidelity" / "fidelity.csv", dtype={"seed": str})
    row = table[
        (table["measure"] == "agreement") & (table["split"] == "test") & (table["seed"] == "all")
        & (table["pair"] == "teacher-student")
    ].iloc[0]  # fmt: skip
    drawn = chart(payload, "fidelity-agreement")
    traces = {trace["name"]: trace for trace in drawn.figure["data"]}
    value = traces["value, with interval"]
    assert (value["x"], value["y"]) == ([row["value"]], ["kd"])
    assert value["error_x"]["array"] == [pytest.approx(row["ci_high"] - row["value"])]
    assert value["error_x"]["arrayminus"] == [pytest.approx(row["value"] - row["ci_low"])]
    assert (traces["floor"]["x"], traces["ceiling"]["x"]) == ([row["floor"]], [row["ceiling"]])
    assert len(traces["one seed"]["x"]) == 2
    assert [r["value"] for r in drawn.table.rows] == [row["value"]]
    assert f"{row['value']:.4g} (kd)" in drawn.alt


def test_accuracy_by_group_and_learning_curves(payload, done):
    accuracies = [100 * float(row["test_accuracy"]) for row in rows_of(done / "runs.csv")]
    seeds, means = chart(payload, "accuracy-groups").figure["data"]
    assert seeds["x"] == accuracies
    assert means["x"] == [pytest.approx(sum(accuracies[k : k + 2]) / 2) for k in (0, 2, 4)]
    curves = chart(payload, "learning-curves").figure["data"]
    runs = [Run(done.parent / row["folder"]) for row in rows_of(done / "runs.csv")]
    drawn = {tuple(trace["y"]) for trace in curves}
    assert drawn == {tuple(100 * row["test_accuracy"] for row in run.metrics) for run in runs}
    assert all(trace["x"] == [1, 2] for trace in curves)
    assert [trace["showlegend"] for trace in curves] == [True, False] * 3


def test_the_interval_over_seeds_is_that_of_student():
    mean, low, high, sd = seed_interval([1.0, 3.0])
    assert (mean, sd) == (2.0, pytest.approx(2**0.5))
    assert (low, high) == (pytest.approx(2 - 12.7062047), pytest.approx(2 + 12.7062047))  # t(0.975, 1) = 12.706
    assert math.isnan(seed_interval([1.0])[1])


def test_heat_maps_have_the_interval_and_n_of_each_cell(payload, done):
    table = pd.read_csv(done / "similarity" / "similarity.csv", dtype={"seed": str})
    table = table[(table["measure"] == "cka") & (table["definition"] == "kdscope") & (table["split"] == "test")]
    own = table[(table["pair"] == "teacher-student") & (table["seed"] == "all")]
    cells = own.set_index(["layer_a", "layer_b"])
    trace = chart(payload, "similarity-cka").figure["data"][0]
    for a, line, told in zip(trace["y"], trace["z"], trace["hovertext"], strict=True):
        for b, value, text in zip(trace["x"], line, told, strict=True):
            row = cells.loc[(a, b)]
            assert value == row["value"]
            assert f"[{row['ci_low']:.4g}, {row['ci_high']:.4g}]" in text
            assert f"n = {row['n']:.4g}" in text


def test_measures_against_accuracy_come_with_their_correlation(done, tmp_path):
    """Of two seeds each a correlation shows nothing; of six runs in three groups it is that of the measures."""
    place = tmp_path / "s"
    shutil.copytree(done, place / "one")
    runs = rows_of(done / "runs.csv")
    lines = [dict(row, name=f"{group}-{k}", group=group, test_accuracy=str(0.5 + (k + j) ** 2 / 50)) for j, group in
             enumerate("uvw") for k, row in enumerate(runs[:2])]  # fmt: skip
    pd.DataFrame(lines).to_csv(place / "one" / "runs.csv", index=False)
    table = pd.read_csv(done / "fidelity" / "fidelity.csv", dtype={"seed": str})
    one = table[(table["measure"] == "agreement") & (table["pair"] == "teacher-student") & (table["seed"] == "0")].iloc[
        -1
    ]
    agreement = [dict(one, b=row["name"], group=row["group"], value=0.1 * k + 0.3) for k, row in enumerate(lines)]
    pd.DataFrame(agreement).to_csv(place / "one" / "fidelity" / "fidelity.csv", index=False)
    drawn = chart(gather(place / "one", explorer=False), "against-accuracy")
    accuracy = [100 * float(row["test_accuracy"]) for row in lines]
    expected = correlate([row["value"] for row in agreement], accuracy, [row["group"] for row in lines])
    assert str(expected) in drawn.caption
    assert str(expected) in drawn.alt
    points = [(x, y) for trace in drawn.figure["data"] for x, y in zip(trace["x"], trace["y"], strict=True)]
    assert points == list(zip([row["value"] for row in agreement], accuracy, strict=True))


def test_all_figures_are_valid_and_have_words_and_cards(payload):
    assert len({each.id for each in payload.charts}) == len(payload.charts) > 15
    for each in payload.charts:
        go.Figure(each.figure)  # raises for an unknown attribute or a value of the wrong kind
        assert each.alt
        assert each.table.rows
    named = {row["card"] for each in payload.tables for row in each.table.rows}
    named |= {each.card for each in payload.charts} | {c.card for each in payload.charts for c in each.table.columns}
    named |= {m.card for model in payload.explorer.models for m in model.maps.values()}
    assert named - {None} <= set(payload.cards)
    assert all(card.definition and card.name for card in payload.cards.values())
    assert payload.cards["cka"].null == "0"


def test_an_analysis_that_nobody_draws_has_intervals():
    rows = [
        {"measure": "m", "a": "t", "b": b, "split": "test", "value": v, "ci_low": v - 1, "ci_high": v + 1, "n": 3,
         "floor": None, "ceiling": None, "pair": pair, "definition": "kdscope"}
        for b, v, pair in (("x", 1.0, "teacher-student"), ("y", 2.0, "teacher-student"), ("z", 9.0, "floor:shuffled"))
    ]  # fmt: skip
    (drawn,) = intervals(Asked("mine", "mine", "mine.csv", pd.DataFrame(rows)))
    (trace,) = drawn.figure["data"]
    assert (trace["x"], trace["y"], trace["error_x"]["array"]) == ([1.0, 2.0], ["x", "y"], [1.0, 1.0])
    assert drawn.alt.startswith("m: 2 values from 1 (x) to 2 (y)")


def test_the_same_folder_gives_the_same_bytes(done, tmp_path):
    one, two = (write_report(done, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == two


def test_hostile_names_stay_data(done, tmp_path):
    place = tmp_path / "s"
    shutil.copytree(done, place / "one")
    for path in (place / "one").rglob("*.csv"):
        with path.open(newline="") as lines:
            rows = [[re.sub(r"^kd(?!scope)", lambda _: HOSTILE, field) for field in row] for row in csv.reader(lines)]
        with path.open("w", newline="") as out:
            csv.writer(out).writerows(rows)
    payload = gather(place / "one", explorer=False)
    assert HOSTILE in [row["group"] for row in payload.summary.rows]
    assert f"{HOSTILE}-seed0" in [row["name"] for row in payload.runs.rows]
    assert HOSTILE in [row["b"] for row in payload.tables[0].table.rows]
    figures = json.dumps([each.figure for each in payload.charts], ensure_ascii=False)
    assert "<img" not in figures
    assert "&lt;img" in figures


def test_a_run_alone(done):
    run = next(path for path in (done.parent / "runs").iterdir() if path.name.startswith("kd-seed0"))
    payload = gather(run)
    summary = Run(run).summary
    assert (payload.kind, payload.source) == ("run", run.name)
    assert [row["role"] for row in payload.summary.rows] == ["student", "teacher"]
    assert payload.summary.rows[0]["test_accuracy"] == summary["test_accuracy"]
    losses = {trace["name"]: trace["y"] for trace in chart(payload, "losses").figure["data"]}
    assert losses["loss"] == [row["loss"] for row in Run(run).metrics]
    settings = {row["setting"]: row["set to"] for row in payload.tables[-1].table.rows}
    assert (settings["method"], settings["epochs"]) == ("kd", "2")
    assert settings["teachers"].startswith("teacher-seed0")
    assert [model.role for model in payload.explorer.models] == ["teacher", "student"]
    assert str(done.parent) not in json.dumps(asdict(payload))


def test_no_path_of_the_machine_is_told(done, tmp_path):
    shutil.copytree(done, tmp_path / "s" / "one")
    runs = pd.read_csv(done / "runs.csv")
    runs["error"] = [f"no data in {tmp_path}/s/runs/{name}: give --root" for name in runs["name"]]
    runs.to_csv(tmp_path / "s" / "one" / "runs.csv", index=False)
    plan = (done / "plan.yaml").read_text().replace("- teacher-seed0", f"- resnet20@{tmp_path}/w.safetensors")
    (tmp_path / "s" / "one" / "plan.yaml").write_text(plan)
    payload = gather(tmp_path / "s" / "one", explorer=False)
    assert str(tmp_path) not in json.dumps(asdict(payload))
    row = next(row for row in payload.runs.rows if row["name"] == "kd-seed0")
    assert (row["error"], row["teachers"]) == ("no data in runs/kd-seed0: give --root", "resnet20@w.safetensors")


def test_what_lies_beside_a_table_of_a_run_is_no_analysis(done, tmp_path):
    """`kdscope analyze` leaves in RUN/analysis the table, and beside each figure its rows."""
    run = next(path for path in (done.parent / "runs").iterdir() if path.name.startswith("kd-seed0"))
    shutil.copytree(run, tmp_path / "kd")
    (tmp_path / "kd" / "analysis").mkdir()
    for name in ("fidelity", "fidelity-frame"):
        shutil.copy(done / "fidelity" / "fidelity.csv", tmp_path / "kd" / "analysis" / f"{name}.csv")
    found = find(tmp_path / "kd").analyses
    assert [(each.name, each.label, each.file) for each in found] == [("fidelity", "fidelity", "analysis/fidelity.csv")]
    assert not found[0].notes


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("onee", "nearest: .*one$"),
        ("one/fidelity", "it lies in one, give .*one$"),
        ("one/table.csv", "it lies in one, give .*one$"),
        (".", "nearest: one$"),
        ("runs", "nearest: runs/alone-seed0"),
    ],
)
def test_what_is_no_run_and_no_study_is_told_what_to_give(done, monkeypatch, path, said):
    monkeypatch.chdir(done.parent)
    with pytest.raises(KDScopeError, match=said):
        find(path)


def test_a_study_that_was_not_run_and_runs_that_are_gone(done, tmp_path):
    (tmp_path / "begun").mkdir()
    shutil.copy(done / "plan.yaml", tmp_path / "begun")
    with pytest.raises(KDScopeError, match="was not run to its end"):
        find(tmp_path / "begun")
    shutil.copytree(done, tmp_path / "s" / "one")
    (tmp_path / "s" / "one" / "fidelity" / "fidelity.csv").write_text("no,table\n1,2\n")
    payload = gather(tmp_path / "s" / "one")
    assert payload.explorer is None
    assert payload.notes == [
        "fidelity/fidelity.csv is left out: it is not the table of an analysis (`kdscope analyze NAME`): "
        "it has no column 'analysis'",
        "the folders of 6 finished runs are not in s/runs: nothing is shown of them",
    ]
    assert len(payload.runs.rows) == 6


def test_the_command(done, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["report", str(done), "-o", str(tmp_path / "r.html"), "--no-explorer"])
    assert capsys.readouterr().out.startswith(str(tmp_path / "r.html"))
    assert (tmp_path / "r.html").read_text().lstrip().startswith("<!doctype html>")
    with pytest.raises(KDScopeError, match="--port is for --serve"):
        cli.main(["report", str(done), "--port", "1"], standalone_mode=False)
