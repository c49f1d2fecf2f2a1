"""The figures of fidelity come from its table alone, whatever is in it."""

import dataclasses

import pandas as pd
import pytest
from told import family

from kdscope.analyses.base import run_analysis
from kdscope.errors import KDScopeError
from kdscope.figures import FIGURES, draw

ALL = {"frame", "right-wrong", "accuracy", "origins", "epochs"}
KINDS = ("pdf", "png", "csv", "txt")


def drawn(table):
    return {stem.removeprefix("fidelity-"): figure for stem, figure in FIGURES["fidelity"](table) if figure}


def table_of(subjects, **options):
    return run_analysis("fidelity", subjects, **options).table


def ticks(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_redrawn_from_the_csv_as_pdf_and_png(tmp_path):
    table = table_of(family(seeds=2, methods=("kd",), n=60, probes=(1, 3), two_teachers=True))
    table.to_csv(tmp_path / "fidelity.csv", index=False)
    files = draw(tmp_path / "fidelity.csv", tmp_path / "out")
    expected = {f"fidelity-{stem}.{kind}" for stem in ALL for kind in KINDS}
    assert {path.name for path in files} == expected | {"fidelity.md", "fidelity.tex"}
    heads = {path.suffix: path.read_bytes()[:4] for path in files}
    assert (heads[".pdf"], heads[".png"]) == (b"%PDF", b"\x89PNG")
    assert b"/Type3" not in files[0].read_bytes()  # letters stay letters
    first = files[0].read_bytes()
    assert draw(tmp_path / "fidelity.csv", tmp_path / "out")[0].read_bytes() == first


def test_figures_of_an_earlier_call_do_not_stay_behind(tmp_path):
    (tmp_path / "fidelity-mine.pdf").write_text("somebody's own")
    draw(table_of(family(seeds=2, methods=("kd",), n=60, probes=(1, 3))), tmp_path)
    assert (tmp_path / "fidelity-epochs.pdf").exists()
    files = draw(table_of(family(seeds=2, methods=("kd",), n=60)), tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*files, tmp_path / "fidelity-mine.pdf"])
    assert not (tmp_path / "fidelity-epochs.pdf").exists()


def test_one_run_without_floor_or_ceiling():
    lone = [dataclasses.replace(s, untrained={}) for s in family(seeds=1, methods=("kd",), n=60) if s.method == "kd"]
    figures = drawn(table_of(lone))
    assert set(figures) == {"frame", "right-wrong"}
    assert ticks(figures["frame"].axes[0]) == ["kd-seed0"]


def test_the_frame_shows_values_between_floor_and_ceiling():
    table = table_of(family(seeds=2, methods=("kd", "at"), n=60))
    axes = drawn(table)["frame"].axes
    assert [a.get_title() for a in axes] == ["train", "test"] * 2
    assert sorted(ticks(axes[0])) == ["at", "kd"]
    rows = table[(table["seed"] == "all") & (table["pair"] == "teacher-student") & (table["measure"] == "agreement")]
    test = rows[rows["split"] == "test"].sort_values("value")
    assert ticks(axes[0]) == test["b"].tolist()  # sorted, the best on top
    marks = {round(float(x), 9) for line in axes[1].lines for x in line.get_xdata()}
    for name in ("value", "floor", "ceiling"):
        assert {round(x, 9) for x in test[name]} <= marks


def test_origins_add_up_to_the_change_in_accuracy():
    table = table_of(family(seeds=1, methods=("kd",), n=60), splits="test")
    axes = drawn(table)["origins"].axes[0]
    row = table[(table["measure"] == "accuracy") & (table["pair"] == "teacher-student")].iloc[0]
    gains = sum(bar.get_width() for bar in axes.patches if bar.get_x() >= 0)
    losses = sum(bar.get_width() for bar in axes.patches if bar.get_x() < 0)
    assert gains - losses == pytest.approx(100 * row.gain)


def test_the_scatter_prints_the_correlation_and_warns_of_few_groups():
    table = table_of(family(seeds=2, methods=("kd", "at"), n=60))
    titles = [axes.get_title("left") for axes in drawn(table)["accuracy"].axes]
    assert all("n = 4" in title and "only 2 kinds of training" in title for title in titles)
    table = table_of(family(seeds=2, methods=("kd", "at", "rkd"), n=60))
    titles = [axes.get_title("left") for axes in drawn(table)["accuracy"].axes]
    assert all("n = 6\ngroup-centred r" in title and "only" not in title for title in titles)


def test_twenty_runs_with_long_names_keep_their_own_rows():
    found = family(seeds=1, methods=("kd",), n=40)
    students = [
        dataclasses.replace(
            found[1], name=f"cifar100-resnet20-learned-from-resnet56-by-method-{k}-strong", group=str(k)
        )
        for k in range(20)
    ]
    figures = drawn(table_of([found[0], *students], splits="test"))
    labels = ticks(figures["frame"].axes[0])
    assert len(set(labels)) == 20
    assert max(map(len, labels)) <= 31
    assert figures["frame"].get_figheight() < 11


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(KDScopeError, match=r"no column 'analysis'"):
        draw(pd.DataFrame({"x": [1]}), tmp_path)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(KDScopeError, match=r"empty\.csv is not a CSV table"):
        draw(tmp_path / "empty.csv", tmp_path)
    with pytest.raises(KDScopeError, match=r"absent\.csv: No such file"):
        draw(tmp_path / "absent.csv", tmp_path)
