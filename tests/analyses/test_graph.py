"""Graphs of a finished run of MHGD: what is extracted, what is measured of it, and what the command leaves."""

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import kdscope
from kdscope.analyses.graph_numbers import batches, measured, pictured
from kdscope.cli.analyze import analyze
from kdscope.data import Batches
from kdscope.errors import KDScopeError
from kdscope.features import Capture
from kdscope.features.graph import extract_graph
from kdscope.figures.graph import heat_maps
from kdscope.measures.graphs import scores
from kdscope.training.attention import attentions_of

QUICK = {"data": "shapes:16:4:160", "batch_size": 32, "epochs": 1, "model": "resnet8"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    teacher = kdscope.train(folder / "teacher", **QUICK | {"model": "resnet14"})
    options = QUICK | {"method": "mhgd", "teachers": [teacher], "terms": {"mhgd": {"heads": 3}}}
    students = [kdscope.train(folder / f"mhgd-seed{seed}", seed=seed, **options) for seed in (0, 1)]
    return [*students, kdscope.train(folder / "alone", **QUICK)]


@pytest.fixture(scope="module")
def cache(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("cache") / "graph"
    (attention,) = attentions_of(runs[0])
    return extract_graph(runs[0].model(), runs[0].dataset(), "test", out, attention=attention, images=20)


# What is extracted


def test_the_heads_are_those_of_the_checkpoint_and_no_generator_moves(runs):
    before = torch.get_rng_state()
    (attention,) = attentions_of(runs[0])
    seen = attention.load()
    assert torch.equal(torch.get_rng_state(), before)
    saved = load_file(runs[0].path / "checkpoints" / "last.safetensors")
    for name, value in seen.term.state_dict().items():
        assert torch.equal(value, saved[f"objective.terms.mhgd.0.{name}"])
    assert seen.teacher_layers == ("layer1", "layer2", "layer3")
    assert attention.key != attentions_of(runs[1])[0].key
    assert attention.key == attentions_of(runs[0])[0].key


def test_products_of_what_is_kept_are_the_scores_of_the_training(runs, cache):
    """The graphs of student and teacher, from the networks themselves by the term's own calls."""
    seen = attentions_of(runs[0])[0].load()
    dataset, student = runs[0].dataset(), runs[0].model()
    subset = dataset.test.subset(torch.from_numpy(cache.index))
    (batch,) = Batches(subset, dataset, batch_size=len(subset)).epoch()
    with (
        torch.no_grad(),
        Capture(student, seen.student_layers) as ours,
        Capture(seen.teacher, seen.teacher_layers) as t,
    ):
        v_t = seen.term.vectors(t(batch.image).maps.values())
        v_s = seen.term.aligned(ours(batch.image).maps.values(), v_t)
        for k, pair in enumerate(("layer1-layer2", "layer2-layer3")):
            for name, v in (("teacher", v_t), ("student", v_s)):
                found = scores(*(cache.array(f"graph/{name}/{side}/{pair}")[:] for side in ("key", "query")))
                expected = seen.term.heads[k](v[k], v[k + 1])
                assert found.shape == (3, 20, 20)
                assert np.allclose(found, expected.numpy(), atol=1e-4 * np.abs(found).max())
    assert cache.identity["attention"]["heads"] == 3
    assert tuple(cache.layers) == ("layer1-layer2", "layer2-layer3")


def test_untrained_heads_are_others_and_normalised_by_the_images(cache):
    for side in ("key", "query"):
        untrained, trained = (cache.array(f"graph/{n}/{side}/layer2-layer3")[:] for n in ("untrained", "teacher"))
        assert not np.allclose(untrained, trained, atol=0.1)
        assert np.allclose(untrained.mean(axis=0), 0, atol=0.02)
        spread = untrained.std(axis=0)
        assert np.median(np.abs(spread - 1)) < 0.2  # but for batch norm's epsilon beside small variances


# What is measured of it


@dataclass
class Graphs:
    """A cache whose keys and queries are given: scores are S = keys @ queries^T with queries of unit vectors."""

    S: dict[str, np.ndarray]
    labels: np.ndarray
    tanh: bool = False
    layers: tuple[str, ...] = ("one-two",)
    classes: tuple[str, ...] = ("a", "b", "c")
    identity: dict = field(default_factory=dict)

    def __post_init__(self):
        self.index = np.arange(len(self.labels))
        self.identity = {"attention": {"tanh": self.tanh, "heads": 2}}

    def array(self, name):
        _, network, side, _ = name.split("/")
        heads = len(self.S[network])
        keys = self.S[network].transpose(1, 0, 2)
        return keys if side == "key" else np.repeat(np.eye(len(self.labels))[:, None], heads, axis=1)

    def check_compatible(self, other):
        assert np.array_equal(self.index, other.index)


LABELS = np.arange(12) % 3


def given(teacher, student=None, untrained=None, labels=LABELS, **options):
    student = teacher if student is None else student
    untrained = np.zeros_like(teacher) if untrained is None else untrained
    return Graphs({"teacher": teacher, "student": student, "untrained": untrained}, labels, **options)


def test_identity_and_constant_graphs_in_one_batch():
    eye = 1000 * np.stack([np.eye(12)] * 2)
    found, null = measured(given(eye), {}, size=12)
    values = {key[:2]: value.mean() for key, value in found.items() if key[3] == "all"}
    assert values["identity-mass", "teacher"] == pytest.approx(1)
    assert values["same-class-mass", "teacher"] == pytest.approx(1)
    assert values["row-entropy", "teacher"] == pytest.approx(0, abs=1e-9)
    assert values["head-correlation", "teacher"] == pytest.approx(1)
    assert values["graph-divergence", "student"] == pytest.approx(0, abs=1e-9)
    assert values["identity-mass", "untrained"] == pytest.approx(1 / 12)
    assert values["same-class-mass", "untrained"] == pytest.approx(4 / 12)
    assert values["row-entropy", "untrained"] == pytest.approx(math.log(12))
    shuffled = {key[:2]: value.mean() for key, value in null.items() if key[3] == "all"}
    assert shuffled["identity-mass", "teacher"] == pytest.approx(0, abs=1e-9)  # nobody is in his own place
    assert shuffled["same-class-mass", "untrained"] == pytest.approx(4 / 12)


def test_a_label_graph_falls_to_the_share_of_the_class_when_images_are_shuffled():
    labels = np.arange(240) % 3
    label = 1000.0 * np.stack([labels[:, None] == labels] * 2)
    found, null = measured(given(label, labels=labels), {}, size=240)
    key = ("same-class-mass", "teacher", "one-two", "all")
    assert found[key].mean() == pytest.approx(1)
    assert null[key].mean() == pytest.approx(1 / 3, abs=0.08)
    assert len(found[key]) == 240  # one batch alone: a number for each image


def test_batches_are_measured_each_by_itself():
    rng = np.random.default_rng(0)
    S, other = rng.normal(size=(2, 2, 12, 12))
    cache = given(S, other, tanh=True)
    found, _ = measured(cache, {"independent": given(S, S, tanh=True)}, size=5)
    parts = batches(12, 5)
    assert [len(rows) for rows in parts] == [5, 5]
    assert len({*parts[0], *parts[1]}) == 10
    for k, rows in enumerate(parts):
        T, U = (torch.from_numpy(np.tanh(each[:, rows][:, :, rows])).log_softmax(2) for each in (S, other))
        per_row = (U.exp() * (U - T)).sum(2)
        assert found["graph-divergence", "student", "one-two", "all"][k] == pytest.approx(float(per_row.mean()))
        assert found["graph-divergence", "student", "one-two", "1"][k] == pytest.approx(float(per_row[1].mean()))
        entropy = -(T.exp() * T).sum(2).mean()
        assert found["row-entropy", "teacher", "one-two", "all"][k] == pytest.approx(float(entropy))
        deviation = S[:, rows][:, :, rows].std(axis=(1, 2)).mean()
        assert found["score-deviation", "teacher", "one-two", "all"][k] == pytest.approx(deviation)
        large = np.abs(np.tanh(S[:, rows][:, :, rows])) > 0.99
        assert found["saturation", "teacher", "one-two", "all"][k] == pytest.approx(large.mean())
    assert found["graph-divergence", "independent", "one-two", "all"] == pytest.approx(np.zeros(2), abs=1e-12)


def test_heat_maps_are_multiples_of_an_even_share_ordered_by_class():
    S = np.random.default_rng(0).normal(size=(2, 12, 12))
    cells = pd.DataFrame(pictured(given(S), {}, size=12, most=8))
    own = cells[cells["network"] == "teacher"]
    assert len(own) == 64
    classes = own.drop_duplicates("row").sort_values("row")["class_a"].tolist()
    assert classes == ["a"] * 4 + ["b"] * 4  # the most frequent classes, whole
    whole = pd.DataFrame(pictured(given(S), {}, size=12, most=12))
    rows = whole[whole["network"] == "student"].groupby("row")["value"].mean()
    assert rows.to_numpy() == pytest.approx(np.ones(12))
    assert whole.loc[whole["network"] == "untrained", "value"].to_numpy() == pytest.approx(np.ones(144))


def test_scores_without_a_bound_are_not_saturated():
    S = np.random.default_rng(0).normal(size=(2, 12, 12))
    assert np.isnan(measured(given(S), {}, size=12)[0]["saturation", "teacher", "one-two", "all"]).all()


def test_the_figure_shows_the_cells_of_the_table():
    S = np.random.default_rng(0).normal(size=(2, 12, 12))
    cells = pd.DataFrame(pictured(given(S), {}, size=12, most=12)).assign(a="t", b="s")
    figure = heat_maps(cells)
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(drawn) == 3
    expected = 12 * torch.from_numpy(S).softmax(2).mean(0).numpy()
    order = np.lexsort((batches(12, 12)[0], LABELS[batches(12, 12)[0]]))
    rows = batches(12, 12)[0][order]
    assert np.allclose(drawn[0], expected[np.ix_(rows, rows)])
    lines = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_ydata()[0] == line.get_ydata()[1]]
    assert lines == [3.5, 7.5]  # between the classes


def test_one_image_has_no_graph():
    with pytest.raises(KDScopeError, match="a graph needs at least 2 images, not 1"):
        batches(1, 128)


# The command


@pytest.fixture(scope="module")
def answered(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("graph")
    sources = [str(run.path) for run in runs]
    options = ["--out", str(out), "--option", "batch=16", "--option", "images=64", "--option", "shown=12"]
    return CliRunner().invoke(analyze, ["graph", *sources, *options], catch_exceptions=False), out


def test_the_command_leaves_its_table_and_figures(answered):
    result, out = answered
    assert result.exit_code == 0
    assert {path.stem for path in out.glob("*.png")} == {"graph-heat", "graph-numbers"}
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith(("- ", "/"))) <= 100
    assert any("take them as rough" in line for line in lines)


def test_rows_have_intervals_nulls_and_seeds_together(answered):
    table = pd.read_csv(answered[1] / "graph.csv", dtype={"seed": str, "head": str})
    numbers = table[table["measure"] != "attention"]
    whole = numbers[numbers["head"] == "all"]
    assert set(whole["network"]) == {"teacher", "student", "independent", "untrained"}
    assert set(whole["b"]) == {"mhgd-seed0", "mhgd-seed1", "mhgd"}
    assert (whole["a"] == "teacher").all()
    mass = whole[whole["measure"] == "same-class-mass"]
    assert mass["floor"].notna().all()
    assert (mass["ci_low"] <= mass["value"] + 1e-12).all()
    assert (mass["value"] <= mass["ci_high"] + 1e-12).all()
    for _, own in mass.groupby(["layer", "network"]):
        by = own.set_index("seed")["value"]
        assert by["all"] == pytest.approx((by["0"] + by["1"]) / 2)
    heads = numbers[(numbers["measure"] == "identity-mass") & (numbers["head"] != "all") & (numbers["seed"] == "0")]
    for key, own in heads.groupby(["layer", "network"]):
        assert len(own) == 3
        of = (whole["measure"] == "identity-mass") & (whole["seed"] == "0")
        of &= (whole["layer"] == key[0]) & (whole["network"] == key[1])
        assert whole.loc[of, "value"].item() == pytest.approx(own["value"].mean())
    entropy = whole[whole["measure"] == "row-entropy"]
    assert entropy["ceiling"].unique() == pytest.approx([math.log(16)])
    assert (entropy["value"] <= math.log(16) + 1e-9).all()
    divergence = whole[(whole["measure"] == "graph-divergence")]
    assert set(divergence["network"]) == {"student", "independent"}
    assert (divergence["value"] > 0).all()


def test_a_second_call_takes_what_was_extracted(runs, answered):
    made = sorted(path.name for path in (runs[0].path / "features").glob("*graph*"))
    assert len(made) == 1
    before = (runs[0].path / "features" / made[0] / "manifest.json").stat().st_mtime_ns
    report = kdscope.analyze("graph", runs[0], batch=16, images=64)
    assert (runs[0].path / "features" / made[0] / "manifest.json").stat().st_mtime_ns == before
    table = pd.read_csv(answered[1] / "graph.csv", dtype={"seed": str, "head": str})
    same = table[(table["b"] == "mhgd-seed0") & (table["measure"] == "row-entropy") & (table["network"] == "teacher")]
    again = report.table[(report.table["measure"] == "row-entropy") & (report.table["network"] == "teacher")]
    assert again["value"].to_numpy() == pytest.approx(same["value"].to_numpy())


def test_a_cache_by_itself_is_enough(runs, answered):
    (path,) = (runs[0].path / "features").glob("*graph*")
    report = kdscope.analyze("graph", path, batch=16)
    assert set(report.table["network"]) == {"teacher", "student", "untrained"}


def test_refused(runs):
    with pytest.raises(KDScopeError, match=r"graphs are of runs of --method mhgd.*alone is by none"):
        kdscope.analyze("graph", runs[2])
    with pytest.raises(KDScopeError, match="graphs are of one split, and 'train,test' names several"):
        kdscope.analyze("graph", runs[0], splits="train,test")
    with pytest.raises(KDScopeError, match="alone has no graphs: it was trained by none, not by mhgd"):
        attentions_of(runs[2])
