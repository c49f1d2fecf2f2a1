"""`kdscope analyze templates`: what extraction keeps of KD layers, the numbers by closed forms, and their figures."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from kdscope import models
from kdscope.analyses.base import run_analysis
from kdscope.data import Batches, Dataset, Split
from kdscope.data.split import moments
from kdscope.errors import KDScopeError
from kdscope.features import Capture
from kdscope.features.templates import extract_templates
from kdscope.measures.templates import hits, null_purity, perplexity, purity, table_of
from kdscope.methods import resolve
from kdscope.methods.letkd import kd_layers
from kdscope.methods.objective import changed


@pytest.fixture(scope="module")
def data():
    pixels = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 3
    train, test = Split("train", pixels[:36], labels[:36]), Split("test", pixels[36:], labels[36:])
    return Dataset("random", train, test, None, ("a", "b", "c"), *moments(train.images))


@pytest.fixture(scope="module")
def student():
    """Not trained, but with values that count: what the layers add is ten times as long as it begins."""
    torch.manual_seed(0)
    settings = {"letkd": {"codes": 12, "subclasses": 2, "value_scale": 10.0}}
    network = changed(models.build("resnet8", 3, image_size=16), resolve("letkd-2", settings))
    for _, layer in kd_layers(network):
        nn.init.normal_(layer.norm.bias)
    return network.eval()


@pytest.fixture(scope="module")
def cache(student, data, tmp_path_factory):
    return extract_templates(student, data, "test", tmp_path_factory.mktemp("caches") / "net", batch_size=7)


def image_of(data):
    return torch.cat([batch.image for batch in Batches(data.test, data, batch_size=60).epoch()])


def test_codes_are_the_largest_assignments(cache, student, data):
    name = "layer3.kd_penultimate"
    with torch.no_grad(), Capture(student, [f"{name}.match"]) as capture:
        p = capture(image_of(data))[f"{name}.match"]
    code, share = cache.array(f"templates/code/{name}")[:], cache.array(f"templates/share/{name}")[:]
    assert cache.layers == ["layer3.0.kd_intermediate", name]
    assert cache.identity["templates"] == {"layer3.0.kd_intermediate": 6, name: 12}
    assert np.array_equal(code, torch.where(p.max(1).values > 0, p.argmax(1), -1).numpy())
    assert np.allclose(share, (p.max(1).values / p.sum(1)).numpy(), atol=1e-5)


def test_logits_of_the_changed_network(cache, student, data):
    image = image_of(data)
    layers = dict(kd_layers(student))
    last = layers["layer3.kd_penultimate"]
    with torch.no_grad():
        whole = student(image)
        assert np.allclose(cache.logits, whole.numpy(), atol=1e-4)
        assert all(layer.alpha == 1.0 for layer in layers.values())  # given back as it was

        def near(name, logits):
            return np.allclose(cache.array(f"ablation/{name}")[:], logits.numpy(), atol=1e-3)

        last.alpha = 0.25
        assert near("alpha=0.25@layer3.kd_penultimate", student(image))
        last.alpha = 1.0
        for layer in layers.values():
            layer.alpha = 0.0
        without = student(image)
        for layer in layers.values():
            layer.alpha = 1.0
        assert near("alpha=0", without)
        assert not near("alpha=0", whole)
        assert near("without-top-64", without)  # no template is left
        # The mean over the training images (all 36), by hand.
        train = torch.cat([batch.image for batch in Batches(data.train, data, augment="none").epoch()])
        with Capture(student, ["layer3.kd_penultimate.values", "layer3.kd_penultimate.norm"]) as capture:
            mean = capture(train)["layer3.kd_penultimate.values"].mean((0, 2, 3))
        handle = last.values.register_forward_hook(lambda m, i, o: mean[None, :, None, None].expand_as(o))
        assert near("mean@layer3.kd_penultimate", student(image))
        handle.remove()


def test_a_network_without_layers(data, tmp_path):
    with pytest.raises(KDScopeError, match="this CifarResNet has no KD layer"):
        extract_templates(models.build("resnet8", 3), data, "test", tmp_path / "net")


def test_numbers_of_templates_by_hand():
    codes, labels = np.array([[0, 0], [0, 1], [1, -1]]), np.array([0, 1, 1])
    table = table_of(codes, labels, 3, 2)
    assert table.tolist() == [[2, 1], [0, 2], [0, 0]]
    assert purity(table)[:2].tolist() == [2 / 3, 1.0]
    assert np.isnan(purity(table)[2])
    assert hits(codes, labels, table).tolist() == [1.0, 0.5, 1.0]
    assert perplexity(table) == pytest.approx(np.exp(-(0.6 * np.log(0.6) + 0.4 * np.log(0.4))))
    places = (codes >= 0).sum(1)
    assert np.average(hits(codes, labels, table), weights=places) == pytest.approx(table.max(1).sum() / table.sum())


def test_purity_of_shuffled_labels():
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 4
    pure = labels[:, None].repeat(9, 1)  # each class has its template
    assert purity(table_of(pure, labels, 4, 4)).tolist() == [1.0] * 4
    each, whole = null_purity(pure, labels, 4, 4)
    assert whole == pytest.approx(0.25, abs=0.03)
    assert np.allclose(each, 0.25, atol=0.03)
    # A template that one image has alone is pure, and stays so when labels are shuffled.
    alone = np.zeros((4000, 9), int)
    alone[7] = 1
    each, _ = null_purity(alone, labels, 2, 4)
    assert each[1] == 1.0
    chance = rng.integers(0, 4, (4000, 9))
    table = table_of(chance, labels, 4, 4)
    assert purity(table).max() - null_purity(chance, labels, 4, 4)[1] < 0.02


def test_the_table(cache, tmp_path):
    report = run_analysis("templates", [cache], tmp_path / "out", top=4, least=1)
    table = report.table
    codes = cache.array("templates/code/layer3.kd_penultimate")[:].reshape(24, -1)
    here = table[table["layer"] == "layer3.kd_penultimate"]
    use = here[here["measure"] == "use"]
    sizes = np.sort(np.bincount(codes[codes >= 0], minlength=12))[::-1][:4]
    sizes = sizes[sizes > 0]  # those that no place matches are not listed
    assert use["value"].tolist() == pytest.approx((sizes / codes.size).tolist())
    assert use["floor"].unique() == pytest.approx([1 / 12])
    whole = here[(here["measure"] == "purity") & here["template"].isna()].iloc[0]
    counts = table_of(codes, cache.labels, 12, 3)
    assert whole["value"] == pytest.approx(counts.max(1).sum() / counts.sum())
    assert whole["floor"] == pytest.approx(null_purity(codes, cache.labels, 12, 3)[1])
    assert whole["ci_low"] <= whole["value"] <= whole["ci_high"]
    listed = here[(here["measure"] == "purity") & (here["change"] == "by purity")]
    assert listed["value"].is_monotonic_decreasing
    right = (cache.logits.argmax(1) == cache.labels).mean()
    intact = table[(table["measure"] == "accuracy") & (table["change"] == "none")]
    assert intact["value"].tolist() == [right]
    changes = table[(table["measure"] == "accuracy-change") & (table["layer"] == "all")]
    zero = changes[(changes["change"] == "alpha") & (changes["amount"] == 0)].iloc[0]
    without = (cache.array("ablation/alpha=0")[:].argmax(1) == cache.labels).mean()
    assert zero["value"] == pytest.approx(without - right)
    assert changes["amount"].dropna().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 4.0, 16.0, 64.0]
    names = {path.name for path in report.figures}
    assert {"templates-use.png", "templates-ablation.png", "templates-gallery.png"} <= names
    assert any("with alpha 0 at test time" in note for note in report.notes)


def test_a_layer_that_matches_nothing(student, data, tmp_path):
    """Batch norm may switch all templates off: there is nothing to list, and nothing to lose."""
    off = copy.deepcopy(student)
    for _, layer in kd_layers(off):
        nn.init.constant_(layer.norm.bias, -100.0)
    cache = extract_templates(off, data, "test", tmp_path / "net", batch_size=24)
    report = run_analysis("templates", [cache], tmp_path / "out")
    whole = report.table[report.table["template"].isna()].set_index(["layer", "measure"])["value"]
    for layer in cache.layers:
        assert (whole[layer, "templates-used"], whole[layer, "unmatched"]) == (0.0, 1.0)
        assert math.isnan(whole[layer, "purity"])
    assert (report.table.loc[report.table["measure"] == "accuracy-change", "value"] == 0).all()
    assert report.pictures == {}


def test_several_splits_are_refused(cache):
    with pytest.raises(KDScopeError, match="templates are of one split"):
        run_analysis("templates", [cache], splits="train,test")
    with pytest.raises(KDScopeError, match="at least 1 template, not 0"):
        run_analysis("templates", [cache], top=0)
