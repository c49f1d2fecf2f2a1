"""`kdscope analyze mutual-information` and its options, on networks that kdscope did not train."""

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import kdscope
from kdscope.cli.analyze import analyze
from kdscope.errors import KDScopeError

PLAIN = {"mutual-information-frame", "mutual-information-estimators"}


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    paths = []
    for k in range(3):
        torch.manual_seed(k)
        pool, head = torch.nn.AdaptiveAvgPool2d(2), torch.nn.Linear(12, 10)
        net = torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(12, 12), torch.nn.Tanh(), head)
        cache = kdscope.extract(net, data="digits:8", layers=["0", "3"], out=folder / f"net{k}", device="cpu")
        paths.append(str(cache.path))
    return paths


def run(*arguments):
    return CliRunner().invoke(
        analyze, ["mutual-information", *(str(a) for a in arguments)], catch_exceptions=False, color=False
    )


def read(folder):
    return pd.read_csv(folder / "mutual-information.csv", dtype={"layer": str})


def taught(table, measure, definition="kdscope"):
    rows = table[(table["measure"] == measure) & (table["definition"] == definition)]
    return rows[rows["pair"] == "teacher-student"]


def test_the_table_the_notes_and_the_figures(caches, tmp_path):
    result = run(*caches[:2], "--out", tmp_path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    head = next(line for line in lines if "student" in line)
    assert head.split() == ["student", "teacher", "split", "MI", "plug-in", "null", "U", "AMI", "soft", "floor", "n/C²"]
    row = taught(read(tmp_path), "mutual-information").iloc[0]
    shown = next(line for line in lines if line.strip().startswith("net1"))
    assert f"{row.value:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}]" in shown
    assert any(line.startswith(f"- net1, by net0, on test: {row.value:.3f} nats [") for line in lines)
    assert any("RED: 3.6 images for each of 10² pairs of classes" in line for line in lines)
    assert {path.stem for path in tmp_path.glob("*.png")} == {path.stem for path in tmp_path.glob("*.pdf")} == PLAIN
    assert str(tmp_path / "mutual-information.csv") in lines


def test_features_and_layers(caches, tmp_path):
    options = ("--option", "features=[ksg, infonce]", "--option", "layers=[3, 0]", "--option", "components=1")
    result = run(*caches[:2], *options, "--confidence", "0.8", "--out", tmp_path)
    assert result.exit_code == 0
    table = read(tmp_path)
    of_layer = table[(table["layer"] == "3") & (table["pair"] == "teacher-student")].set_index("measure")
    told = {"usable-labels", "usable-soft", "usable-beyond", "ksg-features", "infonce-features"}
    assert set(of_layer.index) == told
    assert set(of_layer["confidence"]) == {0.8}
    assert "1 component with" in of_layer.loc["ksg-features"].control
    bound = of_layer.loc["infonce-features"]
    assert bound.floor < 0.02 < bound.ci_low < bound.value < bound.ceiling < 4.51  # ln of 89 or 90 candidates
    assert f"at least {bound.value:.2f} nats" in result.stdout
    assert {path.stem for path in tmp_path.glob("*.png")} == {*PLAIN, "mutual-information-features"}


def test_definitions_teacher_and_baseline(caches, tmp_path):
    arguments = (caches[1], "--teacher", caches[0], "--baseline", caches[2])
    result = run(*arguments, "--definition", "guo2024-code,guo2024-code-plugin", "--out", tmp_path)
    assert "; independent student: " in result.stdout
    table = read(tmp_path)
    naive = taught(table, "mutual-information", "guo2024-code-plugin").iloc[0]
    assert naive.value > taught(table, "mutual-information", "plug-in").iloc[0].value  # batches of 128 say more
    assert len(taught(table, "mutual-information", "guo2024-code")) == 1
    floor = table[(table["pair"] == "floor:independent-student") & (table["measure"] == "mutual-information")]
    assert set(floor["b"]) == {"net2"}


def test_bad_options_write_nothing(caches, tmp_path):
    for options, message in (
        (("--option", "features=infonse"), "unknown estimator 'infonse'.*nearest: infonce"),
        (("--option", "features=ksg", "--option", "layers=3", "--option", "components=12"), "trusted with 1 to 8"),
        (("--option", "layers=4"), "unknown layer '4'"),
        (("--option", "layer=3"), "unknown option 'layer'.*nearest: layers"),
        (("--definition", "guo2024"), "unknown definition 'guo2024'.*nearest: guo2024-code"),
        (("--confidence", "1.5"), "confidence is 1.5"),
        (("--splits", "tset"), "no cache of split 'tset'"),
    ):
        with pytest.raises(KDScopeError, match=message):
            run(*caches[:2], *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
