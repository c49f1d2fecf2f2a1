"""`kdscope analyze` on caches that kdscope did not train."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import kdscope
from kdscope.cli.analyze import analyze, show
from kdscope.errors import KDScopeError


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    paths = []
    for k in range(3):
        torch.manual_seed(k)
        net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 10))
        cache = kdscope.extract(net, data="digits:8", layers=["0"], out=folder / f"net{k}", device="cpu")
        paths.append(str(cache.path))
    return paths


def run(*arguments):
    return CliRunner().invoke(analyze, [str(a) for a in arguments], catch_exceptions=False)


def test_prints_a_table_that_fits_and_where_it_wrote(caches, tmp_path):
    result = run("fidelity", *caches, "--out", tmp_path / "out")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    table = lines[: next(k for k, line in enumerate(lines) if line.startswith("- "))]
    assert max(map(len, table)) <= 100
    assert "student" in table[1]
    assert "agreement %" in table[1]
    assert any("net0, the first" in line for line in lines)
    assert str(tmp_path / "out" / "fidelity.csv") in lines
    assert len(list((tmp_path / "out").glob("*.png"))) == len(list((tmp_path / "out").glob("*.pdf"))) == 3
    table = pd.read_csv(tmp_path / "out" / "fidelity.csv")
    rows = table[(table["measure"] == "agreement") & (table["pair"] == "teacher-student")]
    assert rows["b"].tolist() == ["net1", "net2"]


def test_the_teacher_and_the_baseline_can_be_named(caches, tmp_path):
    result = run("fidelity", caches[1], "--teacher", caches[0], "--baseline", caches[2], "--out", tmp_path / "out")
    assert "an independent student reaches" in result.stdout
    assert (tmp_path / "out" / "fidelity-origins.png").is_file()


def test_options_of_an_analysis(caches, tmp_path):
    for name, arguments in {"own": ("--confidence", "0.5"), "any": ("--option", "confidence=0.5")}.items():
        assert run("fidelity", *caches, *arguments, "--out", tmp_path / name).exit_code == 0
        assert set(pd.read_csv(tmp_path / name / "fidelity.csv")["confidence"]) == {0.5}
    for text, message in (
        ("confidense=0.5", "unknown option 'confidense' in analysis 'fidelity'; nearest: confidence"),
        ("confidence", "'confidence' is not KEY=VALUE"),
        ("confidence=[", "is not YAML"),
    ):
        with pytest.raises(KDScopeError, match=message):
            run("fidelity", *caches, "--option", text, "--out", tmp_path / "no")
    with pytest.raises(KDScopeError, match="given twice"):
        run("fidelity", *caches, "--splits", "test", "--option", "splits=test", "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_the_default_place(caches, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "analysis-fidelity/fidelity.csv" in run("fidelity", *caches).stdout


def test_bad_input_writes_nothing(caches, tmp_path):
    for arguments, message in (
        (["fidelty", *caches], "unknown analysis 'fidelty'; nearest: fidelity"),
        (["fidelity", *caches, "--definition", "guo"], "unknown definition 'guo'"),
        (["fidelity", *caches, "--splits", "trian"], "has no cache of split 'trian'"),
        (["fidelity", caches[0]], "has no teacher to be compared with"),
        (["fidelity", tmp_path], "neither a run directory"),
    ):
        with pytest.raises(KDScopeError, match=message):
            run(*arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_long_names_are_folded(capsys):
    name = "a-very-long-name-of-a-run-that-somebody-gave-it-in-a-study-of-many-things"
    columns = ("split", "seeds", "accuracy %", "agreement %", "floor", "ceiling", "KL")
    cells = ("train", "10", "100.0", "100.0 [100.0, 100.0]", "100.0", "100.0", "12.345")
    show(pd.DataFrame([{"student": name, "teacher": name, **dict(zip(columns, cells, strict=True))}]))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "100.0 [100.0, 100.0]" in "\n".join(lines)


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from click.testing import CliRunner; from kdscope.cli.analyze import analyze;"
        "assert CliRunner().invoke(analyze, ['--help']).exit_code == 0;"
        "assert not {'torch', 'pandas', 'matplotlib', 'rich.table'} & set(sys.modules), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
