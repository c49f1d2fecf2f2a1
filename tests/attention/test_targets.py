"""Targets that do not change with the gauge, and one that does and says so."""

import pytest
import torch

from kdscope.attention.targets import TARGETS, check_target, runner_up, score
from kdscope.errors import KDScopeError

Z = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.float64)
OF = torch.tensor([0, 2])


def test_closed_forms():
    assert torch.equal(score(Z, OF), torch.tensor([1.5, 1 - 4 / 3], dtype=torch.float64))
    assert torch.allclose(score(Z, OF, "log-prob"), Z.log_softmax(1)[[0, 1], [0, 2]])
    assert score(Z, OF, "margin").tolist() == [1.5, -2.0]
    assert score(Z, OF, "raw-logit").tolist() == [2.0, 1.0]
    assert score(Z, OF, "margin", rivals=torch.tensor([1, 0])).tolist() == [3.0, 1.0]
    assert runner_up(Z, OF).tolist() == [2, 1]


@pytest.mark.parametrize("target", TARGETS)
def test_only_the_raw_logit_reads_the_gauge(target):
    moved = score(Z + torch.tensor([[5.0], [-7.0]]), OF, target) - score(Z, OF, target)
    assert (moved.abs().max() < 1e-12) == (target != "raw-logit")


def test_the_raw_logit_warns_and_others_do_not(recwarn):
    check_target("margin")
    assert not recwarn.list
    with pytest.warns(UserWarning, match="no property of the predictor"):
        check_target("raw-logit")


def test_bad_input():
    with pytest.raises(KDScopeError, match="nearest: log-prob"):
        score(Z, OF, "logprob")
    with pytest.raises(KDScopeError, match="at least two classes"):
        score(Z[:, :1], OF * 0)
