"""Graph-based distillation: the attention network, the transfer, and the controls of its graph."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdscope import models
from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods import Objective, resolve
from kdscope.methods.mhgd import MultiHeadGraph, graph_divergence
from kdscope.methods.mhgd_graphs import GRAPHS, alike, cosines, deviation, entropy, noise_of_pairs, targets
from kdscope.methods.mhgd_heads import AttentionHeads, Estimator, drop_heads, estimation_loss, moments, scores
from kdscope.methods.singular import align, top_right_vectors
from kdscope.methods.term import TrainingData
from kdscope.training.learner import Learner

N = 6


def maps(seed=0, widths=(4, 6, 8), n=N):
    generator = torch.Generator().manual_seed(seed)
    return {f"s{k}": torch.rand(n, c, 4, 4, generator=generator) for k, c in enumerate(widths)}


def features(seed=0, **options):
    found = maps(seed, **options)
    return Features(torch.zeros(len(next(iter(found.values()))), 3), found)


def batch(n=N):
    return Batch(torch.zeros(n, 3, 4, 4), torch.arange(n) % 3, 10 * torch.arange(n), None)


def built(seed=1, **options):
    """A term on widths 4, 6, 8 whose batch norms have seen something."""
    torch.manual_seed(seed)
    term = MultiHeadGraph(**options)
    term.build(features(), features())
    for heads in term.heads:
        for norm in (heads.key_norm, heads.query_norm):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.02, 0.1)
    return term.eval()


# The graph and its divergence


def test_a_graph_has_rows_of_one_between_what_tanh_allows():
    S = 20 * torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(0))
    graph = S.tanh().softmax(dim=2)
    assert torch.allclose(graph.sum(dim=2), torch.ones(3, 128), atol=1e-6)
    assert graph.min() >= 0.0010645 - 1e-7
    assert graph.max() <= 0.0549826 + 1e-7
    low = torch.full((1, 1, 128), 50.0)
    low[..., 0] = -50
    assert float(low.tanh().softmax(dim=2)[0, 0, 0]) == pytest.approx(0.0010645, abs=5e-8)
    assert float((-low).tanh().softmax(dim=2)[0, 0, 0]) == pytest.approx(0.0549826, abs=5e-8)
    two = (50 * torch.tensor([[1.0, -1.0]])).tanh().softmax(dim=1)
    assert two[0].tolist() == pytest.approx((0.8808, 0.1192), abs=5e-5)


def test_divergence_of_two_saturated_images():
    teacher, student = 50 * torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]), torch.zeros(1, 2, 2)
    assert float(graph_divergence(student, teacher.tanh())) == pytest.approx(0.8675617, abs=1e-6)
    reverse = graph_divergence(student, teacher.tanh(), "teacher-student")
    assert float(reverse) == pytest.approx(0.6556266, abs=1e-6)
    assert float(graph_divergence(student, teacher)) == pytest.approx(98.6137, abs=5e-5)
    assert float(graph_divergence(student, teacher.tanh(), reduction="batchmean")) == pytest.approx(0.8675617 / 2)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(1e-3, 20), st.sampled_from(["student-teacher", "teacher-student"]))
def test_divergence_is_that_of_its_definition(seed, scale, direction):
    generator = torch.Generator().manual_seed(seed)
    S, T = scale * torch.randn(2, 2, 5, 5, generator=generator)
    ours, theirs = S.double().log_softmax(2), T.double().log_softmax(2)
    if direction == "teacher-student":
        ours, theirs = theirs, ours
    expected = float((ours.exp() * (ours - theirs)).sum())
    assert float(graph_divergence(S, T, direction)) == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert graph_divergence(S, T, direction) >= 0
    assert graph_divergence(S, S, direction) == 0
    assert not graph_divergence(1e4 * S, 1e4 * T, direction).isnan()


def test_divergence_of_nearly_equal_graphs_keeps_its_digits():
    generator = torch.Generator().manual_seed(0)
    T = torch.randn(8, 64, 64, generator=generator).tanh()
    S = T + 1e-3 * torch.randn(8, 64, 64, generator=generator)
    expected = float(graph_divergence(S.double(), T.double()))
    assert float(graph_divergence(S, T)) == pytest.approx(expected, rel=1e-4)
    ours, theirs = S.log_softmax(2), T.log_softmax(2)
    plain = float((ours.exp() * (ours - theirs)).sum())
    assert abs(plain - expected) > 10 * abs(float(graph_divergence(S, T)) - expected)


def test_gradient_of_the_divergence():
    generator = torch.Generator().manual_seed(0)
    S, T = torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=generator)
    for direction in ("student-teacher", "teacher-student"):
        assert torch.autograd.gradcheck(
            lambda s, d=direction: graph_divergence(s.tanh(), T.tanh(), d), S.requires_grad_()
        )


def test_the_transfer_of_equal_networks_is_nothing_and_permutes_with_the_batch():
    term, images = built(), features()
    assert float(term(images, images, batch()).detach()) == pytest.approx(0, abs=1e-9)
    other = features(3)
    value = float(term(images, other, batch()).detach())
    assert value > 1e-3
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    turned = [Features(f.logits, {k: m[order] for k, m in f.maps.items()}) for f in (images, other)]
    assert float(term(*turned, batch()).detach()) == pytest.approx(value, rel=1e-5)
    v = term.vectors(images.maps.values())
    S, P = term.heads[0](v[0], v[1]), term.heads[0](v[0][order], v[1][order])
    assert S.shape == (8, N, N)
    assert torch.allclose(P, S[:, order][:, :, order], atol=1e-5)


def test_scores_are_products_of_the_projections_without_division_by_a_root():
    torch.manual_seed(0)
    heads = AttentionHeads(4, 6, heads=3).eval()
    front, back = torch.randn(N, 4), torch.randn(N, 6)
    S = heads(front, back)
    assert heads.key.out_features == 3 * ((4 + 6) // 2)
    for a, i, j in ((0, 0, 1), (2, 3, 1), (1, 5, 5)):
        rows = slice(5 * a, 5 * a + 5)
        theta, phi = heads.key.weight[rows] @ back[i], heads.query.weight[rows] @ front[j]
        assert S[a, i, j].item() == pytest.approx((theta @ phi).item() / (1 + 1e-5), rel=1e-4)


def test_projections_begin_as_those_of_the_authors_code():
    torch.manual_seed(0)
    weight = AttentionHeads(64, 64, heads=8).key.weight
    deviation = math.sqrt(2.6 / 512)
    assert weight.abs().max() <= 2 * deviation
    assert weight.std().item() == pytest.approx(0.8796 * deviation, rel=0.02)  # of a normal cut off at two deviations


# Compression and alignment


def test_vectors_are_aligned_with_the_teachers():
    target = torch.tensor([[0.0, -1.0, 0.0]])
    assert torch.equal(align(torch.eye(3)[None], target) + 0.0, target)
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.rand(5, 6, 4, 4, generator=generator) for _ in range(2))
    v_t, V_s = top_right_vectors(teacher)[1][:, :, 0], top_right_vectors(student, 4)[1]
    v_s = align(V_s, v_t)
    assert (v_s * v_t).sum(1).min() >= 0
    turned = V_s[:, :, [2, 0, 3, 1]] * torch.tensor([1.0, -1.0, -1.0, 1.0])
    assert torch.equal(align(turned, v_t), v_s)


def test_vectors_of_non_negative_maps_are_non_negative_and_the_solver_may_choose_signs():
    term, images, other = built(), features(), features(3)
    for vector in term.vectors(images.maps.values()):
        assert vector.min() >= -1e-6
        assert torch.allclose(vector.norm(dim=1), torch.ones(N))
    free = [top_right_vectors(m, 1, sign_fix=False)[1][:, :, 0] for m in other.maps.values()]
    fixed = term.vectors(other.maps.values())
    assert all(torch.allclose(a.abs(), b.abs()) for a, b in zip(free, fixed, strict=True))
    ours = term.aligned(images.maps.values(), fixed)
    flipped = [align(-top_right_vectors(m, 4)[1], t) for m, t in zip(images.maps.values(), fixed, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(ours, flipped, strict=True))


def test_the_transfer_does_not_know_the_signs_that_the_solver_chose(monkeypatch):
    term, images, other = built(), features(), features(3)
    value = float(term(images, other, batch()).detach())
    solve, draw = torch.linalg.eigh, torch.Generator().manual_seed(8)

    def turned(matrix):
        values, basis = solve(matrix)
        return values, basis * (2.0 * torch.randint(0, 2, values.shape, generator=draw) - 1)[:, None]

    monkeypatch.setattr(torch.linalg, "eigh", turned)
    assert float(term(images, other, batch()).detach()) == pytest.approx(value, rel=1e-5)
    loose = built(sign_fix=False)  # as the authors' code: there it does
    assert float(loose(images, other, batch()).detach()) != pytest.approx(value, rel=1e-3)


def test_unequal_widths_are_adapted_in_the_transfer_and_not_in_the_first_phase():
    torch.manual_seed(0)
    term, narrow, wide = MultiHeadGraph(), features(widths=(4, 3, 5)), features(3)
    term.build(narrow, wide)
    sizes = [sum(p.numel() for p in adapter.parameters()) for adapter in term.adapters]
    assert sizes == [0, 3 * 6 + 2 * 6, 5 * 8 + 2 * 8]
    assert [v.shape for v in term.aligned(narrow.maps.values(), term.vectors(wide.maps.values()))] == [
        (N, 4), (N, 6), (N, 8),
    ]  # fmt: skip
    term(narrow, wide, batch()).backward()
    assert all(p.grad.abs().max() > 0 for adapter in term.adapters for p in adapter.parameters() if p.dim() > 1)
    assert {id(p) for p in term.trained(None)} == {id(p) for p in term.adapters.parameters()}
    assert {id(p) for p in term.adapters.parameters()}.isdisjoint(id(p) for p in term.trained(term.init))


def test_a_square_map_has_a_gradient():
    """64 channels on 8 x 8 places, where the authors' code has none."""
    x = torch.rand(2, 16, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(top_right_vectors(x)[1][:, 0].sum(), x)
    assert gradient.abs().max() > 1e-3


# The first phase


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 8), st.integers(0, 10**6))
def test_each_image_keeps_a_head(heads, seed):
    noise = torch.randn(heads, 50, 1, generator=torch.Generator().manual_seed(seed))
    kept = drop_heads(torch.ones(heads, 50, 50), noise)[:, :, 0]
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    assert kept.sum(dim=0).min() >= 1


def test_half_of_the_heads_are_kept_and_a_single_one_always():
    noise = torch.randn(8, 20_000, 1, generator=torch.Generator().manual_seed(0))
    assert float(drop_heads(torch.ones(8, 20_000, 1), noise).mean()) == pytest.approx(0.5, abs=0.005)
    one = torch.rand(1, 4, 4)
    assert drop_heads(one, torch.randn(1, 4, 1)) is one
    assert not (noise[:1] > noise[:1].mean(dim=0, keepdim=True)).any()  # by the rule itself none would be left


def test_the_loss_of_the_heads():
    v = torch.nn.functional.normalize(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), dim=1)
    assert float(estimation_loss(v, v)) == pytest.approx(0, abs=1e-6)
    assert float(estimation_loss(-v, v)) == pytest.approx(2, abs=1e-6)
    assert float(estimation_loss(torch.eye(7)[:5], torch.eye(7)[1:6])) == 1


def clusters(seed, n=64, classes=8):
    """Vectors of clusters in front, and behind a fixed function of the cluster."""
    generator = torch.Generator().manual_seed(9)
    front, back = torch.randn(classes, 12, generator=generator), torch.randn(classes, 12, generator=generator)
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (n,), generator=draw)
    noisy = front[label] + 0.3 * torch.randn(n, 12, generator=draw)
    return nn.functional.normalize(noisy, dim=1), nn.functional.normalize(back[label], dim=1)


def test_a_trained_graph_estimates_what_a_uniform_one_cannot():
    losses = {}
    for uniform in (False, True):
        torch.manual_seed(0)
        heads, estimate = AttentionHeads(12, 12, 4), Estimator(12, 12, 4)
        parameters = [*heads.parameters(), *estimate.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)
        for step in range(150):
            front, back = clusters(step)
            graph = heads(front, back).softmax(dim=2)
            if uniform:
                graph = torch.full_like(graph, 1 / len(front))
            loss = estimation_loss(estimate(front, drop_heads(graph, torch.randn(4, len(front), 1))), back)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[uniform] = loss.item()
    assert losses[False] < losses[True] / 3


def learner_for(pair=("resnet8", "resnet14"), **options):
    torch.manual_seed(0)
    student, teacher = (models.build(name, 4, image_size=16) for name in pair)
    terms = resolve("mhgd", {"mhgd": options})
    data = TrainingData(torch.arange(48) % 4, 4)
    learner = Learner(student, Objective(terms, student, [teacher], data=data), [teacher])
    learner.build(torch.zeros(2, 3, 16, 16))
    return learner


def step(learner, values=None):
    """One step on random images; returns the parameters' gradients of the transfer (or of the phase)."""
    generator = torch.Generator().manual_seed(1)
    image, label = torch.rand(8, 3, 16, 16, generator=generator), torch.arange(8) % 4
    learner.train()
    with learner.capturing():
        values, _ = learner(image, label, torch.arange(8))
    learner.zero_grad(set_to_none=True)
    values[-1].backward(retain_graph=True)
    gradients = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    (values.sum() if learner.phase is None else values[-1] * 0).backward()
    learning = [p for p in learner.parameters() if p.requires_grad and p.grad is not None]
    torch.optim.SGD(learning, lr=0.05).step()
    return gradients


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_arm_trains_the_student_and_nothing_else(graph):
    learner = learner_for(graph=graph)
    (teacher,) = learner.teachers
    whole = {"student": learner.student, "teacher": teacher}
    if graph == "untrained":
        assert learner.objective.phases == []
        term = learner.objective.terms["mhgd"][0]
        widths = (16, 32, 64)
        eye = {f"mean-{k}": torch.zeros(c) for k, c in enumerate(widths)}
        term.use(eye | {f"cov-{k}": torch.eye(c) / c for k, c in enumerate(widths)})
    for phase in learner.objective.phases:
        learner.enter(phase)
        before = {name: copy.deepcopy(module.state_dict()) for name, module in whole.items()}
        heads = copy.deepcopy(learner.objective.state_dict())
        gradients = step(learner)
        assert all(
            name.startswith(("objective.terms.mhgd.0.heads", "objective.terms.mhgd.0.est")) for name in gradients
        )
        for name, module in whole.items():
            assert all(torch.equal(before[name][key], value) for key, value in module.state_dict().items())
        moved = [key for key, value in learner.objective.state_dict().items() if not torch.equal(heads[key], value)]
        assert any("running_mean" in key for key in moved)
        assert any("key.weight" in key for key in moved)
    learner.enter(None)
    before = {
        "teacher": copy.deepcopy(teacher.state_dict()),
        "objective": copy.deepcopy(learner.objective.state_dict()),
    }
    student = copy.deepcopy(learner.student.state_dict())
    gradients = step(learner)
    for name, module in (("teacher", teacher), ("objective", learner.objective)):
        assert all(torch.equal(before[name][key], value) for key, value in module.state_dict().items())
    assert not torch.equal(student["conv1.weight"], learner.student.conv1.weight)
    convolutions = [f"student.{n}.weight" for n, m in learner.student.named_modules() if isinstance(m, nn.Conv2d)]
    reached = {name for name, gradient in gradients.items() if gradient.abs().max() > 0}
    assert set(convolutions) <= reached
    assert not [name for name in reached if name.startswith(("student.fc", "objective"))]


# The controls


@pytest.fixture
def seen():
    generator = torch.Generator().manual_seed(4)
    S, T = (scale * torch.randn(3, N, N, generator=generator) for scale in (0.4, 0.7))
    vectors = torch.rand(N, 5, generator=generator), torch.rand(N, 5, generator=generator)
    return S, T * torch.tensor([0.5, 1.0, 2.0])[:, None, None], vectors


def ask(graph, seen, **options):
    S, T, vectors = seen
    torch.manual_seed(0)
    return targets(graph, S, T, vectors, torch.arange(N) % 3, 10 * torch.arange(N), **options)


@pytest.mark.parametrize("graph", [graph for graph in GRAPHS if graph != "cosine"])
def test_the_students_graph_is_the_same_in_every_arm(graph, seen):
    assert torch.equal(ask(graph, seen)[0], seen[0].tanh())


def test_the_trained_and_the_untrained_graph_are_the_heads_own(seen):
    for graph in ("trained", "untrained"):
        assert torch.equal(ask(graph, seen)[1], seen[1].tanh())
    assert torch.equal(ask("trained", seen, bound=lambda s: s)[1], seen[1])


def test_a_constant_target_is_uniform(seen):
    assert torch.allclose(ask("constant", seen)[1].softmax(2), torch.full((3, N, N), 1 / N))


def test_a_shuffled_target_keeps_its_numbers_but_not_their_places(seen):
    theirs, true = ask("shuffled", seen)[1], seen[1].tanh()
    assert not torch.allclose(theirs, true)
    assert torch.equal(theirs.flatten(1).sort().values, true.flatten(1).sort().values)
    diagonals = (torch.diagonal(each, dim1=1, dim2=2).sort().values for each in (theirs, true))
    assert torch.equal(*diagonals)  # rows and columns go together


def test_a_random_target_is_as_spread_as_the_trained_one():
    generator = torch.Generator().manual_seed(0)
    T = torch.randn(2, 200, 200, generator=generator) * torch.tensor([0.2, 3.0])[:, None, None]
    index, label = torch.arange(200), torch.zeros(200, dtype=torch.int64)
    for graph in ("random", "random-fixed"):
        found = targets(graph, T, T, (T[0], T[0]), label, index, bound=lambda s: s)[1]
        assert torch.allclose(deviation(found), deviation(T), rtol=0.02)
        for a in range(2):
            assert abs(torch.corrcoef(torch.stack([found[a].flatten(), T[a].flatten()]))[0, 1]) < 0.02
            assert abs(found[a].mean()) < 0.02 * T[a].std()


def test_fixed_noise_belongs_to_pairs_of_images():
    index = torch.tensor([5, 900, 31])
    whole = noise_of_pairs(index, heads=3)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(noise_of_pairs(index[order], 3), whole[:, order][:, :, order])
    assert not torch.equal(noise_of_pairs(index, 3, pair=1), whole)
    assert len(whole.unique()) == 27
    many = noise_of_pairs(torch.arange(300), 2).flatten()
    assert float(many.mean()) == pytest.approx(0, abs=0.01)
    assert float(many.std()) == pytest.approx(1, abs=0.01)
    assert float((many.abs() < 1.96).double().mean()) == pytest.approx(0.95, abs=0.003)


def test_labels_and_identity_are_as_sharp_as_the_trained_graph(seen):
    true = entropy(seen[1].tanh())
    for graph in ("identity", "label"):
        theirs = ask(graph, seen)[1]
        assert torch.allclose(entropy(theirs), true, atol=1e-4)
        same = torch.eye(N).bool() if graph == "identity" else (torch.arange(N) % 3)[:, None] == torch.arange(N) % 3
        for head in theirs:
            assert len(head[same].unique()) == 1
            assert (head[~same] == 0).all()
    S, T, vectors = seen
    even = ask("identity", (S, 1e-4 * T, vectors))[1]  # entropy is ln N less 1e-9: sharpness is still that of the graph
    assert torch.allclose(even.amax((1, 2)) ** 2 * (N - 1) / N, (1e-4 * T).var(2, correction=0).mean(1) * N, rtol=1e-2)
    # A class of six images cannot be sharper than ln 6.
    assert entropy(alike(torch.ones(N, N).bool(), torch.tensor([0.1]))).item() == pytest.approx(math.log(N))


def test_the_cosine_graph_is_of_both_networks_vectors_and_as_spread(seen):
    ours, theirs = ask("cosine", seen, bound=lambda s: s)
    T, (v_s, v_t) = seen[1:]
    assert torch.allclose(deviation(theirs), deviation(T), rtol=1e-4)
    scale = deviation(T) / deviation(cosines(v_t))
    assert torch.allclose(ours, scale * cosines(v_s), rtol=1e-4)
    naive = nn.functional.cosine_similarity(v_t[1], v_t[4], dim=0)
    assert torch.allclose(theirs[:, 1, 4], scale[:, 0, 0] * naive, rtol=1e-4)


def test_statistics_of_untrained_heads_are_those_of_the_data():
    torch.manual_seed(0)
    heads = AttentionHeads(5, 7, heads=2)
    front, back = torch.rand(300, 5) ** 2, torch.rand(300, 7)
    heads.calibrate(moments(front), moments(back))
    projected = heads.key(back)
    assert torch.allclose(heads.key_norm.running_mean, projected.mean(0), atol=1e-5)
    assert torch.allclose(heads.key_norm.running_var, projected.var(0, correction=0), atol=1e-5)
    heads.train()  # what batch norm would have made of all of them at once
    expected = heads.queries(front)
    heads.calibrate(moments(front), moments(back))
    assert torch.allclose(heads.eval().queries(front), expected, atol=1e-4)


def test_the_key_is_the_image_behind_and_the_query_the_one_in_front():
    keys, queries = torch.zeros(2, 1, 1), torch.zeros(2, 1, 1)
    keys[0], queries[1] = 2.0, 3.0
    assert scores(keys, queries)[0].tolist() == [[0.0, 6.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graph": "shufled"}, "unknown graph 'shufled' in term 'mhgd'; nearest: shuffled"),
        ({"heads": 0}, "heads must be a number above 0, not 0"),
        ({"heads": 2.5}, "heads is a whole number, not 2.5"),
        ({"student_topk": True}, "student_topk must be a number above 0"),
        ({"tanh": "no"}, "tanh must be true or false, not 'no'"),
        ({"kl_direction": "teacher"}, "unknown kl_direction 'teacher'"),
        ({"kl_reduction": "mean"}, "unknown kl_reduction 'mean' in term 'mhgd'; nearest: batchmean"),
        ({"init_share": -1}, "init_share is a share of the run's epochs"),
        ({"init_weight_decay": -1}, "init_weight_decay must be a number of at least 0"),
        ({"init_lr": 0}, "init_lr must be a number above 0"),
    ],
)
def test_refused(options, message):
    with pytest.raises(KDScopeError, match=message):
        MultiHeadGraph(**options)


def test_one_layer_has_no_relation():
    one = features(widths=(4,))
    with pytest.raises(KDScopeError, match="relates consecutive layers: it needs two or more, not 1"):
        MultiHeadGraph().build(one, one)
