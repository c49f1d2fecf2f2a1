"""`kdscope analyze` and `kdscope figures` on small runs: what each question prints, writes, and refuses."""

import pandas as pd
import pytest
from click.testing import CliRunner

import kdscope
from kdscope.cli.analyze import analyze
from kdscope.cli.doctor import doctor
from kdscope.cli.figures import figures
from kdscope.errors import KDScopeError

QUICK = {"data": "digits:8", "model": "resnet8", "batch_size": 512, "epochs": 1, "device": "cpu", "augment": "none"}
DRAWN = {
    "similarity": {"cka", "cka-biased", "procrustes", "frame"},
    "calibration": {"reliability", "error"},
    "diversity": {"networks", "views"},
    "efficiency": {"accuracy"},
    "embedding": {"tsne", "pca", "class-relations"},
}
ASKED = {
    "similarity": ("layer3", "CKA"),
    "calibration": ("calibrated", "ECE %"),
    "diversity": ("disagree", "entropy"),
    "efficiency": ("MFLOPs", "images/s"),
    "embedding": ("class relations", "t-SNE: distances between clusters"),
}
OPTIONS = {
    "similarity": ("--option", "measures=[cka, procrustes]"),
    "embedding": ("--option", "images=60"),
    "diversity": ("--option", "views=weak"),
    "calibration": ("--option", "draws=5"),
}


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Figures of few pixels: what is drawn is the same, and quickly saved."""
    monkeypatch.setattr("kdscope.figures.style.DPI", 30)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    teacher = kdscope.train(folder / "teacher", **QUICK, seed=7)
    student = kdscope.train(folder / "kd", teachers=[teacher], method="kd", **QUICK)
    return [str(run.path) for run in (student, kdscope.train(folder / "alone", **QUICK))]


def call(command, *arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


@pytest.mark.parametrize("name", DRAWN)
def test_each_question_is_answered_and_its_table_alone_draws_it_again(name, runs, tmp_path):
    given = OPTIONS.get(name, ())
    result = call(analyze, name, *runs, "--device", "cpu", "--out", tmp_path / "out", *given)
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ASKED[name])
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines[: next(k for k, line in enumerate(lines) if line.startswith("- "))]) <= 100
    wrote = {path.name for path in (tmp_path / "out").iterdir()}
    expected = {f"{name}-{stem}.{kind}" for stem in DRAWN[name] for kind in ("pdf", "png", "csv", "txt")}
    assert wrote == expected | {f"{name}.csv"}
    assert str(tmp_path / "out" / f"{name}.csv") in lines

    again = call(figures, tmp_path / "out" / f"{name}.csv", "--out", tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == expected
    for stem in expected:
        assert (tmp_path / "again" / stem).read_bytes() == (tmp_path / "out" / stem).read_bytes()
    told = sorted(str(tmp_path / "again" / path) for path in expected if path.endswith((".pdf", ".png")))
    assert sorted(again.stdout.splitlines()) == told


def test_a_table_that_was_cut_is_drawn_with_what_is_left(runs, tmp_path):
    table = kdscope.analyze("similarity", *runs, device="cpu", measures="cka").table
    kept = table[(table["pair"] == "teacher-student") & (table["layer_a"] != "layer1")]
    kept.drop(kept.index[0]).to_csv(tmp_path / "paper.csv", index=False)
    call(figures, tmp_path / "paper.csv")  # into its own folder
    assert {path.stem for path in tmp_path.glob("*.png")} == {
        *("similarity-cka", "similarity-cka-biased", "similarity-frame")
    }


def test_what_is_no_table_is_one_line_and_nothing_is_written(runs, tmp_path):
    named, header = tmp_path / "named.csv", "analysis,measure,a,b,split,value,ci_low,ci_high,floor,ceiling\n"
    named.write_text(header + "doctor,cka,a,b,test,1,1,1,0,1\n")
    (tmp_path / "empty.csv").write_text(header)
    (tmp_path / "void.csv").write_text("")
    for path, message in (
        (tmp_path / "none.csv", "none.csv: No such file"),
        (f"{runs[0]}/metrics.csv", "is not the table of an analysis .*no column 'analysis'"),
        (runs[0], "is a folder; give a table in it"),
        (named, "no figures are known for analysis 'doctor'; known are .*calibration.*similarity"),
        (tmp_path / "empty.csv", "has no rows"),
        (tmp_path / "void.csv", "is not a CSV table"),
    ):
        with pytest.raises(KDScopeError, match=message) as raised:
            call(figures, path, "--out", tmp_path / "out")
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_the_doctor_says_what_can_be_trusted(runs, tmp_path):
    result = call(doctor, runs[0], "--device", "cpu", "--out", tmp_path)
    table = pd.read_csv(tmp_path / "doctor.csv", keep_default_na=False)  # a test is called null
    assert {"gauge", "null", "identity", "in-place"} <= set(table["test"])
    assert result.exit_code == int((table["verdict"] == "do not trust").any())
    said = [line for line in result.stdout.splitlines() if " tests: " in line]
    assert said[0].startswith(f"- {len(table)} tests: ")
    published = call(doctor, runs[0], "--device", "cpu", "--definition", "guo2024-code")
    assert published.exit_code == 1  # the sum of maps over classes moves with the gauge
    assert "cam-sum" in published.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("similarity", "--option", "layers=lyaer3"), "unknown layer 'lyaer3'.*nearest: layer3"),
        (("similarity", "--option", "measures=ckaa"), "unknown measure 'ckaa'.*nearest: cka"),
        (("calibration", "--definition", "guo"), "unknown definition 'guo'.*'calibration'.*guo2024-code"),
        (("diversity", "--definition", "guo"), "unknown definition 'guo'.*'diversity'.*guo2024-code"),
        (("diversity", "--option", "views=waek"), "unknown augmentation 'waek'.*nearest: weak"),
        (("efficiency", "--splits", "train,test"), "names several"),
        (("embedding", "--option", "images=5"), "30"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_written(arguments, message, runs, tmp_path):
    name, *rest = arguments
    with pytest.raises(KDScopeError, match=message) as raised:
        call(analyze, name, *runs, "--device", "cpu", "--out", tmp_path / "out", *rest)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()
