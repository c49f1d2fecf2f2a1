import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kdscope.errors import KDScopeError
from kdscope.features import Capture
from kdscope.features.hooks import unwrap


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture
def images():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Twice(nn.Module):
    """One ReLU that runs twice, the second time on what the first gave, minus one half."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(192, 5)
        self.unused = nn.Linear(1, 1)

    def forward(self, x):
        return self.fc(self.relu(self.relu(x) - 0.5).flatten(1))


def test_an_operation_in_place_does_not_reach_what_was_caught(net, images):
    expected = nn.functional.batch_norm(
        net.conv(images), net.bn.running_mean, net.bn.running_var, net.bn.weight, net.bn.bias, eps=net.bn.eps
    )
    with torch.no_grad(), Capture(net, ["bn", "relu"]) as capture:
        features = capture(images)
    assert (features["bn"] < 0).any()
    torch.testing.assert_close(features["bn"], expected)
    torch.testing.assert_close(features["relu"], expected.relu())


def test_logits_are_those_of_the_bare_network(net, images):
    bare = net(images)
    with Capture(net, ["*", "penultimate"]) as capture:
        features = capture(images)
    assert torch.equal(features.logits, bare)
    assert torch.equal(net(images), bare)
    assert list(features.maps) == ["conv", "bn", "relu", "pool", "flat", "penultimate", "fc"]
    assert torch.equal(features["penultimate"], features["flat"])
    assert torch.equal(features["fc"], bare)


def test_a_module_that_runs_twice(images):
    net = Twice()
    with Capture(net, ["relu", "relu#0", "relu#1"]) as capture:
        features = capture(images)
    torch.testing.assert_close(features["relu#0"], images.relu())
    torch.testing.assert_close(features["relu#1"], (images.relu() - 0.5).relu())
    assert torch.equal(features["relu"], features["relu#1"])
    with Capture(net, ["@relu#*"]) as capture:
        for _ in range(2):  # numbers begin anew with each forward pass
            assert list(capture(images).maps) == ["relu#0", "relu#1"]


def test_what_enters_a_module_is_cloned_before_an_operation_in_place(images):
    """`relu` works in place and runs twice: what entered each call is kept, with both signs."""
    net = Twice()
    del net.unused
    with Capture(net, ["<relu", "<relu#*", "<fc", "penultimate"]) as capture:
        features = capture(images.clone())
    assert list(features.maps) == ["<relu", "<relu#0", "<relu#1", "penultimate", "<fc"]
    assert torch.equal(features["<relu#0"], images)
    torch.testing.assert_close(features["<relu#1"], images.relu() - 0.5)
    assert torch.equal(features["<relu"], features["<relu#1"])
    assert torch.equal(features["<fc"], features["penultimate"])
    assert hooks_of(net) == 0


def test_the_input_of_a_module_that_is_called_by_keyword():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(input=x + 1)

    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    with Capture(Keyword(), ["<fc"]) as capture:
        assert torch.equal(capture(x)["<fc"], x + 1)


def test_layers_that_do_not_run_are_named(images):
    net = Twice()
    with Capture(net, ["<relu#2"]) as capture, pytest.raises(KDScopeError, match=r"'<relu' runs 2 times, #0 to #1"):
        capture(images)
    with Capture(net, ["<unused"]) as capture, pytest.raises(KDScopeError, match="'<unused' does not run"):
        capture(images)
    with Capture(net, ["relu#2"]) as capture, pytest.raises(KDScopeError, match=r"'relu' runs 2 times, #0 to #1"):
        capture(images)
    with Capture(net, ["unused"]) as capture, pytest.raises(KDScopeError, match="'unused' does not run"):
        capture(images)


def test_a_glob_leaves_out_what_does_not_run(images):
    net = Twice()
    with Capture(net, ["*", "@relu#1", "@*#7"]) as capture:
        assert list(capture(images).maps) == ["relu", "relu#1", "fc"]
    with Capture(net, ["@relu#2"]) as capture, pytest.raises(KDScopeError, match="'relu' runs 2 times"):
        capture(images)
    with Capture(net, ["unus*"]) as capture, pytest.raises(KDScopeError, match="'unused' does not run"):
        capture(images)


@pytest.mark.parametrize("patterns", [["conv"], ["bn", "penultimate"], ["@conv2d"], ["<relu"], ["<bn"]])
def test_the_gradient_flows_through_what_was_caught(net, images, patterns):
    with Capture(net.train(), patterns) as capture:
        value = next(iter(capture(images).maps.values()))
        value.square().sum().backward()
    gradient = net.conv.weight.grad.clone()
    net.zero_grad()
    inner = {"conv": net.conv(images), "bn": net.bn(net.conv(images))}[
        "bn" if patterns[0] in ("bn", "<relu") else "conv"
    ]
    inner.square().sum().backward()
    torch.testing.assert_close(gradient, net.conv.weight.grad)


def test_detached_maps_have_no_gradient(net, images):
    with Capture(net, ["conv"], detach=True) as capture:
        features = capture(images)
    assert not features["conv"].requires_grad
    assert features.logits.requires_grad


def test_hooks_are_removed_after_use(net, images):
    with Capture(net, ["*", "penultimate"]) as capture:
        assert hooks_of(net) == 7
        capture(images)
    assert hooks_of(net) == 0


def test_hooks_are_removed_after_an_error(net):
    with pytest.raises(RuntimeError), Capture(net, ["*"]) as capture:
        capture(torch.zeros(1, 7, 8, 8))
    assert hooks_of(net) == 0


def test_hooks_are_removed_when_a_loop_is_left(net, images):
    def logits():
        with Capture(net, ["conv"]) as capture:
            while True:
                yield capture(images).logits

    stream = logits()
    next(stream)
    assert hooks_of(net) == 1
    stream.close()
    assert hooks_of(net) == 0


def test_no_hook_is_left_by_a_pattern_that_matches_nothing(net):
    with pytest.raises(KDScopeError):
        Capture(net, ["conv", "covn"])
    assert hooks_of(net) == 0


def test_captures_of_one_network_do_not_disturb_each_other(net, images):
    with Capture(net, ["conv"]) as outer:
        with Capture(net, ["bn"]) as inner:
            assert list(inner(images).maps) == ["bn"]
            assert list(outer(images).maps) == ["conv"]
        assert list(outer(images).maps) == ["conv"]


def test_outside_of_with_it_says_so(net, images):
    with pytest.raises(RuntimeError, match="with Capture"):
        Capture(net, ["conv"])(images)


class Strange(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.inner(x))


def test_outputs_that_are_no_tensors():
    pair = nn.Sequential(Strange(lambda x: (x, x + 1)), Strange(lambda x: x))
    pair.forward = lambda x: pair[1](pair[0](x)[0])
    x = torch.randn(2, 4)
    with Capture(pair, ["0"]) as capture:
        assert torch.equal(capture(x)["0"], pair[0](x)[0])
    both = nn.Sequential(Strange(lambda x: {"x": x}))
    both.forward = lambda x: both[0](x)["x"]
    with Capture(both, ["0"]) as capture, pytest.raises(KDScopeError, match=r"layer '0' gives dict.*inside it"):
        capture(x)
    with Capture(both[0], []) as capture, pytest.raises(KDScopeError, match="Strange gives dict"):
        capture(x)


def test_what_is_caught_can_be_reduced_at_once(net, images):
    with (
        torch.no_grad(),
        Capture(net, ["bn", "flat"], reduce=lambda x: x.flatten(2).mean(2) if x.dim() > 2 else x) as c,
    ):
        features = c(images)
        expected = net.bn(net.conv(images)).mean((2, 3))
    torch.testing.assert_close(features["bn"], expected)
    assert features["flat"].shape == (4, 6)


def test_a_reduction_that_shares_memory_is_cloned(net, images):
    with torch.no_grad(), Capture(net, ["bn"], reduce=lambda x: x[:, :2]) as capture:
        assert (capture(images)["bn"] < 0).any()


def test_the_caught_memory_format_is_kept(net, images):
    net, images = net.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    with Capture(net, ["bn"]) as capture:
        assert capture(images)["bn"].is_contiguous(memory_format=torch.channels_last)


def test_what_a_checkpoint_computes_again_in_backward_is_not_caught(net, images):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=False)

    with Capture(Checkpointed(), ["net.conv"]) as capture:
        features = capture(images)
        before = features["net.conv"].clone()
        features.logits.sum().backward()
        assert list(features.maps) == ["net.conv"]
        assert torch.equal(features["net.conv"], before)


def test_wrapped_networks_keep_their_names(net, images):
    wrapped = nn.DataParallel(net)
    assert unwrap(wrapped) is net
    with Capture(wrapped, ["conv"]) as capture:
        assert list(capture(images).maps) == ["conv"]


def test_fabric_and_compiled_networks_keep_their_names(net, images):
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    for wrapped in (fabric.setup_module(net), torch.compile(net, backend="eager")):
        assert unwrap(wrapped) is net
        with torch.no_grad(), Capture(wrapped, ["bn"]) as capture:
            for _ in range(2):
                torch.testing.assert_close(capture(images)["bn"], net.bn(net.conv(images)))
