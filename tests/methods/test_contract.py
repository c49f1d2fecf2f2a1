"""What every term of every method must do; a new method is picked up without a line here."""

import copy
from functools import partial

import pytest
import torch

from kdscope import models
from kdscope.config import OptimSettings
from kdscope.data import Batch, Dataset, Split
from kdscope.data.split import moments
from kdscope.features.features import Features
from kdscope.methods import METHODS, Objective, resolve
from kdscope.methods.cakd import MASKS
from kdscope.methods.method import FAMILIES, known_terms
from kdscope.methods.mhgd_graphs import GRAPHS
from kdscope.methods.objective import changed
from kdscope.methods.term import Term, TrainingData
from kdscope.training.learner import Learner
from kdscope.training.optim import make_optimizer
from kdscope.training.preparation import TrainingImages, teaching

PAIRS = {
    "same family": ("resnet8", "resnet14"),
    "resnet8x4": ("resnet8x4", "resnet14"),
    "cross": ("vgg8", "resnet8x4"),
    "wider student": ("resnet8x4", "wrn-10-1"),
    "deeper teacher": ("resnet8", "resnet18"),
    "transformer teacher": ("shufflenetv2", "vit_tiny"),
    "transformer student": ("vit_tiny", "mobilenetv2_half"),
}
TERMS = sorted(known_terms())
IMAGES = 48  # of the training part that the batches are from
# Control arms that are settings (docs/controls.md). Those that draw anew in each step know the order of the images.
DRAWING = {
    "mhgd": [{"graph": "random"}, {"graph": "shuffled"}],
    "letkd": [{"noise": "shuffled"}, {"labels": "permuted-assignment"}],
}
ARMS = {
    "mhgd": [
        *({"graph": graph} for graph in GRAPHS if graph not in ("trained", "random", "shuffled")),
        *({"heads": 1}, {"tanh": False}, {"kl_direction": "teacher-student"}, {"kl_reduction": "batchmean"}),
        *({"sign_fix": False}, {"drop_head": False}, {"student_topk": 1}),
    ],
    "letkd": [
        *({"weight_penultimate": 0.0}, {"alpha_penultimate": 0.0, "alpha_intermediate": 0.0}, {"penultimate": None}),
        *({"codebook": "patches"}, {"codebook": "gaussian"}, {"clustering": "minibatch"}, {"variant": "paper_text"}),
        *({"noise": "smoothed"}, {"scores": "hard"}, {"scores": "class"}, {"labels": "permuted-analysis"}),
        *({"permute": 1}, {"subclasses": 1}, {"sharpness": 0.0}),
    ],
    "cakd": [
        *({"mask": mask} for mask in MASKS if mask != "ig"),
        *({"align_mask": "none"}, {"align_mask": "own"}, {"attention_weight": 0}, {"alignment_weight": 0}),
        *({"shape": "topq"}, {"sign": "absolute"}, {"sign": "signed"}, {"about": "predicted"}),
        *({"target": "centred-logit"}, {"same_class": False}, {"center": False}),
    ],
}
BESIDE = {"letkd": {"intermediate": "entries:-1", "codes": 16, "subclasses": 2}}  # both layers, and small


def arms(*tables):
    found = [(name, settings) for table in tables for name in table for settings in table[name]]
    ids = [" ".join([name, *(f"{key}={value}" for key, value in settings.items())]) for name, settings in found]
    return pytest.mark.parametrize(("name", "settings"), found, ids=ids)


def objective_for(terms, student, teachers, peers=0, **options):
    data = TrainingData(torch.arange(IMAGES) % 10, 10)
    return Objective(terms, student, teachers, peers=peers, data=data, **options)


def learner_for(terms, pair, teachers=1):
    torch.manual_seed(0)
    student, *rest = [models.build(name, 10, image_size=16) for name in (pair[0], *[pair[1]] * teachers)]
    student = changed(student, terms)
    for teacher in rest:
        for parameter in teacher.parameters():  # a fresh network's batch norms hide faults: shift them
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    peers = [models.build(pair[1], 10, image_size=16)] if any(known_terms()[t].reads == "peers" for t in terms) else []
    learner = Learner(student, objective_for(terms, student, rest, len(peers)), rest, peers)
    learner.build(torch.zeros(2, 3, 16, 16))
    prepare(learner)
    return learner, rest


def prepare(learner):
    """Let the terms compute what they compute once, from random images, as the engine does."""
    pixels = torch.randint(0, 256, (IMAGES, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    train = Split("train", pixels, torch.arange(IMAGES) % 10)
    images = TrainingImages(
        Dataset("random", train, train, None, tuple("abcdefghij"), *moments(train.images)), torch.device("cpu")
    )
    for name, terms in learner.objective.terms.items():
        for k, term in enumerate(terms):
            if term.preparation() is not None:
                torch.manual_seed(0)
                term.use(term.prepare(images, teaching(learner, name, k)))


def only(name, **settings):
    """The settings of one term; beside a term that only initialises the student, the cross-entropy is trained."""
    terms = {name: known_terms()[name].settings() | {"weight": 1.0} | settings}
    if not known_terms()[name](**{k: v for k, v in terms[name].items() if k not in ("weight", "warmup")}).in_main:
        terms["cross-entropy"] = known_terms()["cross-entropy"].settings() | {"weight": 1.0}
    return terms


def stages(learner):
    """Every phase, and the main training (None)."""
    return [*learner.objective.phases, None]


def batch(size=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, 16, 16, generator=generator), torch.randint(0, 10, (size,), generator=generator)


def run(learner, image, label, index=None):
    index = torch.arange(len(label)) if index is None else index
    torch.manual_seed(5)  # of what a term draws
    with learner.capturing():
        return learner(image, label, index)


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("name", TERMS)
def test_gradient_reaches_the_first_layer_and_the_teacher_is_untouched(name, pair):
    check_gradient(*learner_for(only(name), pair))


@arms(ARMS, DRAWING)
def test_every_control_arm_does_too(name, settings):
    check_gradient(*learner_for(only(name, **BESIDE.get(name, {}) | settings), PAIRS["same family"]))


@arms(ARMS)
def test_order_of_images_does_not_matter_to_control_arms(name, settings):
    check_order(learner_for(only(name, **BESIDE.get(name, {}) | settings), PAIRS["same family"])[0])


def check_gradient(learner, teachers):
    (teacher,) = teachers
    before = state(teacher)
    for stage in stages(learner):
        learner.enter(stage)
        first = next(learner.student.parameters())
        student_learns = stage is None or stage[1].learns == "student"
        optimizer = make_optimizer(learner.parameters(), OptimSettings(lr=0.01))
        for _ in range(2):
            learner.train()
            values, _ = run(learner, *batch())
            assert values.shape == (1,)
            assert values.dtype == torch.float32
            assert values.isfinite().all()
            optimizer.zero_grad()
            values.sum().backward()
            if student_learns:
                assert first.grad is not None
                assert first.grad.abs().max() > 0
            else:
                assert all(p.grad is None for p in learner.student.parameters())
                learning = learner.objective.learning(stage)
                assert learning
                assert any(p.grad is not None and p.grad.abs().max() > 0 for p in learning)
            optimizer.step()
        optimizer.zero_grad()
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize("name", TERMS)
def test_what_does_not_learn_in_a_stage_does_not_move(name):
    learner, _ = learner_for(only(name), PAIRS["cross"])
    for stage in stages(learner):
        learner.enter(stage)
        frozen = {key: p.clone() for key, p in learner.named_parameters() if not p.requires_grad}
        optimizer = make_optimizer(learner.parameters(), OptimSettings(lr=0.01))
        learner.train()
        run(learner, *batch())[0].sum().backward()
        optimizer.step()
        assert all(torch.equal(frozen[key], p) for key, p in learner.named_parameters() if key in frozen)


@pytest.mark.parametrize("name", TERMS)
def test_order_of_images_does_not_matter(name):
    check_order(learner_for(only(name), PAIRS["same family"])[0])


def check_order(learner):
    image, label = batch()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    learner.eval()
    saved = state(learner)
    one = run(learner, image, label)[0]
    learner.load_state_dict(saved)  # a memory was written to
    other = run(learner, image[order], label[order], order)[0]
    assert torch.allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("name", TERMS)
def test_memory_format_does_not_matter(name):
    image, label = batch()
    learner, _ = learner_for(only(name), PAIRS["cross"])
    learner.eval()
    saved = state(learner)
    one = run(learner, image, label)[0]
    learner.load_state_dict(saved)
    learner.to(memory_format=torch.channels_last)
    assert torch.allclose(one, run(learner, image.to(memory_format=torch.channels_last), label)[0], rtol=1e-3)


@pytest.mark.parametrize("pair", ["same family", "cross"])
@pytest.mark.parametrize("name", TERMS)
def test_bf16_autocast_gives_a_float32_loss_near_the_exact_one(name, pair):
    learner, _ = learner_for(only(name), PAIRS[pair])
    learner.eval()
    saved = state(learner)
    exact = run(learner, *batch())[0]
    learner.load_state_dict(saved)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run(learner, *batch())[0]
    assert rough.dtype == torch.float32
    assert torch.allclose(exact, rough, rtol=0.2, atol=0.02)


def caught(learner, image, dtype):
    """What student, teachers and peers say of a batch, cut from their graphs, in `dtype`."""
    with learner.capturing(), torch.no_grad():
        said = [learner._listen(image)], learner.teach(image), [listen(image) for listen in learner._listen_peers]
    return [
        [Features(f.logits.to(dtype), {k: v.to(dtype) for k, v in f.maps.items()}) for f in group] for group in said
    ]


def loss_at(learner, stage, names, leaves, directions, teachers, labels, peers, step):
    """The loss of a stage where all that the student says is moved by `step` along directions."""
    logits, *maps = [leaf + step * direction for leaf, direction in zip(leaves, directions, strict=True)]
    shown = Features(logits, dict(zip(names, maps, strict=True)))
    torch.manual_seed(5)
    if stage is not None:
        return learner.objective.phase_value(stage, shown, teachers, labels).sum()
    return learner.objective(shown, teachers, labels, peers).sum()


# The gradient of mutual learning is meant not to be that of its value: what a network says teaches without learning.
@pytest.mark.parametrize("name", [name for name in TERMS if known_terms()[name].reads != "peers"])
def test_gradient_is_that_of_finite_differences(name):
    """Along one random direction of all that the student says, in float64."""
    learner, _ = learner_for(only(name), PAIRS["same family"])
    learner.train()
    run(learner, *batch(4))  # so that what is set by the first batch is set
    learner.double().eval()
    for stage in stages(learner):
        learner.enter(stage)
        learner.float()
        (student,), teachers, peers = caught(learner, batch(4)[0], torch.float64)
        learner.double()
        if stage is not None and stage[1].learns == "term":
            continue  # nothing of it reaches the student
        labels = Batch(None, batch(4)[1], torch.arange(4), None)
        torch.manual_seed(2)  # away from the ties of rectified zeros, where a maximum has no derivative
        leaves = [leaf + 0.1 * leaf.std() * torch.randn_like(leaf) for leaf in (student.logits, *student.maps.values())]
        directions = [torch.randn_like(leaf) * leaf.std() for leaf in leaves]

        value = partial(loss_at, learner, stage, student.maps, leaves, directions, teachers, labels, peers)
        saved = state(learner)
        step = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (exact,) = torch.autograd.grad(value(step), step)
        learner.load_state_dict(saved)
        differences = (value(torch.tensor(1e-6)) - value(torch.tensor(-1e-6))) / 2e-6
        assert exact.dtype == torch.float64
        assert torch.isclose(
            exact, differences.double(), rtol=1e-4, atol=1e-8 + 1e-6 * float(value(step).detach().abs())
        )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_tells_what_it_is(method):
    preset = METHODS[method]
    assert preset.title
    assert preset.citation
    assert preset.family in FAMILIES
    assert preset.equation
    assert "\n" not in preset.equation + preset.citation + preset.title
    learner, _ = learner_for(resolve(method), PAIRS["same family"])
    values, right = run(learner, *batch())
    assert len(values) == sum(each[0].in_main for each in learner.objective.terms.values())
    assert set(learner.objective.terms) == {term.name for term in preset.terms}
    assert 0 <= int(right) <= 6


# Copies of one teacher that are shown different images are not that teacher.
ALIKE = [n for n in TERMS if known_terms()[n].reads in ("logits", "features") and known_terms()[n].shown is Term.shown]


@pytest.mark.parametrize("how", ["mean-probability", "mean-logit", "mean-loss"])
@pytest.mark.parametrize("name", ALIKE)
def test_copies_of_one_teacher_are_that_teacher(name, how):
    terms = only(name)
    one, (teacher,) = learner_for(terms, PAIRS["same family"])
    student = one.student
    copies = [teacher, copy.deepcopy(teacher), copy.deepcopy(teacher)]
    objective = objective_for(terms, student, copies, ensemble=how, teacher_weights=[1.0, 2.0, 5.0])
    three = Learner(student, objective, copies)
    three.build(torch.zeros(2, 3, 16, 16))
    prepare(three)
    for each in three.objective.terms[name]:  # with the same adapters
        each.load_state_dict(one.objective.terms[name][0].state_dict())
    student.eval()
    for learner in (one, three):
        learner.eval()
    assert torch.allclose(run(one, *batch())[0], run(three, *batch())[0], rtol=1e-5)
