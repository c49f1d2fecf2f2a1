"""The doctor: a sound pair is trusted, and each planted fault is found by its name."""

import dataclasses

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from told import mostly, sayings
from torch import nn

import kdscope
from kdscope.analyses.base import run_analysis
from kdscope.analyses.doctor_rules import of_measure, of_support
from kdscope.cli.analyze import show
from kdscope.cli.doctor import doctor
from kdscope.data import load
from kdscope.features.checkup import apart, check_network, gauge_of_maps, moved_gauge, plain_hooks
from kdscope.measures import MEASURES
from kdscope.measures.base import Card
from kdscope.measures.logits import LogitMean
from kdscope.measures.trust import Heads, Tried, estimates, put_to_test
from kdscope.models import build
from kdscope.sources import Subject


class RawLogit(LogitMean):
    """Distance of raw logits: what hint losses on logits report, and no property of the predictor."""

    card = Card("raw-logit-distance", "Distance of logits", "logits", (0, np.inf), "lower", "planted")

    def per_sample(self, pair):
        return np.abs(pair.teacher - pair.student).mean(axis=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    shared = {"data": "digits:8", "model": "resnet8", "epochs": 3, "device": "cpu"}
    teacher = kdscope.train(folder / "teacher", **shared)
    kdscope.train(folder / "kd", teachers=[teacher], method="kd", seed=1, **shared)
    return folder


@pytest.fixture
def planted(monkeypatch):
    list(MEASURES)
    monkeypatch.setitem(MEASURES._entries, "raw-logit-distance", RawLogit)


def rows(report, **wanted):
    table = report.table
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def network(first=None):
    torch.manual_seed(0)
    body = first or [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def of_network(net, tmp_path, name="net"):
    return Subject(
        name, "net", name, dataset=load("digits:8"), folder=tmp_path / name, load=lambda: net, device="cpu",
    )  # fmt: skip


def test_a_sound_pair_is_trusted(pair, tmp_path):
    report = run_analysis("doctor", [pair / "kd"], tmp_path, device="cpu")
    assert not len(rows(report, verdict="do not trust")), str(report)
    gauge = rows(report, test="gauge")
    assert (gauge["verdict"] == "trust").all()
    assert {"agreement", "ece", "mutual-information", "js"} <= set(gauge["measure"])
    assert {"cam/layer3", "grad-cam/layer1", "activation/layer2"} <= set(gauge["layer"].dropna())
    identity = rows(report, test="identity")
    assert identity["value"].max() < 1e-6
    assert {"kappa", "kl-teacher-student", "cka"} <= set(identity["measure"])
    null = rows(report, test="null", measure="kappa").iloc[0]
    assert null.ci_low <= null.found <= null.ci_high < 0.2
    assert {"teacher", "kd"} == set(rows(report, test="in-place")["b"])
    assert any("no number moves with the gauge" in note for note in report.notes)
    assert (tmp_path / "doctor.csv").is_file()


def test_a_measure_that_reads_the_gauge_is_named(pair, planted, capsys):
    report = run_analysis("doctor", [pair / "kd"], device="cpu")
    bad = rows(report, verdict="do not trust")
    assert set(zip(bad["measure"], bad["test"], strict=True)) == {("raw-logit-distance", "gauge")}
    # Two networks with independent gauges of scale 10: the mean distance grows to about 10 * sqrt(2) * sqrt(2 / pi).
    assert 6 < bad["found"].iloc[0] < 20
    assert "moved by the gauge: raw-logit-distance" in report.notes
    assert report.summary.iloc[0]["verdict"] == "do not trust"
    show(report.summary)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any("raw-logit-distance" in line for line in lines)


def test_overlaps_of_maps_are_put_to_the_same_tests(pair):
    report = run_analysis("doctor", [pair / "kd"], device="cpu", maps=True)
    overlap = rows(report, measure="attention-iou")
    assert {"activation/layer1", "cam/layer3", "grad-cam/layer2"} <= set(overlap["layer"])
    assert not any("cam-sum" in layer for layer in overlap["layer"])
    for name in ("attention-iou", "map-rank-correlation", "soft-iou"):
        assert rows(report, measure=name, test="identity")["value"].max() < 1e-6
        assert not rows(report, measure=name, test="null")["ci_low"].isna().any()


def test_the_published_map_moves_with_the_gauge(pair):
    report = run_analysis("doctor", [pair / "teacher"], device="cpu", definition="guo2024-code")
    moved = rows(report, test="gauge", verdict="do not trust")
    assert moved["layer"].tolist() == ["cam-sum/layer3"]
    assert any("no pair to test measures on" in note for note in report.notes)


def test_layers_overwritten_in_place_are_listed(tmp_path):
    inplace = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)]
    report = run_analysis("doctor", [of_network(network(inplace), tmp_path)])
    caught = rows(report, test="in-place", verdict="caution")
    assert caught["layer"].tolist() == ["1"]  # the batch normalisation; the convolution before it is safe
    assert (rows(report, test="capture")["value"] == 0).all()
    images = torch.randn(4, 3, 8, 8)
    assert plain_hooks(network(inplace).eval(), images)["1"] > 0.1
    assert set(plain_hooks(network().eval(), images).values()) == {0.0}


def test_networks_that_are_not_the_same_twice(tmp_path):
    class Restless(nn.Module):
        def forward(self, x):
            return x + 0.1 * torch.randn_like(x)

    digits = load("digits:8")
    net = network().append(Restless())
    assert check_network(net, digits, images=8)["determinism"]["logits"] > 1e-3
    batch_bound = network([nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU()])
    found = check_network(batch_bound, digits, images=8)
    assert found["determinism"]["logits"] == 0
    assert found["batch-independence"]["logits"] > 1e-2

    class Counting(nn.BatchNorm2d):
        def forward(self, x):
            self.running_mean += 0.01
            return super().forward(x)

    found = check_network(network([nn.Conv2d(3, 8, 3), Counting(8), nn.ReLU()]), digits, images=8)
    assert "1.running_mean" in found["statistics"]
    report = run_analysis("doctor", [of_network(net, tmp_path)])
    assert "two passes in eval mode differ" in report.table.iloc[0]["reason"]


def test_a_network_is_given_back_as_it_was():
    net, digits = build("resnet8", num_classes=10), load("digits:8")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = check_network(net, digits, images=8)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.requires_grad for weight in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
    assert found["statistics"] == {"": 0.0}
    assert all(gap < 1e-3 for name, gap in found["gauge"].items() if not name.startswith("cam-sum"))
    assert found["gauge"]["cam-sum/layer3"] > 0.1
    head, images = net.classifier if hasattr(net, "classifier") else net.fc, torch.randn(2, 3, 8, 8)
    net.eval()
    with torch.no_grad():
        plain = net(images)
        with moved_gauge(head):
            moved = net(images)
    assert apart(moved.softmax(1), plain.softmax(1)) < 1e-4 < apart(moved, plain)
    assert gauge_of_maps(nn.Flatten(), None, 8) == {}


def test_weights_that_are_no_numbers_and_a_cache_that_is_refused(tmp_path):
    net = network()
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = float("nan")
    report = run_analysis("doctor", [of_network(net, tmp_path), of_network(network(), tmp_path, "sound")])
    bad = rows(report, verdict="do not trust", b="net")
    assert {"weights", "finite", "cache"} <= set(bad["test"])
    assert bad[bad["test"] == "weights"]["layer"].tolist() == ["0.weight"]
    assert bad[bad["test"] == "finite"]["value"].iloc[0] == 32
    assert not len(rows(report, verdict="do not trust", b="sound"))
    large = network([nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)])
    with torch.no_grad():
        large[1].weight.fill_(1e6)
    assert max(check_network(large, load("digits:8"), images=8)["float16"].values()) > 1


def test_features_that_are_nan_are_counted_by_layer(tmp_path):
    @dataclasses.dataclass(eq=False)
    class Layered(type(sayings([0], [0]))):
        held: dict = dataclasses.field(default_factory=dict)
        layers = property(lambda self: list(self.held))

        def feature(self, layer):
            return self.held[layer]

    labels = np.random.default_rng(0).integers(0, 4, 200)
    subjects = []
    for k in range(2):
        said = sayings(mostly(labels, 0.9, k), labels, noise=k)
        good = np.random.default_rng(7).normal(size=(200, 8))
        bad = np.where(np.arange(200)[:, None] < 3 * k, np.nan, good)
        cache = Layered(**vars(said) | {"path": tmp_path / str(k)}, held={"early": good, "late": bad})
        subjects.append(Subject(f"net{k}", "net", f"net{k}", caches={("test", "none"): cache}))
    report = run_analysis("doctor", subjects)
    found = rows(report, test="finite features", verdict="do not trust")
    assert found[["b", "layer", "value"]].to_numpy().tolist() == [["net1", "late", 3.0]]
    # The sound layer is still looked at, and the sick one is not.
    assert set(rows(report, measure="cka")["layer"]) == {"early"}
    assert rows(report, measure="cka", test="identity")["value"].max() < 1e-9


def test_too_few_images_for_the_classes():
    assert of_support(99, 10)["verdict"] == "do not trust"
    assert of_support(499, 10)["verdict"] == "caution"
    assert of_support(500, 10)["verdict"] == "trust"
    labels = np.random.default_rng(0).integers(0, 12, 100)
    said = [sayings(np.where(np.arange(100) < 10 * k, 0, labels), labels, classes=12, noise=k) for k in range(2)]
    for cache in said:
        cache.layers = []
    subjects = [Subject(f"net{k}", "net", f"net{k}", caches={("test", "none"): c}) for k, c in enumerate(said)]
    report = run_analysis("doctor", subjects)
    few = rows(report, test="support", measure="mutual-information").iloc[0]
    assert (few.verdict, round(few.value, 3)) == ("do not trust", 0.694)


def test_other_classes_and_a_network_alone():
    labels = np.random.default_rng(0).integers(0, 4, 50)
    said = [sayings(labels, labels, classes=4 + k) for k in range(2)]
    for cache in said:
        cache.layers = []
    subjects = [Subject(f"net{k}", "net", f"net{k}", caches={("test", "none"): c}) for k, c in enumerate(said)]
    report = run_analysis("doctor", subjects)
    assert report.table.iloc[0][["test", "verdict"]].tolist() == ["same images", "do not trust"]
    alone = run_analysis("doctor", subjects[:1])
    assert not any("gauge" in note or "forbids" in note for note in alone.notes)


def test_a_network_that_always_names_one_class():
    z = np.array([[2.0, 0, 0]]) + np.random.default_rng(0).normal(scale=0.1, size=(100, 3))
    tried = put_to_test([MEASURES["kappa"]()], Heads((z,), (z,)))[0]
    identity = next(row for row in of_measure(tried) if row["test"] == "identity")
    assert (identity["value"], identity["verdict"]) == (1.0, "do not trust")


def test_nulls_are_judged_by_the_effect():
    card = MEASURES["kappa"].card

    def judged(value, shuffled):
        tried = Tried(card, "kdscope", value, value, 1.0, tuple(shuffled))
        return next(row for row in of_measure(tried) if row["test"] == "null")

    noise = np.random.default_rng(0).normal(scale=0.01, size=19)
    assert judged(0.8, noise)["verdict"] == "trust"
    assert judged(0.8, noise + 0.2)["verdict"] == "caution"
    assert "above its floor" in judged(0.8, noise + 0.6)["reason"]
    assert judged(0.6, noise + 0.6)["verdict"] == "do not trust"
    assert "not told from shuffled" in judged(noise.max() - 1e-3, noise)["reason"]


def test_ensembles_are_moved_member_by_member():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 300, 5))
    several = [MEASURES["kl-teacher-student"](d) for d in ("kdscope", "guo2024-code")]
    first, second = put_to_test(several, Heads((a, b), (c,)))
    assert first.value != second.value
    assert max(first.moved, second.moved) < 1e-9
    assert estimates(several[:1], Heads((c,), (c,))) == [0.0]
    assert "needs labels" in put_to_test([MEASURES["accuracy"]()], Heads((a,), (c,)))[0].error


def test_the_short_verb_says_so_in_its_exit_status(pair, planted, tmp_path):
    arguments = [str(pair / "kd"), "--device", "cpu", "--out", str(tmp_path)]
    result = CliRunner().invoke(doctor, arguments)
    assert result.exit_code == 1
    assert "moved by the gauge: raw-logit-distance" in result.stdout
    assert str(tmp_path / "doctor.csv") in result.stdout
