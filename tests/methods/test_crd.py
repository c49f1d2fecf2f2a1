"""Contrastive representation distillation: its loss, what is drawn, the memories, the queue, ranks, resuming."""

import math
import multiprocessing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods import resolve
from kdscope.methods.crd import CRD, contrast_loss, renewed, scores_against
from kdscope.methods.negatives import Negatives, _is_prime, _primes
from kdscope.methods.term import TrainingData

IMAGES, CLASSES, BATCH = 60, 5, 8
LABELS = torch.arange(IMAGES) % CLASSES


def views(seed=0, count=BATCH):
    generator = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(count, width, generator=generator) for width in (6, 9))
    s.requires_grad_()
    return Features(torch.zeros(count, CLASSES), {"f": s}), Features(torch.zeros(count, CLASSES), {"f": t})


def batch(seed=0, count=BATCH):
    index = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(100 + seed))[:count]
    return Batch(None, LABELS[index], index, None)


def made(labels=LABELS, **options):
    torch.manual_seed(0)
    term = CRD(**({"negatives": 20, "embed": 4} | options))
    term.know(TrainingData(labels, CLASSES))
    term.build(*views())
    return term


def embedded(term, student, teacher):
    return (normalize(layer(v["f"]), dim=1) for layer, v in ((term.student, student), (term.teacher, teacher)))


# The loss


def test_contrast_loss_closed_form():
    assert contrast_loss(torch.full((3, 5), 0.4), images=10).item() == pytest.approx(5 * math.log(2), abs=1e-6)
    assert contrast_loss(torch.full((3, 5), 0.4), images=10).item() == pytest.approx(3.465736, abs=1e-6)


def test_contrast_loss_of_the_scores_that_are_there():
    scores = torch.rand(2, 6, dtype=torch.float64) + 0.1
    valid = tensor([[True, True, False, True, False, True], [True, False, True, True, True, False]])
    each = [contrast_loss(row[keep][None], 10) for row, keep in zip(scores, valid, strict=True)]
    assert torch.isclose(contrast_loss(scores, 10, valid), sum(each) / 2)
    nobody = tensor([[True, False, False]])
    lonely = torch.rand(1, 3).requires_grad_()
    contrast_loss(lonely, 10, nobody).backward()
    assert lonely.grad.isfinite().all()


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_formula_one_score_at_a_time(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(3, 7, generator=generator, dtype=torch.float64)
    noise, total = 6 / 40, 0.0
    for x, *others in scores.tolist():
        total -= math.log(x / (x + noise + 1e-7)) + sum(math.log(noise / (other + noise + 1e-7)) for other in others)
    assert contrast_loss(scores, 40).item() == pytest.approx(total / 3, rel=1e-12)
    assert total > 0


def test_gradcheck():
    scores = (torch.rand(4, 5, dtype=torch.float64) + 0.05).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contrast_loss(x, 30), scores)


def test_scores_are_those_of_gathered_rows():
    torch.manual_seed(0)
    e, memory = normalize(torch.randn(8, 16), dim=1), normalize(torch.randn(50, 16), dim=1)
    index = torch.randint(0, 50, (8, 11))
    leaves = [e.clone().requires_grad_() for _ in range(2)]
    fast = scores_against(leaves[0], memory, index, 0.07)
    naive = ((memory[index] @ leaves[1][:, :, None])[:, :, 0] / 0.07).exp()
    torch.testing.assert_close(fast, naive, rtol=1e-5, atol=0)
    fast.log().sum().backward()
    naive.log().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-5, atol=1e-5)


# Negatives


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(1, 300), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_negatives_are_of_other_classes_and_differ(sizes, count, key):
    labels = torch.arange(len(sizes)).repeat_interleave(tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(key))]
    draw = Negatives(labels, count)
    assert draw.count == min(count, len(labels) - max(sizes))
    label = torch.arange(len(sizes))
    drawn = draw(label, key + label)
    assert drawn.shape == (len(sizes), draw.count)
    assert (labels[drawn] != label[:, None]).all()
    assert all(len(row.unique()) == draw.count for row in drawn)
    assert (labels[draw.same_class(label, key + label)] == label).all()
    assert torch.equal(draw(label.flip(0), (key + label).flip(0)).flip(0), drawn)  # of an image and a key alone


def test_images_and_pairs_of_images_are_equally_likely():
    """As in a simple random sample: K / M for an image, K (K - 1) / M (M - 1) for two of them."""
    labels = torch.arange(5).repeat_interleave(12)  # 48 of other classes: no prime
    draw, times = Negatives(labels, 12), 40_000
    drawn = draw(torch.zeros(times).long(), torch.arange(times))
    there = torch.zeros(times, 60).scatter_(1, drawn, 1.0)[:, 12:]
    pairs = (there.T @ there) / times
    assert (pairs.diagonal() - 12 / 48).abs().max() < 5 * (0.25 * 0.75 / times) ** 0.5
    off = pairs[~torch.eye(48, dtype=torch.bool)]
    assert abs(off.mean() - 12 * 11 / (48 * 47)) < 1e-3
    assert (off - off.mean()).abs().max() < 0.02


def test_primes():
    assert [n for n in range(2000) if _is_prime(n)] == [n for n in range(2, 2000) if all(n % d for d in range(2, n))]
    assert not _is_prime(2_147_483_649)  # 3 x 715,827,883
    assert _is_prime(2_147_483_647)  # 2^31 - 1
    found = _primes(1024)
    assert min(found) > 2**30
    assert len(set(found)) == 1024


def test_all_of_one_class_is_refused():
    with pytest.raises(KDScopeError, match="all 9 images are of one class"):
        Negatives(torch.zeros(9).long(), 4)


# The memories


def test_a_row_of_memory():
    row = renewed(tensor([[1.0, 0.0]]), tensor([[0.0, 1.0]]), 0.5)
    torch.testing.assert_close(row, tensor([[0.7071, 0.7071]]), atol=1e-4, rtol=0)
    assert torch.allclose(renewed(torch.randn(5, 3), torch.randn(5, 3), 0.3).norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("positives", ["exact", "relax"])
def test_a_step_is_the_formula_and_writes_its_images_alone(positives):
    term, (student, teacher), now = made(positives=positives), views(), batch()
    before = {name: value.clone() for name, value in term.named_buffers()}
    e_s, e_t = embedded(term, student, teacher)
    key = before["clock"] * IMAGES + now.index
    own = now.index if positives == "exact" else term.draw.same_class(now.label, key)
    index = torch.cat([own[:, None], term.draw(now.label, key)], dim=1)
    expected = 0.0
    for e, memory in ((e_s, before["teacher_memory"]), (e_t, before["student_memory"])):
        scores = ((memory[index].double() @ e.double()[:, :, None])[:, :, 0] / 0.07).exp()
        z = scores.mean() * IMAGES
        expected = expected + contrast_loss(scores / z, IMAGES)
    loss = term(student, teacher, now)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert student["f"].grad.abs().max() > 0
    assert term.student.weight.grad.abs().max() > 0
    assert term.teacher.weight.grad.abs().max() > 0

    others = torch.ones(IMAGES, dtype=torch.bool)
    others[now.index] = False
    for name, e in (("student_memory", e_s), ("teacher_memory", e_t)):
        memory = getattr(term, name)
        assert torch.equal(memory[others], before[name][others])
        expected = normalize(0.5 * before[name][now.index] + 0.5 * e.detach(), dim=1)
        torch.testing.assert_close(memory[now.index], expected)
        assert torch.allclose(memory[now.index].norm(dim=1), torch.ones(BATCH))


def test_the_gradient_is_that_of_the_memories_before_the_step():
    term, (student, teacher) = made(), views()
    start = {name: value.clone() for name, value in term.state_dict().items()}
    term(student, teacher, batch()).backward()
    wrote = student["f"].grad.clone()
    term.load_state_dict(start)
    term.eval()  # does not write
    student["f"].grad = None
    term(student, teacher, batch()).backward()
    assert torch.equal(student["f"].grad, wrote)
    assert all(torch.equal(value, start[name]) for name, value in term.state_dict().items())


@pytest.mark.parametrize("queue", [0, 16])
def test_the_constant_is_set_by_the_first_batch_and_then_kept(queue):
    term = made(queue=queue)
    assert (term.student_z.item(), term.teacher_z.item()) == (0.0, 0.0)
    term(*views(0), batch(0))
    first = term.student_z.clone(), term.teacher_z.clone()
    assert min(first) > 0
    term(*views(1), batch(1))
    assert (term.student_z, term.teacher_z) == first


@pytest.mark.parametrize("queue", [0, 16])
def test_the_order_of_a_batch_does_not_matter(queue):
    terms, order = [made(queue=queue).eval() for _ in range(2)], torch.randperm(BATCH)
    student, teacher = views()
    now = batch()
    loss = terms[0](student, teacher, now)
    turned = [Features(v.logits, {"f": v["f"][order]}) for v in (student, teacher)]
    other = terms[1](*turned, Batch(None, now.label[order], now.index[order], None))
    assert torch.isclose(loss, other, rtol=1e-6)


@pytest.mark.parametrize("queue", [0, 20])
def test_a_resumed_term_goes_on_bit_for_bit(queue):
    whole, losses = made(queue=queue), []
    for step in range(6):
        if step == 3:
            saved = {name: value.clone() for name, value in whole.state_dict().items()}
        losses.append(whole(*views(step), batch(step)))
    resumed = made(queue=queue)
    resumed.load_state_dict(saved)
    torch.manual_seed(77)  # nothing is drawn from the generator
    assert [resumed(*views(step), batch(step)) for step in range(3, 6)] == losses[3:]
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_negatives_are_fresh_in_every_step():
    term = made(momentum=0.0).eval()
    losses = []
    for _ in range(3):
        losses.append(term(*views(), batch()).item())
        term.clock += 1
    assert len(set(losses)) == 3


# The queue


def test_the_queue_holds_the_last_embeddings_and_their_labels():
    term = made(queue=20)
    seen_s, seen_t, labels = [], [], []
    for step in range(4):
        student, teacher = views(step)
        e_s, e_t = embedded(term, student, teacher)
        seen_s, seen_t, labels = [*seen_s, e_s.detach()], [*seen_t, e_t.detach()], [*labels, batch(step).label]
        term(student, teacher, batch(step))
    assert term.queue_place.item() == 32 % 20
    order = (torch.arange(20) + 12) % 20  # oldest first
    assert torch.equal(term.queue_labels[order], torch.cat(labels)[-20:])
    torch.testing.assert_close(term.student_memory[order], torch.cat(seen_s)[-20:])
    torch.testing.assert_close(term.teacher_memory[order], torch.cat(seen_t)[-20:])


def test_a_step_with_a_queue_is_the_formula():
    term = made(queue=20)
    for step in range(3):
        term(*views(step), batch(step))
    (student, teacher), now = views(9), Batch(None, batch(9).label, None, None)  # without indices
    e_s, e_t = embedded(term, student, teacher)
    expected = 0.0
    memories = (term.teacher_memory.clone(), term.student_memory.clone())
    for e, own, memory, z in zip((e_s, e_t), (e_t, e_s), memories, (term.student_z, term.teacher_z), strict=True):
        for row in range(BATCH):
            others = memory[term.queue_labels != now.label[row]]
            scores = torch.cat([own[row][None], others]) @ e[row]
            expected = expected + contrast_loss((scores / 0.07).exp()[None] / z, IMAGES) / BATCH
    assert term(student, teacher, now).item() == pytest.approx(expected.item(), rel=1e-5)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation gives."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            if isinstance(each, torch.Tensor):
                self.size = max(self.size, each.nbytes)
        return found


def memory(images, queue):
    """Bytes of a term's buffers, and of the largest tensor made in a step."""
    term = made(torch.arange(images) % CLASSES, queue=queue, embed=128)
    with Largest() as largest:
        term(*views(), batch()).backward()
    return sum(buffer.nbytes for buffer in term.buffers()), largest.size


def test_memory_grows_with_the_images_or_with_the_queue():
    """A queue takes as much for any number of images. Memories of a million take 1.03 GB, products with them 4 B N."""
    assert memory(500, queue=256) == memory(50_000, queue=256)
    (small, step), (large, big_step) = memory(1000, 0), memory(5000, 0)
    each = (large - small) / 4000
    assert each == 2 * 128 * 4 + 8  # two rows, and a place in the order by class
    assert big_step == 5 * step == 5000 * 128 * 4  # a copy of a memory; the products of 8 images are less
    assert 1_000_000 * each == pytest.approx(1.03e9, rel=0.01)


# Ranks


def _rank(rank, path, queue, out):
    torch.set_num_threads(1)  # a forked process has none of its parent's OpenMP threads, and would wait for them
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    term, half = made(queue=queue), slice(4 * rank, 4 * rank + 4)
    losses = []
    for step in range(3):
        now = batch(step)
        parts = [Features(v.logits[half], {"f": v["f"][half]}) for v in views(step)]
        losses.append(term(*parts, Batch(None, now.label[half], now.index[half], None)).item())
    out.put((rank, losses, {name: value.tolist() for name, value in term.state_dict().items()}))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("queue", [0, 20])
def test_two_ranks_have_the_memories_of_one(tmp_path, queue):
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    ranks = [context.Process(target=_rank, args=(r, tmp_path / "store", queue, out), daemon=True) for r in range(2)]
    for process in ranks:
        process.start()
    found = sorted(out.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join()
    alone = made(queue=queue)
    losses = [alone(*views(step), batch(step)).item() for step in range(3)]
    for _, _, state in found:
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(tensor(state[name], dtype=value.dtype), value, rtol=1e-5, atol=1e-6)
    assert [sum(each) / 2 for each in zip(*(part for _, part, _ in found), strict=True)] == pytest.approx(
        losses, rel=1e-5
    )


# Settings


def test_presets():
    assert {name: s["weight"] for name, s in resolve("crd").items()} == {"cross-entropy": 1.0, "crd": 0.8}
    both = resolve("kd+crd")
    assert {name: s["weight"] for name, s in both.items()} == {"cross-entropy": 0.1, "kd": 0.9, "crd": 0.8}
    assert both["crd"]["negatives"] == 16384
    assert both["crd"]["temperature"] == 0.07


def test_without_indices_or_knowledge_of_the_data():
    with pytest.raises(KDScopeError, match=r"needs Batch\.index, .* or a queue"):
        made()(*views(), batch()._replace(index=None))
    with pytest.raises(KDScopeError, match="must know the training part"):
        CRD().build(*views())


def test_one_layer_alone():
    term = CRD()
    term.know(TrainingData(LABELS, CLASSES))
    two = Features(torch.zeros(2, 5), {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)})
    with pytest.raises(KDScopeError, match="compares one layer, and `layers` gives a, b"):
        term.build(two, two)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"momentum": 1.0}, r"momentum must be a number in \[0, 1\), not 1.0"),
        ({"negatives": 0}, "negatives must be a whole number of at least 1, not 0"),
        ({"embed": 2.5}, "embed must be a whole number"),
        ({"queue": -1}, "queue must be a whole number of at least 0"),
        ({"positives": "relaxed"}, "unknown positives 'relaxed' in term 'crd'; nearest: relax"),
    ],
)
def test_refused(options, message):
    with pytest.raises(KDScopeError, match=message):
        CRD(**options)
