"""A network that begins between the weights of a file and a fresh draw (Stanton et al., NeurIPS 2021, figure 6)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope import models
from kdscope.config import NetworkSettings
from kdscope.data import load
from kdscope.training.prepare import build_network


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A network with statistics of batch norm unlike those of a fresh one, and its file."""
    torch.manual_seed(5)
    network = models.build("resnet8", 10, image_size=8)
    for name, value in network.state_dict().items():
        if "running" in name:
            value.uniform_(1, 2)
    path = tmp_path_factory.mktemp("start") / "teacher.safetensors"
    models.save_weights(path, network)
    return network.state_dict(), path


def start(path, share):
    torch.manual_seed(7)
    built = build_network(NetworkSettings(name="resnet8", checkpoint=path, checkpoint_share=share), load("digits:8"))
    return built.state_dict()


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 1))
def test_a_start_lies_on_the_line_between_both(teacher, share):
    theirs, path = teacher
    torch.manual_seed(7)
    drawn = models.build("resnet8", 10, image_size=8).state_dict()
    for name, value in start(path, share).items():
        if value.is_floating_point():
            wanted = share * theirs[name].double() + (1 - share) * drawn[name].double()
            torch.testing.assert_close(value.double(), wanted, rtol=0, atol=1e-6)


def test_the_ends_are_exact(teacher):
    theirs, path = teacher
    assert all(torch.equal(value, theirs[name]) for name, value in start(path, 1.0).items())
    torch.manual_seed(7)
    drawn = models.build("resnet8", 10, image_size=8).state_dict()
    found = start(path, 0.0)
    assert all(torch.equal(value, drawn[name]) for name, value in found.items() if value.is_floating_point())
