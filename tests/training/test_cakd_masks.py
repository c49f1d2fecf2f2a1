"""Masks of causal attention transfer that are made once: what is kept is what a batch would give, and who shares it."""

import logging

import pytest
import torch
from torch import nn

import kdscope
from kdscope import models
from kdscope.data import Batches, Dataset, Split
from kdscope.data.split import moments
from kdscope.errors import KDScopeError
from kdscope.features import Capture
from kdscope.features.features import Features
from kdscope.methods.cakd import CausalAttention
from kdscope.methods.term import TrainingData
from kdscope.training.preparation import TrainingImages
from kdscope.training.prepare import prepare


def shaken(name):
    """A network whose biases are not those of its birth, so that integrated gradients differ from place to place."""
    torch.manual_seed(0)
    network = models.build(name, 4, image_size=16)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.normal_(0, 0.3)
    return network.eval().requires_grad_(False)


def term_for(few, views, mask):
    term = CausalAttention(mask=mask, views=views, layers="layer2")
    term.know(TrainingData(few.train.labels, 4, "standard"))
    return term


@pytest.fixture
def few():
    """Six images of four classes."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=generator, dtype=torch.uint8)
    split = Split("train", images, torch.arange(6) % 4)
    return Dataset("few", split, split, None, ("a", "b", "c", "d"), *moments(images))


@pytest.mark.parametrize("mask", ["ig", "gradcam", "shuffled"])
def test_kept_masks_are_those_of_the_batch(few, mask):
    """Over the whole orbit and real epochs. Integrated gradients depend on who shares a batch by rounding alone."""
    teacher = shaken("resnet14")
    terms = {views: term_for(few, views, mask) for views in ("live", "cached")}
    for term in terms.values():
        term.look(shaken("resnet8"), teacher)
    with Capture(teacher, ["layer2"]) as capture:
        kept = terms["cached"].prepare(TrainingImages(few, torch.device("cpu")), capture)
        assert kept["maps"].shape == (6, 162, 8, 8)
        assert kept["maps"].dtype == torch.float16
        terms["cached"].use(kept)
        equal = []
        for epoch in range(4):
            batches = Batches(few.train, few, augment="standard", batch_size=3, shuffle=True)
            for batch in batches.epoch(epoch):
                said = capture(batch.image)
                live, cached = (term.masks(said, batch, (8, 8)) for term in terms.values())
                torch.testing.assert_close(cached, live, atol=2e-3, rtol=0)
                equal.append((live == cached).float().mean())
    assert torch.stack(equal).mean() > 0.98


def test_they_are_made_once_for_seeds_and_ablations(tiny_data, tiny_teacher, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("KDSCOPE_CACHE", str(tmp_path / "cache"))
    made = []
    as_it_is = CausalAttention.prepare
    monkeypatch.setattr(CausalAttention, "prepare", lambda term, *a: made.append(term.mask) or as_it_is(term, *a))

    def train(name, seed=0, model="resnet8", **settings):
        terms = {"cakd": {"views": "cached", **settings}}
        options = tiny_data | {"epochs": 1, "augment": "none", "terms": terms, "method": "cakd"}
        options |= {"seed": seed, "model": model}
        return kdscope.train(tmp_path / name, teachers=[tiny_teacher], **options)

    with caplog.at_level(logging.INFO, "kdscope"):
        runs = [train("ig"), train("seed", seed=1), train("random", mask="random"), train("topq", shape="topq")]
        told = caplog.text
    runs += [train("shuffled", mask="shuffled", align_mask="own"), train("absolute", sign="absolute", model="vgg8")]
    assert made == ["ig"]
    assert len({run.summary["weights_hash"] for run in runs}) == len(runs)
    assert told.count("integrated gradients in 8 steps miss") == 4
    train("none", mask="none")
    assert made == ["ig"]
    train("gradcam", mask="gradcam")
    train("target", target="centred-logit")
    assert made == ["ig", "gradcam", "ig"]
    # The same training with masks made live, to rounding.
    live = train("live", views="live")
    assert live.metrics[-1]["cakd"] == pytest.approx(runs[0].metrics[-1]["cakd"], rel=1e-3)


def test_masks_of_endless_views_cannot_be_kept(tiny_data, tiny_teacher):
    options = tiny_data | {"augment": "strong", "terms": {"cakd": {"views": "cached"}}}
    with pytest.raises(KDScopeError, match="'strong' makes too many views"):
        prepare(kdscope.api.settings(method="cakd", teachers=[tiny_teacher], **options))
    options["terms"] = {"cakd": {"views": "cached", "mask": "none"}}
    prepare(kdscope.api.settings(method="cakd", teachers=[tiny_teacher], **options))  # needs none


def test_without_a_preparation_there_are_none(few):
    term = term_for(few, "cached", "ig")
    said = Features(torch.zeros(6, 4), {"layer2": torch.rand(6, 8, 4, 4)})
    batch = next(Batches(few.train, few, augment="standard").epoch())
    with pytest.raises(KDScopeError, match=r"no masks of these views.*views=live"):
        term(said, said, batch)
