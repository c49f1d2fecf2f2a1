"""Phases, chains, peers, schedules and gradient rules: what the engine does for any method."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import kdscope
from kdscope.errors import KDScopeError
from kdscope.methods import METHODS, Method
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.kd import KD
from kdscope.methods.term import Phase, Term
from kdscope.run import Run
from kdscope.training import loop
from kdscope.training.gradients import clip, clip_paper, diagnosed, lr_matched, noise_matched
from kdscope.training.prepare import prepare


class Prepared(Term):
    """Trains a scalar in a phase of its own, then initialises the student, then has no part in the main training."""

    name = "test-prepared"
    reads = "features"
    layers = "stages:-1"

    def __init__(self):
        super().__init__()
        self.own = nn.Parameter(torch.zeros(()))
        self.adapter = nn.Parameter(torch.ones(()))

    def phases(self):
        return Phase("own", 0.5, "term", lr=0.5, weight_decay=0.0), Phase("hint", 1.0, "student")

    def phase_loss(self, phase, student, teacher, batch):
        if phase.name == "own":
            assert student is None
            return (self.own - 3).square() / 2
        (ours,), (theirs,) = student.maps.values(), teacher.maps.values()
        return (self.adapter * ours.mean() - theirs.mean() - 0 * self.own).square()

    def trained(self, phase):
        return [] if phase is None else [self.own] if phase.name == "own" else [self.adapter]

    @property
    def in_main(self):
        return False


@pytest.fixture
def prepared(monkeypatch):
    method = Method({CrossEntropy: 1.0, Prepared: 1.0}, "prepared", "a test")
    monkeypatch.setitem(METHODS._entries, "test-prepared", method)


def test_phases_come_first_and_train_what_they_say(prepared, tiny_data, tiny_teacher, tmp_path):
    run = kdscope.train(tmp_path / "run", method="test-prepared", teachers=[tiny_teacher], **tiny_data)
    state = load_file(run.path / "checkpoints" / "last.safetensors")
    # Three steps of Nesterov momentum 0.9 with rate 0.5 on (x - 3)^2 / 2, from 0; then never touched again.
    x = v = 0.0
    for _ in range(3):
        gradient = x - 3
        v = 0.9 * v + gradient
        x -= 0.5 * (gradient + 0.9 * v)
    assert state["objective.terms.test-prepared.0.own"] == pytest.approx(x, rel=1e-5)
    assert state["objective.terms.test-prepared.0.adapter"] != 1
    lines = (run.path / "phases.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [
        '"test-prepared own"', '"test-prepared hint"', '"test-prepared hint"',
    ]  # fmt: skip
    assert len(run.metrics) == 2
    assert "test-prepared" not in run.metrics[0]
    # The main training has the student alone: its optimiser holds nothing of the term.
    alone = kdscope.train(tmp_path / "alone", **tiny_data)
    assert run.summary["weights_hash"] != alone.summary["weights_hash"]


def test_a_phase_that_learns_the_term_leaves_the_student_as_it_was(prepared, tiny_data, tiny_teacher, tmp_path):
    config = kdscope.api.settings(method="test-prepared", teachers=[tiny_teacher], **tiny_data)
    learner = prepare(config)[2]
    before = {key: value.clone() for key, value in learner.student.state_dict().items()}
    learner.enter(learner.objective.phases[0])
    learner.train()
    with learner.capturing():
        learner(torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4))[0].sum().backward()
    assert all(torch.equal(before[key], value) for key, value in learner.student.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in learner.student.parameters())


def test_weights_rise_and_fall_as_the_schedule_says(tiny_data, tiny_teacher, tmp_path):
    terms = {"kd": {"warmup": 0.5, "weight": 8.0}, "cross-entropy": {"anneal": "linear", "weight": 1.0}}
    options = tiny_data | {"epochs": 4, "terms": terms}
    config = kdscope.api.settings(method="kd", teachers=[tiny_teacher], **options)
    objective = prepare(config)[2].objective
    assert [objective.weights_at(epoch, 4) for epoch in range(4)] == [[1.0, 4.0], [0.75, 8.0], [0.5, 8.0], [0.25, 8.0]]
    run = kdscope.train(tmp_path / "run", method="kd", teachers=[tiny_teacher], **options)
    for row, (hard, soft) in zip(run.metrics, [(1.0, 4.0), (0.75, 8.0), (0.5, 8.0), (0.25, 8.0)], strict=True):
        assert row["loss"] == pytest.approx(hard * row["cross-entropy"] + soft * row["kd"], rel=1e-5)


def test_an_assistant_learns_from_the_teacher_and_the_student_from_the_assistant(tiny_data, tiny_teacher, tmp_path):
    run = kdscope.train(tmp_path / "run", method="kd", teachers=[tiny_teacher], assistants=["resnet8x4"], **tiny_data)
    link = Run(tmp_path / "run" / "chain" / "1-resnet8x4")
    assert link.config.teachers[0].run == tiny_teacher.path
    assert link.config.seed != run.config.seed
    assert run.config.teachers[0].run == link.path
    assert run.config.teachers[0].weights_hash == link.summary["weights_hash"]
    assert run.recipe.teachers[0].run == tiny_teacher.path
    # The last link is an ordinary distillation from the assistant: bit for bit.
    direct = kdscope.train(tmp_path / "direct", method="kd", teachers=[link], **tiny_data)
    assert direct.summary["weights_hash"] == run.summary["weights_hash"]
    # config.yaml alone repeats the whole chain.
    again = kdscope.train(tmp_path / "again", config=run.path / "config.yaml")
    assert again.summary["weights_hash"] == run.summary["weights_hash"]


def test_generations_begin_with_a_network_alone(tiny_data, tmp_path):
    run = kdscope.train(tmp_path / "run", method="kd", generations=2, **tiny_data)
    first, second = (Run(tmp_path / "run" / "chain" / name) for name in ("1-resnet8", "2-resnet8"))
    assert (first.config.method, first.config.teachers) == ("none", ())
    assert second.config.method == "kd"
    assert second.config.teachers[0].run == first.path
    assert run.config.teachers[0].run == second.path
    assert len({first.config.seed, second.config.seed, run.config.seed}) == 3


def test_what_is_wrong_with_the_last_link_is_found_before_the_first(tiny_data, tiny_teacher, tmp_path):
    terms = {"at": {"layers": ["nowhere"]}}
    with pytest.raises(KDScopeError, match="no layer matches 'nowhere'"):
        kdscope.train(tmp_path / "run", method="at", teachers=[tiny_teacher], assistants=["resnet8x4"],
                      **tiny_data | {"terms": terms})  # fmt: skip
    assert not (tmp_path / "run").exists()


class Together(Term):
    """Draws the peers' mean logit to the student's: gradients must reach both."""

    name = "test-together"
    reads = "peers"

    def forward(self, student, peers, batch):
        return sum((student.logits.float() - peer.logits.float()).square().mean() for peer in peers)


def test_peers_learn_and_are_saved(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setitem(
        METHODS._entries, "test-together", Method({CrossEntropy: 1.0, Together: 1.0}, "t", "a test", peers=1)
    )
    run = kdscope.train(tmp_path / "run", method="test-together", peers=["vgg8", "resnet8"], **tiny_data)
    assert [peer["model"] for peer in run.summary["peers"]] == ["vgg8", "resnet8"]
    assert run.summary["peers"][1]["test_accuracy"] == run.metrics[-1]["test_accuracy_peer_2"]
    config = kdscope.api.settings(method="test-together", peers=["vgg8", "resnet8"], **tiny_data)
    peer = prepare(config)[2].peers[1]
    saved = load_file(run.weights.with_name("peer-2.safetensors"))
    assert not torch.equal(saved["conv1.weight"], peer.state_dict()["conv1.weight"])  # it learned
    kdscope.models.load_weights(peer, run.weights.with_name("peer-2.safetensors"))
    default = prepare(kdscope.api.settings(method="test-together", **tiny_data))[0]
    assert [p.name for p in default.peers] == ["resnet8"]


class Averaged(Term):
    """Draws the student's pooled map to the teacher's mean over the training images, computed once."""

    name = "test-averaged"
    reads = "features"
    layers = "stages:-1"
    computed = 0

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def preparation(self):
        return {"scale": self.scale}

    def prepare(self, images, teacher):
        type(self).computed += 1
        sums, index = 0, []
        for batch in images.plain():
            (feature_map,) = teacher(batch.image).maps.values()
            sums = sums + feature_map.mean((1, 2, 3)).sum()
            index += batch.index.tolist()
        assert index == list(range(len(images)))
        return {"mean": self.scale * sums / len(images), "noise": torch.randn(2)}

    def use(self, prepared):
        self.mean, self.noise = prepared["mean"], prepared["noise"]

    def forward(self, student, teacher, batch):
        (ours,) = student.maps.values()
        assert batch.view.augment == "standard"
        return (ours.float().mean((1, 2, 3)) - self.mean).square().mean()


def test_what_is_prepared_from_a_teacher_is_computed_once(tiny_data, tiny_teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("KDSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(METHODS._entries, "test-averaged", Method({CrossEntropy: 1.0, Averaged: 1.0}, "a", "a test"))
    monkeypatch.setattr(Averaged, "computed", 0)
    runs = [
        kdscope.train(tmp_path / f"seed{seed}", method="test-averaged", teachers=[tiny_teacher], seed=seed, **tiny_data)
        for seed in (0, 1)
    ]
    assert Averaged.computed == 1
    (kept,) = (tmp_path / "cache" / "prepared").glob("*.safetensors")
    network, dataset = tiny_teacher.model(), runs[0].dataset()
    with torch.no_grad():
        shown = [batch.image for batch in kdscope.data.Batches(dataset.train, dataset, augment="none").epoch()]
        with kdscope.features.Capture(network, ["layer3"]) as capture:
            expected = capture(torch.cat(shown))["layer3"].mean()
    assert load_file(kept)["mean"] == pytest.approx(float(expected), rel=1e-5)
    other = tiny_data | {"terms": {"test-averaged": {"scale": 2.0}}}
    kdscope.train(tmp_path / "other", method="test-averaged", teachers=[tiny_teacher], **other)
    assert Averaged.computed == 2


vectors = st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3).map(torch.tensor)


@given(vectors, vectors, st.integers(0, 12))
def test_the_clipped_transfer_is_never_stronger_than_the_task(task, transfer, epoch):
    (combined,) = clip([task], [transfer], epoch)
    added = (combined - task).double().norm()
    share = 1 / (1 + math.exp(-epoch))
    assert added <= share * task.double().norm() + 1e-5
    if transfer.norm() <= share * task.norm():
        assert torch.allclose(combined, task + transfer, atol=1e-5)


@given(vectors, vectors)
def test_the_printed_rule_never_caps(task, transfer):
    (combined,) = clip_paper([task], [transfer], 0)
    added, whole = (combined - task).double().norm(), transfer.double().norm()
    assert 0.731 * whole - 1e-4 <= added <= whole + 1e-4


@given(vectors, vectors, st.integers(0, 5))
def test_controls_move_as_far_as_the_clipped_transfer(task, transfer, epoch):
    (clipped,) = clip([task], [transfer], epoch)
    length = (clipped - task).double().norm()
    (noise,), (longer,) = noise_matched([task], [transfer], epoch), lr_matched([task], [transfer], epoch)
    assert (noise - task).double().norm() == pytest.approx(float(length), rel=1e-3, abs=1e-4)
    assert longer.double().norm() == pytest.approx(float(task.double().norm() + length), rel=1e-3, abs=1e-4)


def test_the_clipping_of_the_released_code():
    task, rows = (
        torch.tensor([3.0, 4.0]),
        [(0, (4.5, 6.0)), (1, (5.1932, 6.9242)), (2, (5.6424, 7.5232)), (50, (6.0, 8.0))],
    )
    for epoch, expected in rows:
        assert clip([task], [torch.tensor([6.0, 8.0])], epoch)[0].tolist() == pytest.approx(expected, abs=5e-5)
    assert clip([task], [torch.tensor([0.3, 0.4])], 0)[0].tolist() == pytest.approx((3.3, 4.4))
    assert clip_paper([task], [torch.tensor([6.0, 8.0])], 0)[0].tolist() == pytest.approx((7.3864, 9.8485), abs=5e-5)
    assert torch.equal(clip([task], [torch.zeros(2)], 0)[0], task)


def test_what_is_told_of_the_gradients():
    ratio, cosine, capped = diagnosed([torch.tensor([3.0, 4.0]), None], [torch.tensor([-6.0, -8.0]), None], 0).tolist()
    assert (ratio, cosine, capped) == pytest.approx((2.0, -1.0, 1.0))


@pytest.mark.parametrize("rule", [clip, clip_paper, noise_matched, lr_matched])
def test_a_tensor_that_one_loss_does_not_reach_takes_the_other(rule):
    one = torch.ones(2)
    adapter, head, unused = rule([None, one, None], [one, None, None], 0)
    assert torch.equal(adapter, one)
    assert torch.equal(head, one)
    assert unused is None


def test_the_rule_is_what_the_optimiser_sees(tiny_data, tiny_teacher, tmp_path, monkeypatch):
    """One step by hand: SGD without momentum or decay moves each tensor by the rate times the combined gradient."""
    seen = {}

    class Recorded(loop.Session):
        def _combine(self, values):
            if "before" in seen:
                return super()._combine(values)
            seen["before"] = [p.detach().clone() for p in self.parameters]
            seen["task"], seen["transfer"] = (
                torch.autograd.grad(weight * value, self.parameters, retain_graph=True)
                for weight, value in zip((0.1, 0.9), values, strict=True)
            )
            super()._combine(values)

        def step(self, batch, rate):
            super().step(batch, rate)
            seen.setdefault("after", [p.detach().clone() for p in self.parameters])

    monkeypatch.setattr(loop, "Session", Recorded)
    optim = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
    options = tiny_data | {"optim": optim, "batch_size": 48, "epochs": 1, "gradients": "clip"}
    config = kdscope.api.settings(method="kd", teachers=[tiny_teacher], **options)
    kdscope.train(tmp_path / "run", method="kd", teachers=[tiny_teacher], **options)
    learner = prepare(config)[2]
    capped = 0
    for before, after, task, transfer in zip(
        *(seen[key] for key in ("before", "after", "task", "transfer")), strict=True
    ):
        factor = min(1.0, float(0.5 * task.double().norm() / transfer.double().norm()))
        capped += factor < 1
        assert torch.allclose(after, before - 0.1 * (task + factor * transfer), atol=1e-6)
    assert capped > 0
    assert all(torch.equal(a, b) for a, b in zip(seen["before"], learner.student.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "kd", "gradients": "clp"}, "unknown gradients 'clp'; nearest: clip"),
        ({"method": "none", "gradients": "clip"}, "weighs the gradient of the labels against that of the teacher"),
        ({"method": "kd", "assistants": ["resnet15"]}, "unknown model 'resnet15'"),
        ({"method": "none", "peers": ["resnet8"]}, "has no use for a peer"),
        ({"method": "kd", "terms": {"kd": {"warmup": 2}}}, r"warmup is a share of all epochs in \[0, 1\], not 2"),
        ({"method": "kd", "terms": {"kd": {"anneal": "linea"}}}, "unknown anneal 'linea'"),
        ({"method": "kd", "chain": "none", "assistants": ["resnet8"]}, "assistants are given, but the chain is 'none'"),
        ({"method": "born-again", "assistants": ["resnet8"]}, "assistants are given, but the chain is 'generations'"),
        ({"method": "takd", "generations": 2}, "generations are given, but the chain is 'assistants'"),
    ],
)
def test_refused(options, message, tiny_data, tiny_teacher, tmp_path):
    teachers = [] if options["method"] == "none" else [tiny_teacher]
    with pytest.raises(KDScopeError, match=message):
        kdscope.train(tmp_path / "run", teachers=teachers, **tiny_data | options)
    assert not (tmp_path / "run").exists()


def test_two_terms_that_both_change_the_student_are_refused(monkeypatch, tiny_data, tmp_path):
    kinds = []
    for name in ("test-a", "test-b"):
        kinds.append(type(name, (Prepared,), {"name": name, "reads": "labels", "changes_student": True}))
        monkeypatch.setitem(METHODS._entries, name, Method({CrossEntropy: 1.0, kinds[-1]: 1.0}, name, "a test"))
    with pytest.raises(KDScopeError, match="terms test-a and test-b each want to change the student; take one of them"):
        kdscope.train(tmp_path / "run", method="test-a+test-b", **tiny_data)


class Widened(Term):
    """Puts a layer behind the student."""

    name = "test-widened"
    reads = "labels"
    changes_student = True

    def change(self, student):
        student.classifier_scale = nn.Parameter(torch.full((), 2.0))
        student.register_forward_hook(lambda module, inputs, output: output * module.classifier_scale)
        return student

    def forward(self, student, teacher, batch):
        return 0 * student.logits.float().sum()


def test_a_student_that_a_term_changed_is_saved_and_loaded_so(monkeypatch, tiny_data, tmp_path):
    monkeypatch.setitem(METHODS._entries, "test-widened", Method({CrossEntropy: 1.0, Widened: 1.0}, "w", "a test"))
    run = kdscope.train(tmp_path / "run", method="test-widened", **tiny_data)
    assert load_file(run.weights)["classifier_scale"] != 2
    network = run.model()
    split = run.dataset().test
    batches = kdscope.data.Batches(split, run.dataset(), batch_size=24)
    right = sum(int((network(batch.image).argmax(1) == batch.label).sum()) for batch in batches.epoch())
    assert right / len(split) == run.summary["test_accuracy"]


def test_a_batch_that_is_too_small_for_a_term(monkeypatch, tiny_data, tiny_teacher, tmp_path):
    monkeypatch.setattr(KD, "least_images", 20)
    with pytest.raises(KDScopeError, match="term 'kd' needs at least 20 images in a batch, and a device gets 16"):
        kdscope.train(tmp_path / "run", method="kd", teachers=[tiny_teacher], **tiny_data)
    options = tiny_data | {"batch_size": 30}  # 48 = 30 + 18: the second batch is left out
    run = kdscope.train(tmp_path / "run", method="kd", teachers=[tiny_teacher], **options)
    assert run.metrics[-1]["step"] == 2
