"""The recomposed losses are torchvision's own to the last bit, and the rows mean the same to teacher and student."""

import pytest
import torch
from torch import nn
from torchvision.models import detection as zoo

from kdscope.detection import models
from kdscope.detection.adapter import Custom, OneStage, TwoStage, adapt
from kdscope.detection.evaluate import limited
from kdscope.detection.learner import DetectionLearner
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.detection.methods.presets import resolve
from kdscope.errors import KDScopeError

SMALL = ["fcos_resnet10_w8", "retinanet_resnet10_w8", "fasterrcnn_resnet10_w8"]
ALL = [*SMALL, "torchvision:ssdlite320_mobilenet_v3_large"]


def scenes(sizes=((64, 64), (48, 64), (64, 40))):
    """Images of several sizes; the second has no box."""
    generator = torch.Generator().manual_seed(5)
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    boxes = [[[4.0, 5.0, 30.0, 33.0], [20.0, 8.0, 60.0, 44.0]], [], [[2.0, 3.0, 38.0, 60.0]]]
    labels = [[1, 3], [], [2]]
    return images, [
        {"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.tensor(k, dtype=torch.int64)}
        for b, k in zip(boxes, labels, strict=True)
    ]


def made(name, **options):
    torch.manual_seed(0)
    size = {} if "ssd" in name else {"min_size": (64, 96)}
    detector = models.build(name, 3, **size | options)
    if not name.startswith("torchvision"):
        for module in detector.modules():  # so that scores spread and sorting means something
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=0.05)
    return detector


def learned(name):
    """(adapter, its step) under seed 1, from a detector just made."""
    adapter = adapt(made(name))
    images, targets = scenes()
    torch.manual_seed(1)
    return adapter, adapter.learn(adapter.frame(images, targets, torch.arange(3)))


@pytest.mark.parametrize("name", ALL)
def test_recomposed_losses_and_gradients_are_torchvisions_bit_for_bit(name):
    detector, (images, targets) = made(name), scenes()
    torch.manual_seed(1)
    expected = detector(images, targets)
    sum(expected.values()).backward()
    adapter, step = learned(name)
    sum(step.features.losses.values()).backward()
    assert list(step.features.losses) == list(expected)
    assert all(torch.equal(step.features.losses[key], expected[key]) for key in expected)
    ours, theirs = dict(adapter.detector.named_parameters()), dict(detector.named_parameters())
    assert all(torch.equal(ours[key].grad, theirs[key].grad) for key in theirs)
    assert all(torch.equal(a, b) for a, b in zip(adapter.detector.buffers(), detector.buffers(), strict=True))


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("fcos_resnet10_w8", {"0": 8, "1": 16, "2": 32}),
        ("fasterrcnn_resnet10_w8", {"0": 4, "1": 8, "2": 16, "3": 32}),
        ("torchvision:ssdlite320_mobilenet_v3_large", dict(zip("012345", (16, 32, 64, 128, 256, 512), strict=True))),
        ("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", {"1": 32}),  # both of its levels have this stride
        ("fcos_resnet18", {"0": 8, "1": 16, "2": 32, "p6": 64, "p7": 128}),
        ("torchvision:ssd300_vgg16", dict(zip("012345", (8, 16, 32, 64, 100, 300), strict=True))),
    ],
)
def test_strides_are_of_the_levels_and_not_of_the_pooled_one(name, strides):
    adapter = adapt(models.build(name, 3))
    assert adapter.strides == strides
    assert adapter.detector.training
    assert not any(value.is_meta for value in adapter.detector.state_dict().values())


@pytest.mark.parametrize("name", ALL)
def test_the_teacher_is_asked_about_the_rows_of_the_student(name):
    """A network asked about its own rows says what it said."""
    adapter, step = learned(name)
    again = adapter.look(step.batch, adapter.heads, step.proposals)
    assert list(again.rows) == list(adapter.heads)
    for head in adapter.heads:
        assert torch.equal(again.rows[head].logits, step.features.rows[head].logits)
        assert torch.equal(again.rows[head].deltas, step.features.rows[head].deltas)
    assert all(torch.equal(again.maps[stride], step.features.maps[stride]) for stride in step.features.maps)
    assert adapter.look(step.batch).rows == {}


def test_proposals_are_those_that_torchvision_samples():
    detector, (images, targets), seen = made("fasterrcnn_resnet10_w8"), scenes(), []
    detector.roi_heads.box_roi_pool.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    torch.manual_seed(1)
    detector(images, targets)
    _, step = learned("fasterrcnn_resnet10_w8")
    assert len(seen[0]) == 3
    assert all(torch.equal(a, b) for a, b in zip(seen[0], step.proposals, strict=True))
    assert [len(p) for p in step.proposals] == [64, 64, 64]


@pytest.mark.parametrize("name", ALL)
def test_losses_follow_from_rows_and_their_targets(name):
    """What is said of the rows is what the losses were made of: regression over positives, divided as they divide."""
    _, step = learned(name)
    for head, loss in (("dense", "bbox_regression"), ("rpn", "loss_rpn_box_reg"), ("roi", "loss_box_reg")):
        if head not in step.features.rows:
            continue
        rows, goals = step.features.rows[head], step.batch.targets[head]
        deltas = rows.deltas
        if deltas.ndim == 3:
            deltas = deltas[torch.arange(len(deltas)), goals.labels.clamp(min=0)]
        error, positive = deltas - goals.deltas, (goals.labels > 0) & goals.sampled
        if name.startswith("fcos"):
            continue  # the intersection over union of boxes, which is tested below
        if name.startswith("retinanet"):
            each = error.abs().sum(1)
        else:
            each = nn.functional.smooth_l1_loss(error, 0 * error, beta=1 if "ssd" in name else 1 / 9, reduction="none")
            each = each.sum(1)
        total = (each[positive] / torch.as_tensor(goals.normaliser).expand(len(each))[positive]).sum()
        torch.testing.assert_close(total, step.features.losses[loss])
        assert goals.deltas.isfinite().all()


def test_fcos_losses_follow_from_its_rows():
    _, step = learned("fcos_resnet10_w8")
    rows, goals = step.features.rows["dense"], step.batch.targets["dense"]
    assert rows.logits.shape[1] == 3
    positive = goals.labels > 0
    wide = nn.functional.pad(nn.functional.one_hot(goals.labels.clamp(min=0), 4)[:, 1:], (1, 0))
    wide[~positive] = 0
    ours = torch.cat([torch.full_like(rows.logits[:, :1], -1e4), rows.logits], 1)
    from torchvision.ops import sigmoid_focal_loss

    expected = sigmoid_focal_loss(ours, wide.float(), reduction="sum") / goals.normaliser
    column = made("fcos_resnet10_w8")  # label 0, which nothing has, costs a little in torchvision's loss
    adapter = adapt(column)
    images, targets = scenes()
    torch.manual_seed(1)
    outputs = adapter._run(adapter.frame(images, targets, torch.arange(3)))[1]
    unused = outputs["cls_logits"][..., 0]
    rest = sigmoid_focal_loss(unused, torch.zeros_like(unused), reduction="sum") / goals.normaliser
    torch.testing.assert_close(expected + rest, step.features.losses["classification"])
    left, top, right, bottom = goals.deltas[positive].unbind(1)
    centre = (
        torch.minimum(left, right)
        / torch.maximum(left, right)
        * torch.minimum(top, bottom)
        / torch.maximum(top, bottom)
    ).sqrt()
    loss = nn.functional.binary_cross_entropy_with_logits(rows.centreness[positive], centre, reduction="sum")
    torch.testing.assert_close(loss / goals.normaliser, step.features.losses["bbox_ctrness"])


def test_ssd_classification_follows_from_the_rows_that_it_counts():
    _, step = learned("torchvision:ssdlite320_mobilenet_v3_large")
    rows, goals = step.features.rows["dense"], step.batch.targets["dense"]
    counted = nn.functional.cross_entropy(rows.logits, goals.labels, reduction="none")[goals.sampled].sum()
    torch.testing.assert_close(counted / goals.normaliser, step.features.losses["classification"])
    assert goals.sampled.sum() == 4 * (goals.labels > 0).sum()


def test_labels_of_rows_are_those_of_the_boxes_they_lie_in():
    _, step = learned("fasterrcnn_resnet10_w8")
    labels, start = step.batch.targets["roi"].labels, 0
    for proposals, boxes, classes in zip(step.proposals, step.batch.boxes, step.batch.labels, strict=True):
        mine = labels[start : start + len(proposals)]
        start += len(proposals)
        if not len(boxes):
            assert (mine == 0).all()
            continue
        overlap, which = zoo.roi_heads.box_ops.box_iou(boxes, proposals).max(0)
        assert torch.equal(mine, torch.where(overlap >= 0.5, classes[which], 0))
    assert (labels > 0).any()


def test_the_frame_is_padded_at_the_right_and_the_bottom():
    adapter = adapt(made("fcos_resnet10_w8", min_size=64, max_size=1000))
    images, targets = scenes(((64, 64), (64, 128), (64, 40)))
    batch = adapter.frame(images, targets, torch.arange(3))
    assert batch.images.shape == (3, 3, 128, 128)  # the third is scaled by 1.6, to 102 by 64
    assert batch.sizes == ((64, 64), (64, 128), (102, 64))
    assert torch.equal(batch.boxes[0], targets[0]["boxes"])
    assert (batch.images[0, :, 64:] == 0).all()
    assert batch.boxes[2][0].tolist() == pytest.approx([3.2, 3 * 102 / 64, 60.8, 60 * 102 / 64])


@pytest.mark.parametrize("name", ALL)
def test_under_autocast_heads_run_in_bfloat16_and_boxes_are_float32(name):
    adapter, seen = adapt(made(name)), set()
    first = adapter.detector.rpn.head if isinstance(adapter, TwoStage) else adapter.detector.head
    for module in first.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        step = adapter.learn(adapter.frame(*scenes(), torch.arange(3)))
        adapter.detector.eval()
        features = adapter.features(step.batch)
        again = adapter.rows(features, step.batch, adapter.heads, {"roi": step.proposals})
        found = adapter.detections(features, step.batch, [(64, 64)] * 3)
        proposed = adapter.propose(features, step.batch) if isinstance(adapter, TwoStage) else []
    assert seen == {torch.bfloat16}
    assert torch.equal(adapter.anchors(step.batch), adapt(made(name)).anchors(step.batch))  # none was rounded
    generator = getattr(adapter.detector, "rpn", adapter.detector).anchor_generator
    assert {cell.dtype for cell in getattr(generator, "cell_anchors", None) or generator._wh_pairs} == {torch.float32}
    values = [*step.features.losses.values(), *step.proposals, *proposed, *(one["boxes"] for one in found)]
    for rows in (*step.features.rows.values(), *again.values()):
        values += [rows.logits, rows.deltas]
    assert {value.dtype for value in values} == {torch.float32}


def fine(side=30.0, size=1024, count=40):
    """An image of 1024 pixels and boxes of 30, whose corners bfloat16 cannot tell apart by less than 4 pixels."""
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(1)) * (size - side - 2) + 0.3
    boxes = torch.cat([corner, corner + side], 1)
    return torch.rand(1, 3, size, size), [{"boxes": boxes, "labels": torch.ones(count, dtype=torch.int64)}]


def test_perfect_codes_of_small_boxes_in_a_large_image_lose_nothing_in_bfloat16():
    """Rounded to eight bits the codes cost 0.003 of GIoU loss; boxes that are rounded too cost 0.09."""
    adapter = adapt(made("fcos_resnet10_w8", min_size=1024))
    batch = adapter.frame(*fine(), torch.zeros(1).long())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        step = adapter.learn(batch)
        goals, head = step.batch.targets["dense"], adapter.detector.head
        said = head(list(adapter.features(batch).values()))
        perfect = said | {"bbox_regression": goals.deltas.bfloat16()[None]}
        head.forward = lambda levels: perfect
        assert adapter.learn(batch).features.losses["bbox_regression"] < 0.01


class Own(nn.Module):
    """A user's detector."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 1)

    def features(self, batch):
        return {key: self.convolution(batch.images)[..., ::key, ::key] for key in (8, 4)}

    def losses(self, batch, maps):
        return {"size": maps[4].square().mean()}


def test_a_users_own_features_are_enough():
    frame = adapt(made("fcos_resnet10_w8", min_size=64)).frame(*scenes(), torch.arange(3))
    adapter = adapt(Own())
    assert isinstance(adapter, Custom)
    said = adapter.look(frame)
    assert list(said.maps) == [4, 8]
    assert said.maps[8].shape[2:] == (frame.images.shape[2] // 8, frame.images.shape[3] // 8)
    step = adapter.learn(frame)
    assert step.features.losses["size"] == said.maps[4].square().mean()
    with pytest.raises(KDScopeError, match="whole strides and maps"):
        adapt(Named()).look(frame)


class Named(Own):
    def features(self, batch):
        return {"p3": self.convolution(batch.images)}


class Whole(Own):
    """All that a student has."""

    def __init__(self):
        super().__init__()
        self.transform = made("fcos_resnet10_w8", min_size=64).transform

    def forward(self, images):
        some = torch.ones(2, 4)
        return [{"boxes": some, "scores": some[:, 0], "labels": some[:, 0].long()} for _ in images]


def without(name):
    kind = type("Broken", (Whole,), {name: nn.Module.forward if name == "forward" else None})
    if name == "transform":  # which its constructor sets
        kind.__init__ = Own.__init__
    return kind()


def giving(**methods):
    return type("Broken", (Whole,), {k: lambda self, *_, v=v: v for k, v in methods.items()})()


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (without("transform"), "a Broken cannot be trained: it has no `transform`, which frames"),
        (without("losses"), "a Broken cannot be trained: it has no `losses`, which gives {name: scalar}"),
        (without("forward"), "a Broken cannot be trained: it has no `forward`, which gives boxes"),
        (giving(features=[torch.ones(1)]), r"features\(batch\) gives {stride: map} .*, not a list of 1"),
        (giving(features={8: None}), r"not 8: a NoneType"),
        (giving(losses=torch.ones(1)), r"losses\(batch, maps\) of a Broken gives \(1,\), not {name: scalar}"),
        (giving(losses={"size": torch.ones(2)}), r"gives 'size': \(2,\), not a scalar"),
        (giving(losses={"size": 1.0}), r"gives 'size': a float, not a scalar"),
        (giving(forward=torch.ones(1)), r"forward of a Broken gives \(1,\) of one image, not \[{boxes"),
        (giving(forward=[{"boxes": torch.ones(2, 4)}]), "gives a list of 1 of one image, not"),
        (
            giving(forward=[{"boxes": torch.ones(2, 4), "scores": torch.ones(3), "labels": torch.ones(2)}]),
            r"gives scores \(3,\) with 2 boxes",
        ),
    ],
)
def test_what_a_users_own_student_lacks_is_said_before_it_is_trained(student, message):
    DetectionLearner(Whole(), DetectionObjective(resolve("none"), teacher=False)).build()
    with pytest.raises(KDScopeError, match=message):
        DetectionLearner(student, DetectionObjective(resolve("none"), teacher=False)).build()


@pytest.mark.parametrize("name", [*SMALL, "own"])
def test_limits_are_set_by_name_and_put_back(name):
    network = Whole() if name == "own" else made(name)
    network.eval().requires_grad_(False)
    child = next(network.children()).train()
    owner = network.roi_heads if name.startswith("faster") else network
    if name == "own":
        network.detections_per_img = 300
    before = {key: vars(owner)[key] for key in ("score_thresh", "detections_per_img") if key in vars(owner)}
    with limited(network, 0.3, 7):
        assert {key: vars(owner)[key] for key in before} == {
            key: value for key, value in (("score_thresh", 0.3), ("detections_per_img", 7)) if key in before
        }
        assert not any(module.training for module in network.modules())
    assert {key: vars(owner)[key] for key in before} == before
    assert child.training
    assert not network.training


def test_what_is_no_detector_is_refused():
    assert isinstance(adapt(models.build("fcos_resnet10_w8", 2)), OneStage)
    assert isinstance(adapt(models.build("fasterrcnn_resnet10_w8", 2)), TwoStage)
    with pytest.raises(KDScopeError, match="a Linear is no detector of boxes"):
        adapt(nn.Linear(2, 2))
    masks = models.build("fasterrcnn_resnet10_w8", 2)
    masks.roi_heads.mask_roi_pool = masks.roi_heads.mask_head = masks.roi_heads.mask_predictor = nn.Identity()
    with pytest.raises(KDScopeError, match="a FasterRCNN is no detector"):
        adapt(masks)
