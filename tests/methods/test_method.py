"""Composition of methods, and what is refused."""

import pytest
import torch
from torch import nn

from kdscope import models
from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods import METHODS, Method, Objective, resolve
from kdscope.methods.method import known_terms
from kdscope.methods.objective import make_term
from kdscope.methods.term import Term
from kdscope.training.learner import Learner


def weights(method, overrides=None):
    return {name: settings["weight"] for name, settings in resolve(method, overrides).items()}


def terms_of(method, overrides):
    return [make_term(known_terms()[name], settings) for name, settings in resolve(method, overrides).items()]


def test_presets():
    assert weights("none") == {"cross-entropy": 1.0}
    assert weights("kd") == {"cross-entropy": 0.1, "kd": 0.9}
    assert resolve("kd")["kd"]["temperature"] == 4.0
    assert weights("at") == {"cross-entropy": 1.0, "at": 1000.0}


def test_a_sum_of_methods_does_not_depend_on_its_order():
    assert weights("kd+at") == weights("at+kd") == {"cross-entropy": 0.1, "kd": 0.9, "at": 1000.0}


def test_overrides_and_custom_methods():
    assert resolve("kd", {"kd": {"temperature": 2.0}})["kd"] == {
        "temperature": 2.0,
        "scale_gradient": True,
        "weight": 0.9,
    }
    assert weights("kd", {"at": {"weight": 5}}) == {"cross-entropy": 0.1, "kd": 0.9, "at": 5}
    assert weights("custom", {"at": {}}) == {"at": 1.0}


HMAT_WEIGHTS = ("position_weight", "activation_weight", "channel_weight")


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("kdd", {}, "unknown method 'kdd'; nearest: kd"),
        ("kd", {"kdd": {}}, "unknown term 'kdd'; nearest: kd"),
        ("kd", {"kd": {"temprature": 1}}, "unknown setting 'temprature' in term 'kd'; nearest: temperature"),
        ("kd", {"kd": {"weight": -1}}, "weight must be a number >= 0, not -1"),
        ("kd", {"kd": {"weight": "much"}}, "weight must be a number"),
        ("kd", {"kd": {"weight": 0}, "cross-entropy": {"weight": 0}}, "no term with a weight above 0"),
        ("custom", {}, "no term with a weight above 0"),
        ("letkd-1+letkd-2", {}, "'letkd-2' and a part before it have the term 'letkd' in different forms"),
        ("fitnets+kd+fitnets-joint", {}, "'fitnets-joint' and a part before it have the term 'fitnets'"),
        ("born-again+kd-mhgd", {}, "have the term 'kd' in different forms"),
        ("dkd", {"dkd": {"alpha": 0, "beta": 0}}, "alpha and beta are both 0, which leaves nothing"),
        ("dist", {"dist": {"beta": 0, "gamma": 0}}, "beta and gamma are both 0"),
        ("h-at", {"h-at": {"spatial": 0, "channel": 0}}, "spatial and channel are both 0"),
        ("hmat", {"hmat": dict.fromkeys(HMAT_WEIGHTS, 0)}, "channel_weight are all 0"),
        ("at", {"at": {"p": True}}, "p must be a number above 0, not True"),
        ("vid", {"vid": {"variance": True}}, "variance must be a number between"),
        ("none", {"cross-entropy": {"label_smoothing": True}}, "label_smoothing must be in"),
    ],
)
def test_refused(method, overrides, message):
    with pytest.raises(KDScopeError, match=message):
        terms_of(method, overrides)


def test_parts_may_share_a_term_that_one_of_them_leaves_at_its_defaults():
    assert resolve("at+label-smoothing")["cross-entropy"]["label_smoothing"] == 0.1
    assert resolve("kd+born-again")["kd"]["temperature"] == resolve("born-again+kd")["kd"]["temperature"] == 1.0


def nets():
    torch.manual_seed(0)
    return models.build("resnet8", 10), models.build("resnet18", 10)


def test_stages_of_networks_of_different_depth_are_paired_from_the_deep_end():
    student, teacher = nets()
    objective = Objective(resolve("at"), student, [teacher])
    assert objective.pairs["at"] == [(("layer1", "layer2", "layer3"), ("layer2", "layer3", "layer4"))]


def test_layers_can_be_named():
    student, teacher = nets()
    layers = {"student": ["layer3"], "teacher": ["layer4.*", "!*.*.*", "!layer4.0"]}
    objective = Objective(resolve("at", {"at": {"layers": layers}}), student, [teacher])
    assert objective.pairs["at"] == [(("layer3",), ("layer4.1",))]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"student": ["layer3"]}, "gives no layers for the teacher"),
        ({"student": ["layer3"], "teacher": ["layer3", "layer4"]}, "gives 1 of the student"),
        ({"student": ["layer9"], "teacher": ["layer4"]}, "no layer matches 'layer9'"),
        (3, r"`layers` takes names such as \[layer2, layer3\], not 3"),
        ([1, 2], "`layers` takes names"),
    ],
)
def test_layers_that_do_not_pair(layers, message):
    with pytest.raises(KDScopeError, match=message):
        Objective(resolve("at", {"at": {"layers": layers}}), nets()[0], [nets()[1]])


MAP_TERMS = [name for name, term in known_terms().items() if term.maps_only]


def test_terms_of_maps_are_those_that_say_so():
    assert {"at", "fitnets", "ft", "h-at", "kdafm", "nst", "ofd", "vid"} <= set(MAP_TERMS)
    assert not {"rkd", "pkt", "sp", "cckd", "crd", "reviewkd"} & set(MAP_TERMS)


@pytest.mark.parametrize("name", MAP_TERMS)
def test_a_term_of_maps_refuses_vectors_before_anything_is_trained(name):
    student, teacher = models.build("resnet8", 10), models.build("resnet8", 10)
    terms = resolve("custom", {"kd": {}, name: {"layers": "penultimate"}})
    learner = Learner(student, Objective(terms, student, [teacher]), [teacher])
    message = rf"term '{name}' needs feature maps \[C, H, W\], and layer 'penultimate' of the student gives \[64\]"
    with pytest.raises(KDScopeError, match=message):
        learner.build(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("name", ["fsp", "kd-svd"])
def test_a_relation_of_layers_refuses_one_alone_before_anything_is_trained(name):
    student, teacher = models.build("resnet8", 10), models.build("resnet8", 10)
    terms = resolve("custom", {"kd": {}, name: {"layers": "stages:-1"}})
    learner = Learner(student, Objective(terms, student, [teacher]), [teacher])
    with pytest.raises(KDScopeError, match="needs two or more, not 1"):
        learner.build(torch.zeros(2, 3, 8, 8))


def test_a_term_that_needs_a_teacher_says_so():
    with pytest.raises(KDScopeError, match="term 'kd' needs a teacher"):
        Objective(resolve("kd"), nets()[0], [])


def test_a_weight_of_zero_leaves_a_term_out():
    objective = Objective(resolve("kd", {"kd": {"weight": 0}}), nets()[0], [])
    assert objective.names == ("cross-entropy",)
    assert not objective.needs_teacher


class Hint(Term):
    """A term with an adapter, as a method with adapters has it."""

    name = "test-hint"
    reads = "features"
    layers = "stages"

    def build(self, student, teacher):
        channels = [(s.shape[1], t.shape[1]) for s, t in zip(student.maps.values(), teacher.maps.values(), strict=True)]
        self.adapters = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in channels)

    def forward(self, student: Features, teacher: Features, batch: Batch):
        pairs = zip(self.adapters, student.maps.values(), teacher.maps.values(), strict=True)
        return sum((adapter(s).mean((2, 3)) - t.mean((2, 3))).square().mean() for adapter, s, t in pairs)


def test_adapters_are_made_for_each_teacher_and_are_trained(monkeypatch):
    monkeypatch.setitem(METHODS._entries, "test-hint", Method({Hint: 1.0}, "Hints", "a test"))
    from kdscope.training.learner import Learner

    student, teacher = nets()
    other = models.build("resnet14", 10)
    learner = Learner(student, Objective(resolve("test-hint"), student, [teacher, other]), [teacher, other])
    learner.build(torch.zeros(2, 3, 32, 32))
    widths = [[a.out_channels for a in term.adapters] for term in learner.objective.terms["test-hint"]]
    assert widths == [[128, 256, 512], [16, 32, 64]]
    with learner.capturing():
        values, _ = learner(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), torch.tensor([0, 1]))
    values.sum().backward()
    assert all(p.grad is not None for p in learner.objective.parameters())


@pytest.mark.parametrize("method", ["kd+", "+kd", "kd+kd", ""])
def test_a_sum_names_each_method_once(method):
    with pytest.raises(KDScopeError, match="a sum names each method once, such as kd\\+at"):
        resolve(method)


def test_names_of_methods_in_any_case():
    assert resolve("KD + At") == resolve("kd+at")
