"""`kdscope analyze attention-iou` and `causal` from the command line, on what two runs leave."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import kdscope
from kdscope.cli.analyze import analyze
from kdscope.errors import KDScopeError
from kdscope.figures.pictures import read_pictures

QUICK = {"data": "shapes:16:4:64", "batch_size": 32, "epochs": 1, "model": "resnet8"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    teacher = kdscope.train(folder / "teacher", **QUICK)
    probes = {"probe_every": 1, "probe_size": 8, "probe_maps": ["maps"]}
    return [
        kdscope.train(folder / f"kd-seed{seed}", teachers=[teacher], method="kd", seed=seed, **QUICK, **probes).path
        for seed in (0, 1)
    ]


def run(*arguments):
    return CliRunner().invoke(analyze, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def attention(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("attention")
    return run("attention-iou", *runs, "--out", out), out


def test_attention_writes_its_table_and_all_figures(attention):
    result, out = attention
    assert result.exit_code == 0
    stems = {path.stem for path in out.glob("*.png")}
    assert stems == {f"attention-iou-{name}" for name in ("sweep", "frame", "accuracy", "truth", "epochs", "gallery")}
    lines = result.stdout.splitlines()
    assert {str(path) for path in out.glob("*.p*")} | {str(out / "attention-iou.csv")} <= set(lines)
    assert max(len(line) for line in lines if not line.startswith(("- ", "/"))) <= 100
    assert any("the floor is an untrained network" in line for line in lines)


def test_seeds_are_one_against_the_masks_too(attention):
    table = pd.read_csv(attention[1] / "attention-iou.csv", dtype={"seed": str})
    truth = table[(table["pair"] == "truth") & (table["measure"] == "energy-inside") & (table["map"] == "cam")]
    final = truth[truth["epoch"].isna()]
    together = final[final["seed"] == "all"]
    alone = final[final["b"].isin(["kd-seed0", "kd-seed1"])]
    assert together["b"].tolist() == ["kd"]
    assert together["seeds"].tolist() == [2]
    assert np.isclose(together["value"].item(), alone["value"].mean())
    assert np.isclose(together["gain"].item(), alone["gain"].mean())
    assert together["ci_low"].item() < together["value"].item() < together["ci_high"].item()
    assert together["floor"].item() == pytest.approx(alone["floor"].mean())


def test_the_last_epoch_is_the_network_itself_on_the_images_of_the_probe(attention, runs):
    table = pd.read_csv(attention[1] / "attention-iou.csv", dtype={"seed": str})
    rows = table[table["epoch"].notna() & (table["measure"] == "attention-iou") & (table["b"] == "kd-seed0")]
    assert sorted(rows["epoch"].unique()) == [0, 1]
    assert (rows["pair"] == "teacher-student").all()
    assert (rows["n"] + rows["excluded"] == 8).all()
    from kdscope.measures.map_overlap import map_overlap

    probe = kdscope.FeatureCache(runs[0] / "features" / "probe-epoch-0001-test-maps.kdcache")
    whole = kdscope.FeatureCache(runs[0].parent / "teacher" / "features" / "test-none-maps.kdcache")
    expected = map_overlap(whole.array("maps/cam/layer3")[probe.index], probe.array("maps/cam/layer3")[:])
    last = rows[(rows["epoch"] == 1) & (rows["map"] == "cam")]
    assert last["value"].item() == pytest.approx(np.nanmean(expected), abs=1e-6)


def test_the_gallery_is_named_in_the_table_and_follows_its_rule(attention):
    out = attention[1]
    table = pd.read_csv(out / "attention-iou.csv")
    assert table["pictures"].dropna().unique().tolist() == ["attention-iou-gallery.npz"]
    pictures = read_pictures(out / "attention-iou-gallery.npz")
    assert list(pictures.maps) == ["teacher", "kd-seed0"]
    overlaps = pictures.values["overlap"][:, 1]
    assert len(overlaps) == 5
    assert (np.diff(overlaps) >= 0).all()
    assert pictures.images.shape == (5, 3, 16, 16)
    assert pictures.masks.shape == (5, 16, 16)
    assert "10, 30, 50, 70, 90th percentile" in pictures.rule


@pytest.mark.slow
def test_causal(runs, tmp_path):
    options = [
        word for option in ("images=3", "layers=layer3", "baselines=[mean, black]") for word in ("--option", option)
    ]
    result = run("causal", runs[0], *options, "--out", tmp_path)
    assert result.exit_code == 0
    figures = {"causal-curves", "causal-frame", "causal-gallery", "causal-masks"}
    assert {p.stem for p in tmp_path.glob("*.png")} == figures
    table = pd.read_csv(tmp_path / "causal.csv")
    gains = table[table["measure"] == "deletion-gain"]
    assert set(gains["against"]) == {"smooth-random", "other-image", "randomised-weights", "own"}
    assert set(table.loc[table["measure"] == "deletion-auc-spread", "layer"]) == {"layer3"}
    assert len(read_pictures(tmp_path / "causal-gallery.npz").rows) <= 5
    assert "random masks" in result.stdout


def test_bad_input_is_one_line_and_writes_nothing(runs, tmp_path):
    for arguments, message in (
        (["attention-iou", *runs, "--option", "maps=cams"], "not every network has maps of 'cams'"),
        (["attention-iou", *runs, "--option", "layer=a"], "unknown option 'layer'"),
        (["attention-iou", *runs, "--definition", "guo"], "unknown definition 'guo'"),
        (["causal", *runs, "--option", "baselines=white"], "unknown baseline 'white'"),
        (["causal", *runs, "--option", "target=logits"], "unknown target 'logits'"),
        (["causal", *runs, "--option", "images=1"], "1 images are too few"),
    ):
        with pytest.raises(KDScopeError, match=message):
            run(*arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
