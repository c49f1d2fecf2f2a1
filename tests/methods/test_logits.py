"""Methods that read logits: closed forms, independent formulas in float64, and what must not change them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Ensemble, Features
from kdscope.methods import METHODS, Objective, resolve
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.dist import DIST, dist_loss
from kdscope.methods.dkd import DecoupledKD, decoupled, dkd_loss
from kdscope.methods.dml import MutualLearning, mutual_loss
from kdscope.methods.kd import KD, kd_loss
from kdscope.methods.kd_z import StandardisedKD, standardised_kd_loss, standardised_logits
from kdscope.methods.tf_kd_reg import VirtualTeacher, virtual_teacher_loss

seeds = given(st.integers(0, 10_000))
few = settings(max_examples=20, deadline=None)


def draw(seed, *shape, scale=3.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(*y):
    return Batch(None, tensor(y), None, None)


def gradient(loss, z):
    z = z.clone().requires_grad_()
    loss(z).backward()
    return z.grad


# KD


def test_kd_of_three_classes_with_and_without_the_squared_temperature():
    student, teacher = tensor([[1.0, 2.0, 3.0]]).double(), tensor([[3.0, 2.0, 1.0]]).double()
    assert kd_loss(student, teacher, 1.0).item() == pytest.approx(1.1504207, abs=1e-7)
    assert kd_loss(student, teacher, 4.0, scale_gradient=False).item() == pytest.approx(0.0824769, abs=1e-7)
    assert kd_loss(student, teacher, 4.0).item() == pytest.approx(1.3196299, abs=1e-7)


@pytest.mark.parametrize(("scale", "expected"), [(True, 1.3196299), (False, 0.0824769)])
def test_the_term_scales_as_the_function(scale, expected):
    student, teacher = Features(tensor([[1.0, 2.0, 3.0]])), Features(tensor([[3.0, 2.0, 1.0]]))
    assert float(KD(scale_gradient=scale)(student, teacher, None)) == pytest.approx(expected, abs=1e-6)


def test_the_loss_of_mhgds_tables():
    """0.7 CE + 0.3 KL at T = 4 without T^2, on the logits above."""
    objective = Objective(resolve("kd-mhgd"), torch.nn.Identity(), [torch.nn.Identity()])
    student, teacher = Features(tensor([[1.0, 2.0, 3.0]])), Features(tensor([[3.0, 2.0, 1.0]]))
    loss = float(objective.weights @ objective(student, [teacher], labels(0)))
    ce = math.log(math.e + math.e**2 + math.e**3) - 1
    assert loss == pytest.approx(0.7 * ce + 0.3 * 0.0824769, abs=1e-6)


def test_label_smoothing_spreads_over_all_classes():
    assert resolve("label-smoothing")["cross-entropy"] == {"label_smoothing": 0.1, "weight": 1.0}
    z = tensor([[2.0, 0.0, 0.0, 0.0]])
    target = tensor([[0.925, 0.025, 0.025, 0.025]])
    loss = float(CrossEntropy(0.1)(Features(z), None, labels(0)))
    assert loss == pytest.approx(float(-(target * log_softmax(z, 1)).sum()), abs=1e-6)


# Standardised logits


def test_standardised_kd_of_two_classes():
    """Logits become -1 and 1, so that KL at tau is (2 / tau) tanh(1 / tau) where the two disagree."""
    student, teacher = tensor([[0.0, 0.2]]).double(), tensor([[30.0, 0.0]]).double()
    for tau in (1.0, 2.0, 3.0):
        expected = tau**2 * (2 / tau) * math.tanh(1 / tau)
        assert standardised_kd_loss(student, teacher, tau).item() == pytest.approx(expected, abs=1e-5)
    assert gradient(lambda z: standardised_kd_loss(z, teacher), student).abs().max() < 1e-5


@seeds
@few
def test_standardised_kd_equals_the_formula_and_sees_no_scale(seed):
    student, teacher = draw(seed, 4, 7), draw(seed + 1, 4, 7)
    p, q = (
        softmax((z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True) / 2, 1) for z in (teacher, student)
    )
    expected = 4 * (p * (p / q).log()).sum() / 4
    assert torch.isclose(standardised_kd_loss(student, teacher), expected, rtol=1e-5)
    assert torch.isclose(standardised_kd_loss(0.1 * student + 5, 7 * teacher - 2), expected, rtol=1e-5)
    assert standardised_kd_loss(3 * teacher + 1, teacher).abs() < 1e-10


def test_the_two_standard_deviations():
    z = draw(0, 3, 10)
    assert torch.allclose(standardised_logits(z).std(1, correction=0), torch.ones(3).double(), atol=1e-6)
    assert torch.allclose(standardised_logits(z, "authors-code").std(1), torch.ones(3).double(), atol=1e-6)


def test_equal_logits_have_no_z_score_but_a_gradient_that_is_finite():
    grad = gradient(lambda z: standardised_kd_loss(z, draw(0, 2, 5)), torch.zeros(2, 5).double())
    assert grad.isfinite().all()


def test_each_teacher_is_standardised_before_they_are_averaged():
    student, teachers = Features(draw(0, 4, 5).float()), [Features(draw(k, 4, 5).float()) for k in (1, 2)]
    scaled = [Features(50 * teachers[0].logits), teachers[1]]
    for how in ("mean-probability", "mean-logit"):
        first, second = (
            StandardisedKD()(student, Ensemble.of(each, [0.5, 0.5], how), None) for each in (teachers, scaled)
        )
        assert torch.isclose(first, second, rtol=1e-4)
    p = sum(softmax(standardised_logits(t.logits) / 2, 1) for t in teachers) / 2
    expected = 4 * kl_div(log_softmax(standardised_logits(student.logits) / 2, 1), p, reduction="batchmean")
    whole = Ensemble.of(teachers, [0.5, 0.5], "mean-probability")
    assert torch.isclose(StandardisedKD()(student, whole, None), expected, rtol=1e-4)


# Decoupled KD

P_S, P_T = tensor([[0.5, 0.25, 0.25]]).double().log(), tensor([[0.25, 0.5, 0.25]]).double().log()


def test_dkd_closed_form():
    y = tensor([0])
    assert dkd_loss(P_S, P_T, y, 1.0, 8.0, 1.0).item() == pytest.approx(0.583876, abs=1e-6)
    assert dkd_loss(P_S, P_T, y, 1.0, 0.0, 1.0).item() == pytest.approx(0.130812, abs=1e-6)
    assert dkd_loss(P_S, P_T, y, 0.0, 1.0, 1.0).item() == pytest.approx(0.056633, abs=1e-6)
    assert kd_loss(P_S, P_T, 1.0).item() == pytest.approx(0.130812 + 0.75 * 0.056633, abs=1e-6)
    assert kd_loss(P_S, P_T, 1.0).item() == pytest.approx(0.173287, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dkd_of_extreme_logits(dtype):
    student, teacher = tensor([[200.0, 0.0, 0.0]], dtype=dtype), tensor([[0.0, 60.0, 0.0]], dtype=dtype)

    def loss(z):
        return dkd_loss(z, teacher, tensor([0]), temperature=1.0)

    expected = (200 - math.log(2)) + 8 * math.log(2)  # in float32 this is 204.852036
    assert loss(student).item() == pytest.approx(expected, abs=2e-5 if dtype == torch.float32 else 1e-9)
    assert torch.allclose(gradient(loss, student), tensor([[1.0, -4.5, 3.5]], dtype=dtype), atol=1e-6)


@seeds
@few
def test_kd_is_dkd_with_the_teachers_doubt_as_beta(seed):
    student, teacher, y = draw(seed, 5, 6), draw(seed + 1, 5, 6), torch.arange(5)
    target, others = decoupled(log_softmax(student, 1), log_softmax(teacher, 1), y)
    each = kl_div(log_softmax(student, 1), log_softmax(teacher, 1), reduction="none", log_target=True).sum(1)
    doubt = 1 - softmax(teacher, 1)[torch.arange(5), y]
    assert torch.allclose(each, target + doubt * others, atol=1e-12)


@seeds
@few
def test_dkd_equals_the_formula(seed):
    student, teacher, y = draw(seed, 5, 6), draw(seed + 1, 5, 6), tensor([5, 0, 3, 3, 1])
    total = 0.0
    for s, t, label in zip(softmax(student / 4, 1), softmax(teacher / 4, 1), y, strict=True):
        rest = [c for c in range(6) if c != label]
        b_s, b_t = tensor([s[label], 1 - s[label]]).double(), tensor([t[label], 1 - t[label]]).double()
        n_s, n_t = s[rest] / s[rest].sum(), t[rest] / t[rest].sum()
        total += (b_t * (b_t / b_s).log()).sum() + 8 * (n_t * (n_t / n_s).log()).sum()
    assert torch.isclose(dkd_loss(student, teacher, y), 16 * total / 5, rtol=1e-6)
    term = DecoupledKD()(Features(student.float()), Features(teacher.float()), Batch(None, y, None, None))
    assert torch.isclose(term.double(), dkd_loss(student, teacher, y), rtol=1e-4)
    assert dkd_loss(teacher, teacher, y).abs() < 1e-12


def test_dkd_of_two_classes_is_kd():
    student, teacher, y = draw(0, 4, 2), draw(1, 4, 2), tensor([0, 1, 1, 0])
    assert torch.isclose(dkd_loss(student, teacher, y), kd_loss(student, teacher))
    assert gradient(lambda z: dkd_loss(z, teacher, y, alpha=0.0), student).abs().max() < 1e-12


def test_dkd_warms_up_over_twenty_of_240_epochs():
    objective = Objective(resolve("dkd"), torch.nn.Identity(), [torch.nn.Identity()])
    weights = [objective.weights_at(epoch, 240) for epoch in (0, 9, 19, 239)]
    assert weights == [[1.0, pytest.approx(w)] for w in (0.05, 0.5, 1.0, 1.0)]


# DIST

Y_S, Y_T = tensor([[0.8, 0.2], [0.3, 0.7]]).double().log(), tensor([[0.4, 0.6], [0.1, 0.9]]).double().log()
both = pytest.mark.parametrize("variant", ["paper-text", "authors-code"])


@both
def test_dist_closed_form(variant):
    assert dist_loss(Y_S, Y_T, 1.0, variant=variant).item() == pytest.approx(1.0, abs=1e-6)
    assert dist_loss(4 * Y_S, 4 * Y_T, 4.0, variant=variant).item() == pytest.approx(16.0, abs=1e-5)
    assert dist_loss(Y_S, Y_T, 1.0, beta=0.0, variant=variant).item() == pytest.approx(0.0, abs=1e-6)


@both
@seeds
@few
def test_dist_equals_numpys_correlations(variant, seed):
    import numpy as np

    student, teacher = draw(seed, 6, 5), draw(seed + 1, 6, 5)
    a, b = softmax(student / 4, 1).numpy(), softmax(teacher / 4, 1).numpy()
    inter = 1 - np.mean([np.corrcoef(a[i], b[i])[0, 1] for i in range(6)])
    intra = 1 - np.mean([np.corrcoef(a[:, c], b[:, c])[0, 1] for c in range(5)])
    loss = dist_loss(student, teacher, beta=2.0, gamma=3.0, variant=variant).item()
    assert loss == pytest.approx(16 * (2 * inter + 3 * intra), rel=1e-5)
    assert dist_loss(teacher, teacher, variant=variant).abs() < 1e-4
    order = torch.randperm(6)
    assert dist_loss(student[order], teacher[order], 4.0, 2.0, 3.0, variant).item() == pytest.approx(loss, rel=1e-9)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_without_variance_have_no_correlation(variant, dtype):
    """One row for all images: each column is constant, each intra relation 1, its gradient 0."""
    row = log_softmax(draw(3, 7), 0).to(dtype)
    student, teacher = row.expand(3, 7).contiguous(), draw(4, 3, 7).to(dtype)
    assert dist_loss(student, teacher, beta=0.0, variant=variant).item() == pytest.approx(16.0, abs=1e-4)
    assert gradient(lambda z: dist_loss(z, teacher, variant=variant), torch.zeros(3, 7, dtype=dtype)).isfinite().all()


def test_classes_that_no_image_is_likely_to_have_count_in_the_paper_and_not_in_the_code():
    """Two classes of 1e-9 whose columns agree: rho = 1 by the paper, near 0 in the code."""
    rare = tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]).double() * 1e-9
    p = torch.cat([tensor([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]).double(), rare], 1)
    paper, code = (dist_loss(p.log(), p.log(), 1.0, beta=0.0, variant=v).item() for v in ("paper-text", "authors-code"))
    assert paper == pytest.approx(0.0, abs=1e-7)
    assert code == pytest.approx(0.5, abs=1e-6)


def test_dist_of_images_net_is_at_temperature_one():
    assert resolve("dist-imagenet")["dist"] == {
        "temperature": 1.0,
        "beta": 1.0,
        "gamma": 1.0,
        "variant": "authors-code",
        "weight": 2.0,
    }
    assert resolve("dist")["dist"]["temperature"] == 4.0


# Teachers that are none, and peers


def test_the_virtual_teacher_closed_forms():
    y = tensor([0])
    log_p = tensor([[0.99, 0.005, 0.005]]).double().log()
    assert virtual_teacher_loss(5.0 * log_p, y, 5.0, variant="paper-text").item() == pytest.approx(
        kl_div(log_p, softmax(log_p / 5, 1), reduction="batchmean").item(), abs=1e-7
    )
    assert virtual_teacher_loss(log_p, y, 20.0, variant="paper-text").abs() < 1e-12
    # At C = 2, a = 0.99 and tau = 1 the code's teacher is softmax(0.99, 0.01), whose logits differ by 0.98.
    p = 1 / (1 + math.exp(-0.98))
    expected = math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)
    assert virtual_teacher_loss(torch.zeros(1, 2).double(), y, 1.0).item() == pytest.approx(expected, abs=1e-7)


@seeds
@few
def test_the_virtual_teacher_equals_the_formula(seed):
    z, y = draw(seed, 4, 6), tensor([5, 0, 2, 2])
    p = torch.full((4, 6), 0.01 / 5).double()
    p[torch.arange(4), y] = 0.99
    target = softmax(p / 20, 1)
    expected = (target * (target.log() - log_softmax(z, 1))).sum() / 4
    assert torch.isclose(virtual_teacher_loss(z, y), expected, rtol=1e-6)
    assert virtual_teacher_loss(z, y) >= 0


def test_the_virtual_teacher_needs_no_teacher():
    objective = Objective(resolve("tf-kd-reg"), torch.nn.Identity(), [])
    assert not objective.needs_teacher
    z = draw(0, 4, 6).float()
    values = objective(Features(z), [], labels(0, 1, 2, 3))
    assert torch.allclose(values[1], virtual_teacher_loss(z, torch.arange(4)))


@pytest.mark.parametrize(
    ("method", "chain"),
    [("self-kd", "generations"), ("born-again", "generations"), ("tf-kd-self", "generations"), ("takd", "assistants")],
)
def test_a_chain_of_one_is_kd(method, chain):
    preset = METHODS[method]
    assert preset.chain == chain
    student, teacher = draw(0, 3, 5).float(), draw(1, 3, 5).float()
    terms = resolve(method)
    objective = Objective(terms, torch.nn.Identity(), [torch.nn.Identity()])
    loss = float(objective.weights @ objective(Features(student), [Features(teacher)], labels(0, 1, 2)))
    hard = terms.get("cross-entropy", {"weight": 0.0})["weight"]
    soft, temperature = terms["kd"]["weight"], terms["kd"]["temperature"]
    assert hard + soft == pytest.approx(1.0)
    expected = hard * cross_entropy(student, torch.arange(3)) + soft * kd_loss(student, teacher, temperature)
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_born_again_has_the_gradient_of_the_teachers_cross_entropy():
    student, teacher = draw(0, 3, 5), draw(1, 3, 5)
    grad = gradient(lambda z: kd_loss(z, teacher, 1.0), student)
    assert torch.allclose(grad, (softmax(student, 1) - softmax(teacher, 1)) / 3, atol=1e-12)


def test_mutual_learning_gives_each_network_its_own_gradient():
    """d/dz_k of CE_k + 1 / (K - 1) sum_l KL(p_l || p_k) is (p_k - y) + (p_k - mean_l p_l)."""
    z = [draw(k, 4, 5, scale=1.0).requires_grad_() for k in range(3)]
    y = tensor([0, 4, 2, 2])
    term, hard = MutualLearning(), CrossEntropy()
    student, *peers = (Features(each) for each in z)
    batch = Batch(None, y, None, None)
    (term(student, tuple(peers), batch) + hard(student, None, batch)).backward()
    p = [softmax(each.detach(), 1) for each in z]
    onehot = torch.nn.functional.one_hot(y, 5)
    for k in range(3):
        others = sum(p[j] for j in range(3) if j != k) / 2
        assert torch.allclose(z[k].grad, (p[k] - onehot + p[k] - others) / 4, atol=1e-6)


@seeds
@few
def test_mutual_loss_of_two_is_jeffreys_divergence(seed):
    a, b = draw(seed, 3, 4), draw(seed + 1, 3, 4)
    assert torch.isclose(mutual_loss([a, b]), kd_loss(a, b, 1.0) + kd_loss(b, a, 1.0))
    assert mutual_loss([a, a, a + 1]).abs() < 1e-12


def test_mutual_learning_through_the_objective():
    assert METHODS["dml"].peers == 1
    with pytest.raises(KDScopeError, match="'dml' needs a network that learns beside the student"):
        Objective(resolve("dml"), torch.nn.Identity(), [])
    objective = Objective(resolve("dml"), torch.nn.Identity(), [], peers=2)
    assert not objective.needs_teacher
    z = [draw(k, 2, 3).float() for k in range(3)]
    student, *peers = (Features(each) for each in z)
    values = objective(student, [], labels(0, 1), peers)
    expected = [cross_entropy(each, tensor([0, 1])) for each in z]
    assert torch.isclose(values.sum(), sum(expected) + mutual_loss(z), rtol=1e-5)


# Ensembles


def ensemble(how, teachers):
    return Ensemble.of(teachers, [1 / len(teachers)] * len(teachers), how)


@pytest.mark.parametrize("how", ["mean-probability", "mean-logit"])
@pytest.mark.parametrize("term", [KD(), StandardisedKD(), DecoupledKD(), DIST()], ids=lambda term: term.name)
def test_an_ensemble_of_one_is_that_teacher(term, how):
    student, teacher = Features(draw(0, 4, 5).float()), Features(draw(1, 4, 5).float())
    batch = labels(0, 1, 2, 3)
    alone = term(student, teacher, batch)
    assert torch.equal(term(student, ensemble(how, [teacher]), batch), alone)
    assert torch.isclose(term(student, ensemble(how, [teacher] * 3), batch), alone, rtol=1e-5)


def test_mean_probability_and_mean_loss_differ_by_a_constant_and_mean_logit_by_more():
    """In float64: the difference is T^2 times the Jensen-Shannon divergence of the teachers, and no gradient."""
    teachers = [draw(k, 4, 6) for k in range(1, 4)]
    p = [softmax(z / 4, 1) for z in teachers]
    mean = sum(p) / 3
    js = 16 * sum((each * (each / mean).log()).sum() for each in p) / 3 / 4
    losses = {
        "probability": lambda z: kd_loss(z, 4 * mean.log()),
        "loss": lambda z: sum(kd_loss(z, each) for each in teachers) / 3,
        "logit": lambda z: kd_loss(z, sum(teachers) / 3),
    }
    for seed in range(10, 13):
        z = draw(seed, 4, 6)
        grads = {name: gradient(loss, z) for name, loss in losses.items()}
        assert abs(losses["loss"](z) - losses["probability"](z) - js) <= 1e-7
        assert (grads["loss"] - grads["probability"]).abs().max() <= 1e-7
        assert (grads["logit"] - grads["probability"]).abs().max() > 1e-3
    # And what the ensemble of the library says is the first and the third of these.
    members = [Features(each) for each in teachers]
    for how, name in (("mean-probability", "probability"), ("mean-logit", "logit")):
        loss = KD()(Features(z), ensemble(how, members), None)
        assert float(loss) == pytest.approx(float(losses[name](z)), rel=1e-5)


# All of them


LOSSES = {
    "kd": lambda s, t, y: kd_loss(s, t, scale_gradient=False),
    "kd-z": lambda s, t, y: standardised_kd_loss(s, t),
    "dkd": lambda s, t, y: dkd_loss(s, t, y),
    "dist": lambda s, t, y: dist_loss(s, t),
    "dist code": lambda s, t, y: dist_loss(s, t, 1.0, variant="authors-code"),
    "tf-kd-reg": lambda s, t, y: virtual_teacher_loss(s, y),
    "tf-kd-reg paper": lambda s, t, y: virtual_teacher_loss(s, y, variant="paper-text"),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradcheck(loss):
    teacher, y = draw(1, 4, 5), tensor([0, 4, 2, 2])
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher, y), draw(0, 4, 5).requires_grad_())


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@seeds
@few
def test_a_constant_added_to_the_logits_of_an_image_changes_nothing(loss, seed):
    student, teacher, y = draw(seed, 4, 5), draw(seed + 1, 4, 5), tensor([0, 4, 2, 2])
    moved = loss(student + draw(seed + 2, 4, 1), teacher + 100.0, y)
    assert torch.isclose(moved, loss(student, teacher, y), rtol=1e-7)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (lambda: KD(True), "temperature must be a number above 0, not True"),
        (lambda: KD(4.0, "no"), "scale_gradient must be true or false, not 'no'"),
        (lambda: StandardisedKD(0), "'kd-z': temperature must be a number above 0, not 0"),
        (lambda: StandardisedKD(variant="paper"), "unknown variant 'paper' in term 'kd-z'; nearest: paper-text"),
        (lambda: DecoupledKD(alpha=-1), "'dkd': alpha must be a number of at least 0, not -1"),
        (lambda: DecoupledKD(beta="8"), "'dkd': beta must be a number of at least 0, not '8'"),
        (lambda: DIST(gamma=float("inf")), "'dist': gamma must be a number of at least 0, not inf"),
        (lambda: DIST(variant="code"), "unknown variant 'code' in term 'dist'; nearest: authors-code"),
        (lambda: VirtualTeacher(correct=1.0), r"correct must be a probability in \(0, 1\), not 1.0"),
        (lambda: VirtualTeacher(variant="paper-tex"), "nearest: paper-text"),
    ],
)
def test_bad_settings(term, message):
    with pytest.raises(KDScopeError, match=message):
        term()


def test_the_methods_of_this_file_tell_what_they_are():
    names = (
        "kd kd-mhgd none label-smoothing kd-z dkd dist dist-imagenet tf-kd-reg self-kd born-again tf-kd-self takd dml"
    )
    for name in names.split():
        preset = METHODS[name]
        assert preset.transfers
        assert preset.equation
        assert preset.departures or name == "none"
        assert all("\n" not in text for text in (preset.equation, preset.reference, preset.departures, preset.cost))
