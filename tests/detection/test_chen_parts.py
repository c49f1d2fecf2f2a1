"""Each part of Chen et al. (2017) by itself, on every family of detectors: nothing of the others is computed."""

import pytest
import torch

from kdscope.detection import models
from kdscope.detection.learner import DetectionLearner
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.detection.methods.presets import resolve

NAMES = {
    "fcos": ("fcos_resnet10_w8", "fcos_resnet10_w16"),
    "retinanet": ("retinanet_resnet10_w8", "retinanet_resnet10_w16"),
    "ssdlite": ("torchvision:ssdlite320_mobilenet_v3_large",) * 2,
    "fasterrcnn": ("fasterrcnn_resnet10_w8", "fasterrcnn_resnet10_w16"),
}
HEADS = {"fcos": ("dense",), "retinanet": ("dense",), "ssdlite": ("dense",), "fasterrcnn": ("rpn", "roi")}
STRIDES = {"fcos": 3, "retinanet": 3, "ssdlite": 6, "fasterrcnn": 4}
CLASSES = ("loss_classifier", "loss_objectness", "classification")
TERMS = ("soft-class", "bounded-box", "hint")
BOXES = torch.tensor([[8.0, 8.0, 40.0, 48.0], [30.0, 20.0, 60.0, 60.0]])
TARGETS = [{"boxes": BOXES, "labels": torch.tensor([1, 3])}, {"boxes": BOXES[:0], "labels": torch.zeros(0).long()}]


def learner_of(pair, **overrides):
    objective = DetectionObjective(resolve("chen2017", {"hint": {"normalize": False}, **overrides}), teacher=True)
    learner = DetectionLearner(pair[0], objective, pair[1])
    torch.manual_seed(7)
    learner.build()
    return learner


@pytest.fixture(scope="module", params=list(NAMES))
def family(request):
    """(family, student and teacher, what both say of two images, the values of all parts by name)."""
    student, teacher = NAMES[request.param]
    size = {} if "ssd" in student else {"image_size": 64}
    pair = []
    for seed, name in enumerate((student, teacher)):
        torch.manual_seed(seed)
        pair.append(models.build(name, 3, **size))
    learner = learner_of(pair, **{"bounded-box": {"margin": 1e6}})  # so that every box counts
    learner.train()
    torch.manual_seed(3)
    views = learner.look(torch.rand(2, 3, 64, 64), TARGETS, torch.arange(2))
    values = learner.objective(*views).detach()
    return request.param, pair, views, dict(zip(learner.objective.names, values, strict=True))


def test_together_they_are_the_papers_sum(family):
    name, _, views, values = family
    own = [f"detection.{loss}" for loss in views[0].losses]
    rows = [f"{term}.{head}" for term in TERMS[:2] for head in HEADS[name]]
    assert list(values) == [*own, *rows, "hint"]
    assert all(0 < value < float("inf") for value in values.values())
    for loss, value in views[0].losses.items():
        torch.testing.assert_close(values[f"detection.{loss}"], (0.5 if loss in CLASSES else 1.0) * value.detach())


@pytest.mark.parametrize("term", TERMS)
def test_each_alone_is_what_it_is_beside_the_others_and_asks_the_teacher_no_more_than_it_needs(family, term):
    name, pair, views, values = family
    alone = {"detection": {"classification": 1.0}} | {other: {"weight": 0.0} for other in TERMS if other != term}
    alone |= {"bounded-box": {"margin": 1e6}} if term == "bounded-box" else {}
    objective = learner_of(pair, **alone).objective
    assert objective.asks == (() if term == "hint" else HEADS[name])
    mine = [key for key in values if key.partition(".")[0] == term]
    assert list(objective.names) == [*(key for key in values if key.startswith("detection.")), *mine]
    found = dict(zip(objective.names, objective(*views), strict=True))
    assert all(torch.equal(found[key], values[key]) for key in mine)
    assert all(torch.equal(found[f"detection.{loss}"], value) for loss, value in views[0].losses.items())
    assert len(list(objective.parameters())) == (2 * STRIDES[name] if term == "hint" else 0)


@pytest.mark.parametrize("term", TERMS)
def test_without_one_the_others_stay_and_nothing_of_it_is_built(family, term):
    _, pair, views, values = family
    rest = {"bounded-box": {"margin": 1e6}} | {term: {"weight": 0.0}}
    objective = learner_of(pair, **rest).objective
    assert term not in objective.terms
    found = dict(zip(objective.names, objective(*views), strict=True))
    assert found == {key: value for key, value in values.items() if key.partition(".")[0] != term}


def test_forms_of_each_part_and_heads_can_be_chosen(family):
    name, pair, views, values = family
    head = HEADS[name][-1]
    chosen = {"soft-class": {"background_weight": 1.0, "heads": [head]}, "bounded-box": {"kind": "mimic"}}
    chosen |= {"hint": {"adapter": "needed", "norm": "l1", "normalize": False}}
    objective = learner_of(pair, **chosen).objective
    found = dict(zip(objective.names, objective(*views), strict=True))
    assert [key for key in found if key.startswith("soft-class")] == [f"soft-class.{head}"]
    assert all(found[key] != values[key] for key in (f"soft-class.{head}", f"bounded-box.{head}", "hint"))
    assert not list(objective.parameters())  # all widths are equal
    levels = [(views[0].maps[stride] - views[1].maps[stride]).abs().mean() for stride in views[0].maps]
    torch.testing.assert_close(found["hint"], sum(levels))
