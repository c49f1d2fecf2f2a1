"""What every detection method must do with real detectors, and what the plain ones are: mimicry, attention, logits."""

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax
from torch.utils._python_dispatch import TorchDispatchMode

from kdscope.detection import models
from kdscope.detection.adapter import adapt
from kdscope.detection.batch import DetectionBatch, DetectionFeatures, Rows, RowTargets
from kdscope.detection.methods.at import DetectionAttentionTransfer
from kdscope.detection.methods.chen import BoundedBox, SoftClass
from kdscope.detection.methods.fgd import FGD
from kdscope.detection.methods.kd import DetectionKD, row_kd_loss
from kdscope.detection.methods.mimicry import Mimicry
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.detection.methods.own import DetectorLoss
from kdscope.detection.methods.presets import DETECTION_METHODS, resolve
from kdscope.errors import KDScopeError
from kdscope.methods.at import attention_transfer_loss
from kdscope.methods.kd import kd_loss
from kdscope.methods.method import FAMILIES, known_terms
from kdscope.study import cells, load_study

FAMILY = ("fcos", "fasterrcnn", "retinanet", "ssdlite")
METHODS = sorted(DETECTION_METHODS)
UNITS = (1.0, 1.0, 1.0, 1.0)


def close(value, expected, atol=1e-5):
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=value.dtype), atol=atol, rtol=0)


def batch_of(**targets):
    """A batch of one image without objects, with what is known of the rows of heads."""
    image, boxes, labels = torch.zeros(1, 3, 8, 8), torch.zeros(0, 4), torch.zeros(0).long()
    return DetectionBatch(image, ((8, 8),), (boxes,), (labels,), torch.zeros(1).long(), targets)


def detector(family, width, seed):
    torch.manual_seed(seed)
    if family != "ssdlite":
        return models.build(f"{family}_resnet10_w{width}", num_classes=3, image_size=64)
    network = models.build("torchvision:ssdlite320_mobilenet_v3_large", num_classes=3)
    for module in network.modules():  # untrained, in eval mode its maps would be as good as zero: statistics of noise
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    network.backbone(torch.randn(4, 3, 320, 320))
    return network


@pytest.fixture(scope="module")
def pair(request):
    """Student, teacher, and what the two say of two images, of which one is empty."""
    family, same = request.param
    student = detector(family, 8, 0)
    teacher = detector(family, 8 if same else 16, 0 if same else 1).eval().requires_grad_(False)
    ours, theirs = adapt(student), adapt(teacher)
    if same:
        student.eval()  # the same numbers from the same weights
    torch.manual_seed(2)
    boxes = torch.tensor([[8.0, 8.0, 40.0, 48.0], [30.0, 20.0, 60.0, 60.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 3])}, {"boxes": boxes[:0], "labels": torch.zeros(0).long()}]
    step = ours.learn(ours.frame(torch.rand(2, 3, 64, 64), targets, torch.arange(2)))
    with torch.no_grad():
        known = theirs.look(step.batch, ours.heads, step.proposals)
    return student, teacher, (step.features, known, step.batch)


def of(*same):
    pairs = [(family, each) for family in FAMILY for each in same]
    return pytest.mark.parametrize("pair", pairs, indirect=True, ids=lambda pair: pair[0])


def objective_of(method, views, **overrides):
    return built(resolve(method, overrides), views)


def built(terms, views):
    torch.manual_seed(0)
    objective = DetectionObjective(terms, teacher=True)
    objective.build(*views[:2])
    objective.observe(views[1], views[2])
    return objective


@of(False)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_finite_parts_whose_gradients_reach_all_that_learns(pair, method):
    student, teacher, views = pair
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student.zero_grad()
    objective = objective_of(method, views)
    values = objective(*views)
    assert values.dtype == torch.float32
    assert values.shape == objective.weights.shape == (len(objective.names),)
    assert values.isfinite().all()
    distilled = ~torch.tensor(objective.task) if objective.compares else torch.tensor(objective.task)
    (objective.weights * distilled @ values).backward(retain_graph=True)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.learning())
    assert next(student.backbone.parameters()).grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


class Made(TorchDispatchMode):
    """Counts tensors that are made of numbers of Python: on a GPU each is a copy that waits for it."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.lift_fresh.default
        return function(*args, **(kwargs or {}))


@of(False)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_copied_to_the_device_in_a_step(pair, method):
    _, _, views = pair
    settings = {"fgd": {"box_reference": "image"}} if "fgd" in method else {}
    objective = objective_of(method, views, **settings)
    with Made() as made:
        torch.tensor([1.0])
        assert made.count == 1
        objective(*views)
    assert made.count == 1


@of(True)
@pytest.mark.parametrize("method", ["fgd", "fgd-normalised", "mimicry", "at", "kd"])
def test_a_student_that_is_its_teacher_loses_nothing_but_the_boxes(pair, method):
    _, _, views = pair
    objective = objective_of(method, views)
    distilled = objective(*views)[~torch.tensor(objective.task)]
    close(distilled.detach(), torch.zeros(len(distilled)), atol=1e-6)


@of(False)
def test_a_part_of_a_batch_that_no_row_needs_is_not_asked_of_the_teacher(pair):
    _, _, views = pair
    heads = tuple(views[1].rows)
    for method, asked in (("fgd", ()), ("kd", heads), ("chen2017", heads), ("none", ()), ("kd+mimicry", heads)):
        objective = objective_of(method, views)
        assert objective.asks == asked
        shown = DetectionFeatures(views[1].maps, {head: views[1].rows[head] for head in asked})
        assert objective(views[0], shown, views[2]).equal(objective(*views))


@of(False)
def test_what_was_built_is_saved_and_loaded(pair):
    _, _, views = pair
    objective = objective_of("fgd-normalised+chen2017", views)
    torch.manual_seed(5)
    other = DetectionObjective(resolve("fgd-normalised+chen2017"), teacher=True)
    other.build(*views[:2])
    other.load_state_dict(objective.state_dict())
    assert other(*views).equal(objective(*views))


def test_methods_tell_who_they_are():
    assert {"fgd", "fgd-normalised", "chen2017", "mimicry", "at", "kd", "none"} <= set(METHODS)
    for name in METHODS:
        method = DETECTION_METHODS[name]
        assert method.title
        assert method.citation
        assert method.equation.startswith(("L = ", "as "))
        assert method.family in FAMILIES
        assert "\n" not in method.departures
    assert all(term.summary and term.name == name for name, term in known_terms(DETECTION_METHODS).items())


def test_methods_add_up_and_settings_are_checked():
    assert list(resolve("fgd+kd")) == ["detection", "fgd", "kd"]
    assert resolve("kd", {"hint": {"norm": "l1"}})["hint"]["norm"] == "l1"
    with pytest.raises(KDScopeError, match="unknown setting 'alfa' in term 'fgd'; nearest: alpha"):
        resolve("fgd", {"fgd": {"alfa": 1}})
    with pytest.raises(KDScopeError, match="unknown detection method 'fdg'; nearest: fgd"):
        resolve("fdg")
    with pytest.raises(KDScopeError, match="term 'kd' needs a teacher"):
        DetectionObjective(resolve("kd"), teacher=False)


def test_weights_rise_and_fall_for_all_parts_of_a_term_alike():
    objective = DetectionObjective(resolve("none", {"fgd": {"weight": 2.0, "warmup": 0.5}}), teacher=True)
    s = DetectionFeatures({8: torch.zeros(1, 2, 4, 4)}, losses={"classification": torch.zeros(())})
    objective.build(s, s)
    assert objective.names == (
        "detection.classification", "fgd.foreground", "fgd.background", "fgd.attention", "fgd.global",
    )  # fmt: skip
    assert objective.weights_at(0, 8) == [1.0, 0.5, 0.5, 0.5, 0.5]
    assert objective.weights_at(4, 8) == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert objective.task == (True, False, False, False, False)


def test_losses_are_in_full_precision_under_autocast():
    s, t = ({8: torch.full((1, 64, 32, 32), value)} for value in (0.0, 300.0))
    batch = DetectionBatch(torch.zeros(1, 3, 256, 256), ((256, 256),), (torch.zeros(0, 4),), (), torch.zeros(1))
    objective = DetectionObjective({"mimicry": {"weight": 1.0, "normalize": False, "reduction": "sum"}}, teacher=True)
    objective.build(DetectionFeatures(s), DetectionFeatures(t))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = objective(DetectionFeatures(s), DetectionFeatures(t), batch)
    assert value.dtype == torch.float32
    assert value.item() == 300.0**2 * 64 * 32 * 32


# Mimicry


def test_mimicry_is_the_global_loss_of_fgd_in_the_first_step():
    """The context blocks begin as the identity: so the control differs from FGD in nothing else."""
    generator = torch.Generator().manual_seed(0)
    s, t = (
        DetectionFeatures({k: torch.randn(2, c, 32 // k, 32 // k, generator=generator) for k in (8, 16)})
        for c in (3, 5)
    )
    batch = DetectionBatch(torch.zeros(2, 3, 32, 32), ((32, 32),) * 2, (torch.zeros(0, 4),) * 2, (), torch.arange(2))
    for settings in (
        {"normalize": False, "reduction": "sum"},
        {"normalize": True, "reduction": "mean"},
    ):
        control, fgd = Mimicry(**settings), FGD(**settings, alpha=0, beta=0, gamma=0, lambda_=1)
        for term in (control, fgd):
            term.build(s, t)
            if term.observes:
                term.observe(t, batch)
        control.levels.load_state_dict(fgd.levels.state_dict())
        assert torch.equal(control(s, t, batch), fgd(s, t, batch)["global"])
    by_hand = 0.0
    for k in (8, 16):
        unit = t.maps[k].square().mean().sqrt()
        by_hand += ((control.levels.adapters[str(k)](s.maps[k]) - t.maps[k]) / unit).square().sum()
    close(control(s, t, batch), by_hand / (2 * 5 * (16 + 4)))


# Attention


def test_attention_transfer_is_the_loss_of_classifiers_summed_over_levels():
    s, t = (DetectionFeatures({8: torch.randn(2, c, 4, 4), 16: torch.randn(2, c, 2, 2)}) for c in (3, 5))
    term = DetectionAttentionTransfer()
    term.build(s, t)
    expected = sum(attention_transfer_loss(s.maps[k], t.maps[k]) for k in (8, 16))
    close(term(s, t, None), expected)
    named = DetectionAttentionTransfer(strides=[16], variant="paper-text")
    close(named(s, t, None), attention_transfer_loss(s.maps[16], t.maps[16], variant="paper-text"))


# Logits


def test_logits_of_rows_that_count_are_distilled_as_those_of_classifiers():
    generator = torch.Generator().manual_seed(1)
    z_s, z_t = (torch.randn(6, 4, generator=generator) for _ in range(2))
    labels, sampled = torch.tensor([1, 0, 2, 0, 3, -1]), torch.tensor([1, 1, 1, 0, 1, 0], dtype=torch.bool)
    known = RowTargets(labels, torch.zeros(6, 4), sampled, "softmax", UNITS, 1.0)
    batch = batch_of(roi=known)
    s, t = (DetectionFeatures({}, {"roi": Rows(z, torch.zeros(6, 4))}) for z in (z_s.requires_grad_(), z_t))
    term = DetectionKD(temperature=2.0)
    term.build(s, t)
    value = term(s, t, batch)["roi"]
    close(value, kd_loss(z_s[sampled], z_t[sampled], 2.0))
    value.backward()
    assert (z_s.grad.abs().sum(1) > 0).equal(sampled)


def test_one_logit_is_distilled_as_two_classes():
    z_s, z_t = torch.tensor([[0.3], [-2.0], [5.0]]), torch.tensor([[1.0], [0.5], [-1.0]])
    both = [torch.cat([torch.zeros_like(z), z], 1) for z in (z_s, z_t)]
    every = torch.ones(3, dtype=torch.bool)
    for temperature in (1.0, 3.0):
        expected = temperature**2 * kl_div(
            *(log_softmax(z / temperature, 1) for z in both), reduction="sum", log_target=True
        )
        close(row_kd_loss(z_s, z_t, every, temperature, "sigmoid"), expected)


@pytest.mark.parametrize("term", [DetectionKD(), SoftClass(), BoundedBox(), BoundedBox(kind="mimic")])
def test_no_rows_lose_nothing(term):
    """As of a batch in which the sampler drew none."""
    logits = torch.zeros(0, 4, requires_grad=True)
    said = DetectionFeatures({}, {"roi": Rows(logits, torch.zeros(0, 4))})
    none = torch.zeros(0, dtype=torch.int64)
    term.build(said, said)
    batch = batch_of(roi=RowTargets(none, torch.zeros(0, 4), none > 0, "softmax", UNITS, 1.0))
    assert term(said, said, batch)["roi"].item() == 0


def test_a_weight_of_the_detectors_own_that_nothing_has_is_said():
    said = DetectionFeatures({}, losses={"first": torch.tensor(2.0)})
    DetectorLoss().build(said, None)
    for setting, name in (("classification", "classification"), ("regression", "bbox_regression")):
        message = rf"term 'detection': {setting}=0.5 weighs none of the student's losses \(first\), .*'{name}'"
        with pytest.raises(KDScopeError, match=message):
            DetectorLoss(**{setting: 0.5}).build(said, None)


def test_a_one_stage_head_weighs_its_background_three_to_one():
    generator = torch.Generator().manual_seed(2)
    z_s, z_t = (torch.randn(41, 3, generator=generator) for _ in range(2))
    labels = torch.tensor([2] + [0] * 40)
    known = RowTargets(labels, torch.zeros(41, 4), torch.ones(41, dtype=torch.bool), "sigmoid", UNITS, 1.0)
    batch = batch_of(dense=known)
    s, t = (DetectionFeatures({}, {"dense": Rows(z, torch.zeros(41, 4))}) for z in (z_s, z_t))
    term = DetectionKD()
    term.build(s, t)
    each = [row_kd_loss(z_s, z_t, torch.arange(41) == k, scores="sigmoid") for k in range(41)]
    close(term(s, t, batch)["dense"], each[0] / 4 + 3 / 4 * sum(each[1:]) / 40)


# Ablations, as the studies have them

CLASS, BOX, HINT = "soft-class", "bounded-box", "hint"
FOCAL = {"fgd.foreground", "fgd.background", "fgd.attention"}
ROWS = {  # by study, scale and run: of each row the parts that distil (of terms with heads: one of each head)
    ("chen2017", "cpu", "part-"): {
        "CLS": {CLASS}, "CLS-W": {CLASS}, "CLS-W-union": {CLASS}, "L2": {BOX}, "L2-B": {BOX},
        "Hints": {HINT}, "Hints-A": {HINT}, "all": {CLASS, BOX, HINT},
    },
    ("fgd", "cpu", "parts-fcos-"): {
        "focal": FOCAL, "global": {"fgd.global"},
        "only-foreground": {"fgd.foreground"}, "only-background": {"fgd.background"},
        "only-attention": {"fgd.attention"},
        "without-foreground": {"fgd.background", "fgd.attention", "fgd.global"},
        "without-background": {"fgd.foreground", "fgd.attention", "fgd.global"},
        "without-attention": {"fgd.foreground", "fgd.background", "fgd.global"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def ablations():
    """By study, of each row of its ablation the terms of the run."""
    return {
        study: {
            cell.group.removeprefix(arm): cell.config.terms
            for cell in cells(load_study(study), scale)
            if cell.group.startswith(arm)
        }
        for study, scale, arm in ROWS
    }


@of(False)
def test_a_row_of_an_ablation_has_the_parts_that_it_names_and_no_others(pair, ablations):
    _, _, views = pair
    heads = tuple(views[1].rows)
    own = objective_of("none", views).names
    for (study, _, _), wanted in ROWS.items():
        assert ablations[study].keys() == wanted.keys()
        for row, terms in ablations[study].items():
            if row.endswith("-union"):
                continue  # of proposals; tests/detection/test_proposals.py
            objective = built(terms, views)
            of_heads = {f"{part}.{head}" for part in wanted[row] & {CLASS, BOX} for head in heads}
            assert set(objective.names) - set(own) == of_heads | wanted[row] - {CLASS, BOX}, row
            # Where there are no soft labels the hard ones have their whole weight.
            assert objective.terms["detection"].classification == (0.5 if CLASS in wanted[row] else 1.0), row


def test_forms_of_a_part_are_those_of_the_paper(ablations):
    table = ablations["chen2017"]
    assert [table[row]["soft-class"]["background_weight"] for row in ("CLS", "CLS-W", "CLS-W-union")] == [1, 1.5, 1.5]
    assert [table[row]["soft-class"]["proposals"] for row in ("CLS-W", "CLS-W-union")] == ["student", "union"]
    assert [table[row]["bounded-box"]["kind"] for row in ("L2", "L2-B")] == ["mimic", "bounded"]
    assert [table[row]["hint"]["adapter"] for row in ("Hints", "Hints-A")] == ["needed", "always"]
    assert table["all"] == resolve("chen2017")
    assert all(terms["fgd"]["normalize"] and terms["fgd"]["weight"] == 1 for terms in ablations["fgd"].values())


@of(False)
def test_forms_of_a_part_in_an_ablation_are_different_losses(pair, ablations):
    _, _, views = pair
    for plain, better in (("CLS", "CLS-W"), ("L2", "L2-B"), ("Hints", "Hints-A")):
        values = []
        for row in (plain, better):
            objective = built(ablations["chen2017"][row], views)
            values.append(objective(*views)[~torch.tensor(objective.task)].sum())
        assert values[0] != values[1]
