"""The frame of analyses: names, options, what is written."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from told import family

import kdscope
from kdscope.analyses import ANALYSES
from kdscope.analyses.base import Report, analysis, collect, default_out, run_analysis, tidy
from kdscope.errors import KDScopeError
from kdscope.registry import Registry


def test_unknown_names_get_the_nearest():
    with pytest.raises(KDScopeError, match="unknown analysis 'fidelty'; nearest: fidelity"):
        run_analysis("fidelty", [])
    with pytest.raises(KDScopeError, match="unknown option 'split' in analysis 'fidelity'; nearest: splits"):
        run_analysis("fidelity", [], split="test")


def test_a_new_analysis_is_one_function(monkeypatch):
    registry = Registry("analysis")
    monkeypatch.setattr("kdscope.analyses.base.ANALYSES", registry)

    @analysis("count", summary="How many?", citation="none", sources=("besides",))
    def count(subjects, *, besides=(), times=1):
        table = tidy([{"analysis": "count", "value": times * len([*subjects, *besides])}], ["more"])
        return Report(table, table)

    found = family(seeds=1, methods=(), n=4)
    report = run_analysis("count", iter(found), besides=found[0], times=2, device="cpu")
    assert report.table["value"].tolist() == [4]
    assert registry["count"].options == ("besides", "times")
    assert report.csv is None
    assert report.figures == ()


def test_the_table_and_its_figures_are_written(tmp_path):
    report = run_analysis("fidelity", family(seeds=1, n=40), tmp_path / "deep" / "out", splits="test")
    assert report.csv == tmp_path / "deep" / "out" / "fidelity.csv"
    again = pd.read_csv(report.csv, keep_default_na=False, na_values=[""], dtype={"seed": str})
    assert again.columns.tolist() == report.table.columns.tolist()
    assert again["value"].tolist() == pytest.approx(report.table["value"].tolist(), nan_ok=True)
    assert {path.suffix for path in report.figures} == {".pdf", ".png"}
    assert all(path.stat().st_size > 1000 for path in report.figures)
    assert not list(report.csv.parent.glob(".*"))


def test_sources_keep_their_order(tmp_path):
    paths = []
    for k in range(2):
        torch.manual_seed(k)
        net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 10))
        cache = kdscope.extract(net, data="digits:8", layers=["0"], out=tmp_path / f"net{k}", device="cpu")
        paths.append(cache.path)
    ready = family(seeds=1, n=4)[0]
    assert [one.name for one in collect([paths[1], ready, str(paths[0])])] == ["net1", ready.name, "net0"]


def test_where_the_command_writes(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    assert default_out("fidelity", [tmp_path]) == tmp_path / "analysis"
    assert default_out("fidelity", [tmp_path, tmp_path]) == Path("analysis-fidelity")
    assert default_out("fidelity", ["x.kdcache"]) == Path("analysis-fidelity")


def test_the_registry_finds_fidelity():
    assert "fidelity" in ANALYSES
    assert {"splits", "view", "definition", "teacher", "baseline"} <= set(ANALYSES["fidelity"].options)


def test_a_model_is_told_how_to_become_a_source():
    with pytest.raises(KDScopeError, match=r"Linear is no run and no cache; .* kdscope\.extract\(model, data=\.\.\.\)"):
        run_analysis("fidelity", [torch.nn.Linear(2, 2)])
