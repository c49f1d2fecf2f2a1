import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kdscope.errors import KDScopeError
from kdscope.features.select import listing, select
from kdscope.models import build

TREE = {
    "conv1": nn.Conv2d(3, 4, 1),
    "layer1": nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()),
    "layer2": nn.ModuleDict({"downsample": nn.Sequential(nn.Conv2d(4, 4, 1)), "relu": nn.ReLU()}),
    "blocks": nn.ModuleList([nn.Identity() for _ in range(12)]),
    "fc": nn.Linear(4, 2),
}


@pytest.fixture
def tree():
    return nn.ModuleDict(TREE)


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["layer1"], ["layer1"]),
        (["layer1.*"], ["layer1.0", "layer1.1"]),
        (["layer?"], ["layer1", "layer2"]),
        (["blocks.{3,7}"], ["blocks.3", "blocks.7"]),
        (["blocks.1[01]"], ["blocks.10", "blocks.11"]),
        (["{layer1,layer2.downsample}.{0,1}"], ["layer1.0", "layer1.1", "layer2.downsample.0"]),
        (["@ReLU"], ["layer1.1", "layer2.relu"]),
        (["@relu#1"], ["layer1.1#1", "layer2.relu#1"]),
        (["@relu#*"], ["layer1.1#*", "layer2.relu#*"]),
        (["conv1#0", "conv1"], ["conv1", "conv1#0"]),
        (["@conv*", "!*.downsample.*"], ["conv1", "layer1.0"]),
        (["conv1#0", "conv1#1", "!conv1#0"], ["conv1#1"]),
        (["fc", "conv1", "layer1"], ["conv1", "layer1", "fc"]),
        (["penultimate", "fc"], ["penultimate", "fc"]),
        (["!blocks*", "!layer*"], ["conv1", "fc"]),
        (["<layer2.relu", "layer2.relu", "<layer2"], ["<layer2", "<layer2.relu", "layer2.relu"]),
        (["<@relu#0", "<layer?"], ["<layer1", "<layer1.1#0", "<layer2", "<layer2.relu#0"]),
        (["<fc#*", "penultimate"], ["penultimate", "<fc#*"]),
        (["<layer1", "layer1", "<fc", "!layer*"], ["<fc"]),
        (["<layer1", "layer1", "!<layer*"], ["layer1"]),
        ([], []),
    ],
)
def test_grammar(tree, patterns, chosen):
    assert select(tree, patterns) == chosen


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("layer3", "nearest: layer2, layer1"),
        ("conv2#0", "nearest: conv1"),
        ("@relo", "nearest: @relu"),
        ("conv1#x", "is not a layer pattern"),
        ("#1", "is not a layer pattern"),
        ("blocks.{1,2", "brace"),
        ("<layer3", "no layer matches '<layer3'; nearest: <layer2, <layer1"),
        ("<@relo", "nearest: <@relu"),
        ("<", "is not a layer pattern"),
        ("<<fc", "is not a layer pattern"),
        ("<penultimate", "no layer matches"),
    ],
)
def test_what_matches_nothing_names_what_is_near(tree, pattern, hint):
    with pytest.raises(KDScopeError, match=hint):
        select(tree, ["conv1", pattern])


def test_exclusions_that_leave_nothing(tree):
    with pytest.raises(KDScopeError, match="nothing is left"):
        select(tree, ["conv1", "!conv*"])


def test_a_shared_module_is_chosen_once():
    relu = nn.ReLU()
    assert select(nn.ModuleDict({"a": relu, "b": relu}), ["@relu"]) == ["a"]
    assert select(nn.ModuleDict({"a": relu, "b": relu}), ["b"]) == ["b"]
    assert select(nn.ModuleDict({"a": relu, "b": relu}), ["<b", "<a", "b"]) == ["<a", "b"]


def test_stages_of_a_network_come_in_their_order():
    net = build("resnet8", 10)
    assert select(net, ["penultimate", "layer3", "layer1"]) == ["layer1", "layer3", "penultimate"]


def test_listing_counts_parameters(tree):
    rows = {row.name: (row.kind, row.parameters) for row in listing(tree)}
    assert rows["conv1"] == ("Conv2d", 16)
    assert rows["layer1"] == ("Sequential", 20)
    assert listing(tree, ["<fc"]) == [("<fc", "Linear", 10)]
    assert len(rows) == len([name for name, _ in tree.named_modules() if name])


NAMES = [name for name, _ in nn.ModuleDict(TREE).named_modules() if name]


@given(st.lists(st.sampled_from(NAMES), min_size=1), st.lists(st.sampled_from(NAMES)))
def test_names_come_in_module_order_without_repeats(wanted, unwanted):
    tree = nn.ModuleDict(TREE)
    left = sorted(set(wanted) - set(unwanted), key=NAMES.index)
    patterns = [*wanted, *(f"!{name}" for name in unwanted)]
    if left:
        assert select(tree, patterns) == left
    else:
        with pytest.raises(KDScopeError):
            select(tree, patterns)


def test_a_string_is_one_pattern():
    assert select(nn.Sequential(nn.Linear(1, 1)), "0") == ["0"]
