"""The arms of MHGD through the engine: stopped in the first phase and in the transfer, they end as if never stopped."""

import pytest
import torch
from safetensors.torch import load_file

import kdscope

ARMS = ["untrained", "random", "shuffled", "random-fixed"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("KDSCOPE_CACHE", str(tmp_path / "cache"))


def state(run):
    return load_file(run.path / "checkpoints" / "last.safetensors")


@pytest.mark.parametrize("graph", ARMS)
def test_an_arm_that_is_stopped_goes_on_bit_for_bit(graph, tiny_data, tiny_teacher, tmp_path, with_stops):
    options = tiny_data | {
        "method": "mhgd",
        "teachers": [tiny_teacher],
        "terms": {"mhgd": {"graph": graph, "heads": 2}},
    }
    whole = kdscope.train(tmp_path / "whole", **options)
    run, stops = with_stops(lambda place: kdscope.train(place, **options), tmp_path / "run", every=2)
    assert stops == (3 if graph == "untrained" else 4)  # of 6 or 9 steps
    expected, got = state(whole), state(run)
    assert expected.keys() == got.keys()
    assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    assert (run.path / "phases.csv").exists() == (graph != "untrained")


def test_untrained_heads_know_the_vectors_of_the_data(tiny_data, tiny_teacher, tmp_path):
    options = tiny_data | {"method": "mhgd", "teachers": [tiny_teacher], "epochs": 1}
    arms = {
        graph: state(kdscope.train(tmp_path / graph, terms={"mhgd": {"graph": graph}}, **options))
        for graph in ("untrained", "shuffled")
    }
    name = "objective.terms.mhgd.0.heads.0"
    untrained, trained = arms["untrained"], arms["shuffled"]
    assert (tmp_path / "cache" / "prepared").is_dir()
    for norm in ("key_norm", "query_norm"):
        assert untrained[f"{name}.{norm}.running_mean"].abs().max() > 0
        assert untrained[f"{name}.{norm}.running_var"].max() < 0.5  # unit vectors that are much alike; it began at 1
        assert torch.equal(untrained[f"{name}.{norm}.weight"], torch.ones(len(untrained[f"{name}.{norm}.weight"])))
    assert not torch.equal(untrained[f"{name}.key.weight"], trained[f"{name}.key.weight"])
