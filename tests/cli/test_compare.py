"""`kdscope compare` as it is typed, and its figure drawn again from the table."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from kdscope import api
from kdscope.cli.main import cli


def run(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False, standalone_mode=False)


COMMON = ("--data", "test-tiny", "--student", "resnet8", "--epochs", 1, "--jobs", 1, "--set", "data.batch_size=16")


def test_a_table_that_fits_a_sentence_and_a_figure(tiny_data, tiny_teacher, tmp_path):
    out = tmp_path / "out"
    result = run("compare", "--methods", "kd, at", "--seeds", 2, "--teacher", tiny_teacher.path, "--out", out, *COMMON)
    assert not result.return_value
    lines = result.stdout.splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("- "))
    assert max(map(len, lines[:first])) <= 100
    for column in ("method", "accuracy %", "extra", "time", "against", "difference", "p", "d", "MDE"):
        assert column in lines[1].split("  ") or f" {column} " in lines[1]
    assert [line.split()[0] for line in lines[3:first] if line.strip()] == ["none", "kd", "at", "kd"]
    assert "over 2 seeds, no method differs from kd or none beyond chance" in lines[first]
    written = {path.name: path.read_bytes() for path in out.glob("comparison*")}
    beside = {f"comparison-differences.{kind}" for kind in ("pdf", "png", "csv", "txt")}
    assert set(written) == {"comparison.csv", "comparison.md", "comparison.tex"} | beside
    run("figures", out / "comparison.csv", "--out", tmp_path / "again")
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == written[path.name]
    runs = [out / f"{method}-seed{seed}" for method in ("none", "at") for seed in (0, 1)]
    told = run("analyze", "comparison", *runs, "--out", tmp_path / "two").stdout
    assert "none" in told
    assert "kd" not in [line.split()[0] for line in told.splitlines() if line.strip()]


def test_a_failed_training_is_the_exit_status(tiny_data, tiny_teacher, tmp_path, monkeypatch):
    train = api.train

    def failing(path, **settings):
        if path.name == "at-seed0":
            raise OSError("gone")
        return train(path, **settings)

    monkeypatch.setattr(api, "train", failing)
    result = run(
        "compare", "--methods", "at", "--seeds", 1, "--teacher", tiny_teacher.path, "--out", tmp_path / "out", *COMMON
    )
    assert result.return_value == 1
    assert "- at-seed0 failed: OSError: gone" in result.stdout


def test_bad_usage(monkeypatch, capsys):
    from kdscope.cli.main import main

    monkeypatch.setattr(sys, "argv", ["kdscope", "compare", "--methods", "kd", "--student", "resnet8", "--out", "x"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "--teacher" in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from click.testing import CliRunner; from kdscope.cli.compare import compare;"
        "assert CliRunner().invoke(compare, ['--help']).exit_code == 0;"
        "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
