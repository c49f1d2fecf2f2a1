"""Whose proposals are compared: the student's own sample by default, the teacher's, or both."""

import pytest
import torch
from torch import nn
from torchvision.models import detection as zoo
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from kdscope import api
from kdscope.config import TeacherSettings
from kdscope.detection import models
from kdscope.detection.batch import PROPOSED, DetectionFeatures, Rows, RowTargets
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.learner import DetectionLearner
from kdscope.detection.methods.chen import BoundedBox, SoftClass, bounded_regression, soft_cross_entropy
from kdscope.detection.methods.kd import DetectionKD
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.detection.methods.presets import resolve
from kdscope.detection.methods.rows import class_deltas, joined_targets
from kdscope.detection.preflight import preflight
from kdscope.errors import KDScopeError
from kdscope.training.loop import checked

BOXES = torch.tensor([[8.0, 8.0, 40.0, 48.0], [30.0, 20.0, 60.0, 60.0]])
TARGETS = [{"boxes": BOXES, "labels": torch.tensor([1, 3])}, {"boxes": BOXES[:0], "labels": torch.zeros(0).long()}]
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
GIVEN = (IMAGES, TARGETS, torch.arange(2))


def made(width, seed, family="fasterrcnn"):
    torch.manual_seed(seed)
    return models.build(f"{family}_resnet10_w{width}", 3, image_size=64)


def learner_of(proposals, method="chen2017", teacher=None, heads=(), student=None):
    """A learner of the same weights each time, whose terms of rows compare `proposals`."""
    terms = {"chen2017": ("soft-class", "bounded-box"), "kd": ("kd",)}[method]
    own = {} if proposals is None else {"proposals": proposals}
    settings = {name: own | {"heads": list(heads)} for name in terms}
    if "bounded-box" in terms:
        settings["bounded-box"]["margin"] = 100.0  # all boxes count
    settings = resolve(method, settings)
    student = made(8, 0) if student is None else student
    torch.manual_seed(1)
    learner = DetectionLearner(
        student, DetectionObjective(settings, teacher=True), made(16, 1) if teacher is None else teacher
    )
    learner.build()
    if learner.objective.observing:
        learner.objective.observe(DetectionFeatures({s: torch.ones(1, 64, 2, 2) for s in (4, 8, 16, 32)}), None)
    return learner.train()


def looked(learner, seed=2):
    torch.manual_seed(seed)
    return learner.look(*GIVEN)


def proposed_by_hand(teacher, images):
    """The steps of the region proposal network, one by one."""
    rpn = teacher.rpn
    with torch.no_grad():
        features = teacher.backbone(images)
        objectness, deltas = rpn.head(list(features.values()))
        shown = zoo.image_list.ImageList(images, [(64, 64)] * 2)
        anchors = rpn.anchor_generator(shown, list(features.values()))
        counts = [level[0].numel() for level in objectness]
        objectness, deltas = zoo.rpn.concat_box_prediction_layers(objectness, deltas)
        boxes = rpn.box_coder.decode(deltas, anchors).view(2, -1, 4)
        return features, rpn.filter_proposals(boxes, objectness, [(64, 64)] * 2, counts)[0]


def test_by_default_the_rows_are_the_students_and_nothing_else_is_computed_or_drawn():
    plain, named = learner_of(None), learner_of("student")
    torch.manual_seed(2)
    step = plain._adapter.learn(plain._adapter.frame(*GIVEN))
    after = torch.get_rng_state()
    theirs = plain._teacher.look(step.batch, ("rpn", "roi"), step.proposals)
    plain.student.load_state_dict(named.student.state_dict())  # the statistics, too
    for learner in (plain, named):
        student, teacher, batch = looked(learner)
        assert torch.equal(torch.get_rng_state(), after)
        assert list(student.rows) == list(teacher.rows) == list(batch.targets) == ["rpn", "roi"]
        assert all(torch.equal(student.losses[key], step.features.losses[key]) for key in step.features.losses)
        assert torch.equal(student.rows["roi"].logits, step.features.rows["roi"].logits)
        assert all(torch.equal(teacher.rows[head].logits, theirs.rows[head].logits) for head in ("rpn", "roi"))


@pytest.mark.parametrize("proposals", ["teacher", "union"])
def test_the_detectors_own_loss_gradient_and_statistics_are_those_of_its_own_sample(proposals):
    own, other = learner_of("student"), learner_of(proposals)
    for learner in (own, other):
        sum(looked(learner)[0].losses.values()).backward()
    expected, found = dict(own.student.named_parameters()), dict(other.student.named_parameters())
    assert all(torch.equal(found[name].grad, value.grad) for name, value in expected.items())
    assert all(torch.equal(a, b) for a, b in zip(own.student.buffers(), other.student.buffers(), strict=True))
    assert torch.equal(looked(own)[0].rows["roi"].logits, looked(other)[0].rows["roi"].logits)


def test_rows_of_the_teacher_are_sampled_from_what_its_own_first_stage_proposes():
    learner = learner_of("teacher")
    teacher = learner.teachers[0]
    batch = learner._adapter.frame(*GIVEN)
    features, proposed = proposed_by_hand(teacher, batch.images)
    assert [len(each) for each in proposed] == [len(each) for each in teacher.rpn(  # and as its forward pass has them
        zoo.image_list.ImageList(batch.images, [(64, 64)] * 2), features)[0]]  # fmt: skip
    torch.manual_seed(2)
    step = learner._adapter.learn(batch)
    state = torch.get_rng_state()
    step, said = learner._taught(step)
    torch.set_rng_state(state)
    sampled, _, labels, _ = learner.student.roi_heads.select_training_samples(list(proposed), TARGETS)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(step.proposed, sampled, strict=True))
    for ours, boxes, target in zip(step.proposed, proposed, TARGETS, strict=True):  # nothing of the student's
        known = torch.cat([boxes, target["boxes"]])
        assert (ours[:, None] == known).all(2).any(1).all()
    assert torch.equal(step.batch.targets[PROPOSED].labels, torch.cat(labels))
    heads = teacher.roi_heads
    with torch.no_grad():
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, sampled, [(64, 64)] * 2)))
    assert torch.equal(said.rows[PROPOSED].logits, logits)
    assert torch.equal(said.rows[PROPOSED].deltas.flatten(1), deltas)
    assert list(said.rows) == ["rpn", PROPOSED]  # it is not asked about the student's
    mine = learner.student.roi_heads
    pooled = mine.box_roi_pool(step.outputs, sampled, [(64, 64)] * 2)
    assert torch.equal(step.features.rows[PROPOSED].logits, mine.box_predictor(mine.box_head(pooled))[0])


def test_labels_and_deltas_of_the_teachers_rows_are_those_of_the_boxes_they_overlap():
    student = made(8, 0)
    student.roi_heads.box_coder = BoxCoder((7.0, 7.0, 3.0, 3.0))  # the student's units, not the teacher's
    learner = learner_of("teacher", student=student)
    step, _ = learner._taught(learner._adapter.learn(learner._adapter.frame(*GIVEN)))
    goals, start = step.batch.targets[PROPOSED], 0
    assert goals.delta_weights == (7.0, 7.0, 3.0, 3.0)
    assert goals.normaliser == len(goals.labels) == sum(map(len, step.proposed)) == 128
    assert goals.sampled.all()
    for proposals, target in zip(step.proposed, TARGETS, strict=True):
        mine = slice(start, start + len(proposals))
        start += len(proposals)
        if not len(target["boxes"]):
            assert (goals.labels[mine] == 0).all()
            continue
        overlap, which = box_iou(target["boxes"], proposals).max(0)
        assert torch.equal(goals.labels[mine], torch.where(overlap >= 0.5, target["labels"][which], 0))
        positive = goals.labels[mine] > 0
        assert positive.any()
        a, b = proposals[positive], target["boxes"][which[positive]]
        size, middle = a[:, 2:] - a[:, :2], (a[:, 2:] + a[:, :2]) / 2
        moved = ((b[:, 2:] + b[:, :2]) / 2 - middle) / size * 7
        scaled = ((b[:, 2:] - b[:, :2]) / size).log() * 3
        torch.testing.assert_close(goals.deltas[mine][positive], torch.cat([moved, scaled], 1), atol=1e-5, rtol=1e-5)


def test_the_union_is_both_and_a_term_averages_over_all_of_them():
    learner = learner_of("union")
    student, teacher, batch = looked(learner)
    assert set(student.rows) == set(teacher.rows) == set(batch.targets) == {"rpn", "roi", PROPOSED}
    alone = looked(learner_of("teacher"))
    assert torch.equal(student.rows[PROPOSED].logits, alone[0].rows[PROPOSED].logits)
    logits, deltas, labels, goals = {}, {}, {}, {}
    for head in ("roi", PROPOSED):
        labels[head], goals[head] = batch.targets[head].labels, batch.targets[head].deltas
        for who, said in (("s", student), ("t", teacher)):
            logits[who, head] = said.rows[head].logits
            deltas[who, head] = class_deltas(said.rows[head], labels[head])
    value = learner.objective(student, teacher, batch)
    found = dict(zip(learner.objective.names, value, strict=True))
    count = sum(map(len, labels.values()))
    soft = [soft_cross_entropy(logits["s", head], logits["t", head]).sum() for head in labels]
    torch.testing.assert_close(found["soft-class.roi"], sum(soft) / count)
    bounded = [
        bounded_regression(deltas["s", head][each], deltas["t", head][each], goals[head][each], 100.0).sum()
        for head, each in ((head, labels[head] > 0) for head in labels)
    ]
    assert sum(bounded) > 0
    torch.testing.assert_close(found["bounded-box.roi"], sum(bounded) / count)
    for source, head in (("student", "roi"), ("teacher", PROPOSED)):
        other = learner_of(source)
        values = dict(zip(other.objective.names, other.objective(*looked(other)), strict=True))
        torch.testing.assert_close(values["soft-class.roi"], soft[["roi", PROPOSED].index(head)] / len(labels[head]))
        assert torch.equal(values["soft-class.rpn"], found["soft-class.rpn"])


@pytest.mark.parametrize("proposals", ["teacher", "union"])
def test_gradients_reach_the_student_through_both_samples_and_the_teacher_is_not_touched(proposals):
    learner = learner_of(proposals, "kd", heads=["roi"])
    teacher = learner.teachers[0]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student, known, batch = looked(learner)
    sources = {"teacher": [PROPOSED], "union": ["roi", PROPOSED]}[proposals]
    every = [student.rows[head].logits for head in ("roi", PROPOSED)]
    loss = learner.objective.terms["kd"](student, known, batch)["roi"]
    gradients = torch.autograd.grad(loss, every, retain_graph=True, allow_unused=True)
    assert [gradient is not None and gradient.abs().sum() > 0 for gradient in gradients] == [
        head in sources for head in ("roi", PROPOSED)
    ]
    loss.backward()
    assert all(p.grad is not None for p in learner.student.backbone.body.parameters())
    assert all(p.grad is not None for p in learner.student.roi_heads.box_head.parameters())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_a_teacher_with_other_anchors_teaches_the_rows_of_the_box_head():
    teacher = made(16, 1)
    few = AnchorGenerator(((16, 32),) * 5, ((1.0,),) * 5)
    teacher.rpn.anchor_generator = few
    teacher.rpn.head = zoo.rpn.RPNHead(64, 2)
    with pytest.raises(
        KDScopeError, match=r"term 'kd': head 'rpn' of the student has \d+ rows and that of the teacher"
    ):
        learner_of("union", "kd", teacher=teacher)
    learner = learner_of("union", "kd", teacher=teacher, heads=["roi"])
    assert learner.objective.asks == ("roi", PROPOSED)
    student, known, batch = looked(learner)
    _, proposed = proposed_by_hand(teacher, batch.images)
    step, _ = learner._taught(learner._adapter.learn(batch))
    boxes = torch.cat([proposed[0], BOXES])
    assert (step.proposed[0][:, None] == boxes).all(2).any(1).all()
    assert known.rows[PROPOSED].logits.shape == student.rows[PROPOSED].logits.shape
    checks = preflight(learner.student, teacher, heads=learner.objective.asks, scratch=True)
    assert not [check for check in checks if check.name.startswith("anchors")]


class Normed(nn.Module):
    """A box head with batch norm, such as that of Faster R-CNN v2."""

    def __init__(self, head):
        super().__init__()
        self.head, self.norm = head, nn.BatchNorm1d(128)

    def forward(self, x):
        return self.norm(self.head(x))


def test_a_batch_norm_in_the_box_head_counts_its_own_sample_alone():
    state = {}
    for proposals in ("student", "union"):
        student = made(8, 0)
        student.roi_heads.box_head = Normed(student.roi_heads.box_head)
        learner = learner_of(proposals, "kd", student=student)
        said = looked(learner)[0]
        norm = student.roi_heads.box_head.norm
        assert norm.track_running_stats
        assert norm.num_batches_tracked == 1
        state[proposals] = (norm.running_mean.clone(), norm.running_var.clone(), said.rows["roi"].logits)
    assert all(torch.equal(a, b) for a, b in zip(*state.values(), strict=True))


def test_numbers_that_two_samples_are_divided_by_add_up():
    def goals(labels, number):
        labels = torch.tensor(labels)
        return RowTargets(labels, labels[:, None].expand(-1, 4).float(), labels > 0, "softmax", (1.0,) * 4, number)

    both = joined_targets([goals([1, 0], 2.0), goals([3], 1.0)])
    assert both.labels.tolist() == both.deltas[:, 2].tolist() == [1, 0, 3]
    assert both.sampled.tolist() == [True, False, True]
    assert both.normaliser == 3.0


@pytest.mark.parametrize("kind", [SoftClass, BoundedBox, DetectionKD])
def test_where_there_are_no_proposals_that_is_said_in_one_line(kind):
    dense = DetectionFeatures({}, {"dense": Rows(torch.zeros(3, 2), torch.zeros(3, 4))})
    both = DetectionFeatures({}, {head: Rows(torch.zeros(3, 2), torch.zeros(3, 4)) for head in ("rpn", "roi")})
    known = f"term {kind.name!r}: proposals=teacher chooses the rows of head 'roi', and only "
    for said, heads, only in ((dense, (), "dense"), (both, ("rpn",), "rpn")):
        with pytest.raises(KDScopeError) as error:
            kind(heads=heads, proposals="teacher").build(said, said)
        assert str(error.value) == f"{known}{only} is compared; leave it out"
    with pytest.raises(KDScopeError, match=f"unknown proposals 'teachers' in term '{kind.name}'; nearest: teacher"):
        kind(proposals="teachers")


def test_a_config_says_whose_proposals_a_run_compares():
    size = {"options": {"min_size": 64}}
    common = {
        "data": "scenes:8:128:2",
        "batch_size": 4,
        "preflight": "off",
        "method": "kd",
        "teachers": [TeacherSettings(model="own")],
    }
    terms = {"kd": {"proposals": "teacher", "heads": ["roi"]}}
    config = api.settings(model={"name": "fasterrcnn_resnet10_w8"} | size, terms=terms, **common)
    config, dataset, learner = checked(config, "unused", [made(16, 1)])
    assert config.terms["kd"]["proposals"] == "teacher"
    assert learner.objective.asks == (PROPOSED,)
    batch = next(iter(DetectionBatches(dataset.train, batch_size=4).epoch()))
    values, _ = learner(*learner.arguments(batch))
    assert dict(zip(learner.objective.names, values, strict=True))["kd.roi"] > 0
    other = api.settings(model={"name": "fcos_resnet10_w8"} | size, terms={"kd": {"proposals": "teacher"}}, **common)
    with pytest.raises(KDScopeError, match="proposals=teacher chooses the rows of head 'roi', and only dense is"):
        checked(other, "unused", [made(16, 1, "fcos")])
