import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from kdscope import KDScopeError
from kdscope.features.features import Ensemble, Features
from kdscope.measures.ensemble import COMBINATIONS, combine_logits


def probabilities(*args):
    return np.exp(combine_logits(*args))[0]


def test_oracles():
    first = [[[5.0, 0, 0]], [[-6.0, 0.5, 0]]]
    assert probabilities(first, "mean-logit") == pytest.approx([0.2098, 0.4442, 0.3460], abs=5e-5)
    assert probabilities(first, "mean-probability") == pytest.approx([0.4938, 0.3143, 0.1919], abs=5e-5)
    second = [[[4.0, 0, 0]], [[0, 3.0, 2.9]]]
    assert probabilities(second, "mean-logit") == pytest.approx([0.4580, 0.2778, 0.2642], abs=5e-5)
    assert probabilities(second, "mean-probability") == pytest.approx([0.4951, 0.2646, 0.2403], abs=5e-5)


@pytest.mark.parametrize("how", COMBINATIONS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_is_the_ensemble_that_teaches(how, temperature):
    """The measure looks at the same ensemble as the losses do."""
    logits = torch.tensor(np.random.default_rng(0).normal(size=(3, 20, 5)), dtype=torch.float32)
    teaching = Ensemble.of([Features(z) for z in logits], [1 / 3] * 3, how).log_probs(temperature)
    assert combine_logits(list(logits), how, temperature) == pytest.approx(teaching.numpy(), abs=2e-6)


@pytest.mark.parametrize("how", COMBINATIONS)
def test_one_network_is_itself(how):
    z = np.random.default_rng(0).normal(size=(4, 5))
    assert combine_logits([z], how) == pytest.approx(log_softmax(torch.tensor(z), dim=1).numpy(), abs=1e-14)


def test_the_mean_loss_follows_the_mean_probability():
    """The gradient of (1/m) sum KL(p_k || q) is that of KL(mean p_k || q); not that of the mean logit."""
    rng, temperature = np.random.default_rng(0), 3.0
    teachers = torch.tensor(rng.normal(size=(3, 6, 5)) * 4)
    student = torch.tensor(rng.normal(size=(6, 5)), requires_grad=True)

    def gradient(targets):
        q = log_softmax(student / temperature, dim=1)
        losses = [kl_div(q, torch.as_tensor(p), reduction="batchmean", log_target=True) for p in targets]
        return torch.autograd.grad(sum(losses) / len(losses), student)[0]

    mean_loss = gradient([log_softmax(z / temperature, dim=1) for z in teachers])
    of = {how: gradient([combine_logits(list(teachers), how, temperature)]) for how in COMBINATIONS}
    assert (mean_loss - of["mean-loss"]).abs().max() < 2e-9
    assert torch.equal(of["mean-loss"], of["mean-probability"])
    assert (mean_loss - of["mean-logit"]).abs().max() > 1e-4


def test_bad_input():
    with pytest.raises(KDScopeError, match="unknown ensemble 'mean-logits'; nearest: mean-logit"):
        combine_logits([np.zeros((1, 2))], "mean-logits")
    with pytest.raises(KDScopeError, match="no networks"):
        combine_logits([])
    with pytest.raises(KDScopeError, match=r"shapes \[\(1, 2\), \(1, 3\)\]"):
        combine_logits([np.zeros((1, 2)), np.zeros((1, 3))])
