"""What a method for detectors says of itself, and how `kdscope explain` knows that detectors are meant."""

import pytest
from click.testing import CliRunner

from kdscope.cli.explain import explain as command
from kdscope.detection.explain import explain
from kdscope.detection.methods.presets import DETECTION_METHODS


@pytest.mark.parametrize("method", ["fgd", "mimicry", "kd", "at"])
def test_the_levels_and_rows_that_a_term_compares(method):
    found = explain(method, "fcos_resnet10_w8", "fcos_resnet18_w32")
    ours, theirs = found.pairs[method]
    assert len(ours) == len(theirs)
    if method == "kd":
        assert ours == theirs == ("rows of dense",)
    else:
        assert [name.split()[1] for name in ours[:3]] == ["8", "16", "32"]
        assert ours[0] == "stride 8 (64 x 16 x 16)"  # 128 px, and a pyramid of 64 channels in both


def test_adapters_of_chen_are_one_for_each_level():
    found = explain("chen2017", "fasterrcnn_resnet10_w8", "fasterrcnn_resnet18_w32")
    assert found.parameters == 4 * (64 * 64 + 64)
    assert found.pairs["soft-class"][0] == ("rows of rpn", "rows of roi")


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        (["kd"], "Knowledge distillation of logits"),
        (["kd", "--student", "fcos_resnet10_w8"], DETECTION_METHODS["kd"].title),
        (["mimicry"], DETECTION_METHODS["mimicry"].title),
    ],
)
def test_a_name_of_both_is_that_of_classifiers_unless_the_student_detects(arguments, title):
    told = CliRunner().invoke(command, arguments)
    assert told.exit_code == 0
    assert told.output.splitlines()[0] == f"{arguments[0]}: {title}"
