"""What a detector says of a batch, part by part: its maps by stride, its heads by row, and its own losses.

torchvision's detectors give losses while training and boxes otherwise, and nothing in between. An adapter takes their
public parts in the order in which `model(images, targets)` does, so that the losses are the same to the last bit, and
keeps what lies between. Teacher and student are shown one and the same transformed batch, and asked about the same
rows: an anchor or a location of a one-stage head, and of a two-stage detector the proposals that the student sampled.
The teacher's own proposals are never made.

A user's detector is any module with `features(batch) -> {stride: map [N, C, H, W]}`. That is all a teacher needs. To be
trained it also has a `transform` as torchvision's have, and `losses(batch, maps) -> {name: scalar}`; to be scored, a
`forward` that in eval mode gives boxes, scores and labels of a list of images, as torchvision's do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models import detection as zoo
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from kdscope.detection.batch import DetectionBatch, DetectionFeatures, Rows, RowTargets
from kdscope.errors import KDScopeError

Targets = list[dict[str, Tensor]]
LARGE = 1024  # side of the image that strides are read from: a multiple of any of them
POOLED = "pool"  # the level that `LastLevelMaxPool` adds: a copy of another at half its resolution


@dataclass(frozen=True)
class Step:
    """What the student says of a batch while it is being trained.

    Attributes:
        features: maps, rows and losses.
        batch: the batch, with what the ground truth says of the rows.
        proposals: of each image [n, 4] in pixels of the padded frame: the rows of "roi".
    """

    features: DetectionFeatures
    batch: DetectionBatch
    proposals: list[Tensor] = field(default_factory=list)


class Adapter:
    """Base: the shared frame and the maps. `heads` names the rows that the detector can be asked for.

    Attributes:
        detector: the network; it stays what it was, and holds nothing of the adapter.
        strides: of each output of the backbone, by its key; without the max-pooled level.
    """

    heads: tuple[str, ...] = ()

    def __init__(self, detector: nn.Module):
        self.detector = detector
        self.strides = self._strides()

    def frame(self, images: Tensor | Sequence[Tensor], targets: Targets, index: Tensor) -> DetectionBatch:
        """Images in [0, 1] and their boxes after the detector's own transform, which may draw a size by chance."""
        shown, moved = self.detector.transform(
            list(images), [{key: target[key] for key in ("boxes", "labels")} for target in targets]
        )
        boxes, labels = (tuple(target[key] for target in moved) for key in ("boxes", "labels"))
        return DetectionBatch(shown.tensors, tuple(shown.image_sizes), boxes, labels, index)

    def learn(self, batch: DetectionBatch) -> Step:
        """One pass with gradients: losses, maps, rows, and what the ground truth says of the rows."""
        raise NotImplementedError

    def look(
        self, batch: DetectionBatch, heads: Sequence[str] = (), proposals: Sequence[Tensor] = ()
    ) -> DetectionFeatures:
        """Maps, and the rows of `heads` alone: those of "roi" are `proposals`. Nothing is decoded or suppressed."""
        raise NotImplementedError

    def anchors(self, batch: DetectionBatch) -> Tensor:
        """The anchors of the first image of a batch, [A, 4] in pixels of the padded frame; a user's has none."""
        return batch.images.new_zeros(0, 4)

    def features(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """All outputs of the backbone and the neck, by its own keys: what `detections` goes on from."""
        features = self.detector.backbone(batch.images)
        return {"0": features} if isinstance(features, Tensor) else features

    def detections(
        self, features: dict[str, Tensor], batch: DetectionBatch, originals: Sequence[tuple[int, int]]
    ) -> Targets:
        """What the heads find in `features`, in eval mode: as the detector's own forward pass, from its middle on.

        `originals` are (height, width) of the images before the transform, in whose pixels boxes are told.
        """
        raise KDScopeError(f"a {type(self.detector).__name__} gives features alone: nothing can be detected from them")

    def maps(self, features: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """The levels among the outputs of the backbone, by stride, finest first, float32."""
        return {stride: features[key].float() for key, stride in self.strides.items()}

    @torch.no_grad()
    def _levels(self, batch: DetectionBatch) -> list[Tensor]:
        """The outputs of the backbone, whose shapes anchors follow; no batch statistic moves for them."""
        modes = {module: module.training for module in self.detector.modules()}
        self.detector.eval()
        levels = list(self.features(batch).values())
        for module, training in modes.items():
            module.training = training
        return levels

    def _strides(self) -> dict[str, int]:
        """From the shapes alone. Of two outputs of one stride the later one, which has seen more layers, is kept."""
        backbone = self.detector.backbone
        state = {name: value.to("meta") for name, value in backbone.state_dict(keep_vars=True).items()}
        mode = backbone.training
        with torch.no_grad():
            features = functional_call(backbone.eval(), state, (torch.empty(1, 3, LARGE, LARGE, device="meta"),))
        backbone.train(mode)
        features = {"0": features} if isinstance(features, Tensor) else features
        found = {LARGE // value.shape[-1]: key for key, value in features.items() if key != POOLED}
        return {key: stride for stride, key in sorted(found.items())}


class OneStage(Adapter):
    """RetinaNet, FCOS and SSD: the rows of "dense" are the anchors or locations, image by image, level by level."""

    heads = ("dense",)

    def learn(self, batch: DetectionBatch) -> Step:
        features, outputs, anchors, levels = self._run(batch)
        targets = _targets(batch)
        matched = self._matched(targets, anchors, levels)
        losses = self._losses(targets, outputs, anchors, matched)
        goals = self._goals(batch, outputs, anchors, torch.stack(matched))
        said = DetectionFeatures(self.maps(features), {"dense": self._rows(outputs)}, losses)
        return Step(said, replace(batch, targets={"dense": goals}))

    def look(
        self, batch: DetectionBatch, heads: Sequence[str] = (), proposals: Sequence[Tensor] = ()
    ) -> DetectionFeatures:
        features = self.features(batch)
        rows = {"dense": self._rows(self.detector.head(list(features.values())))} if "dense" in heads else {}
        return DetectionFeatures(self.maps(features), rows)

    def anchors(self, batch: DetectionBatch) -> Tensor:
        return self.detector.anchor_generator(_images(batch), self._levels(batch))[0]

    def detections(
        self, features: dict[str, Tensor], batch: DetectionBatch, originals: Sequence[tuple[int, int]]
    ) -> Targets:
        detector, levels = self.detector, list(features.values())
        outputs, anchors = detector.head(levels), detector.anchor_generator(_images(batch), levels)
        if not isinstance(detector, zoo.ssd.SSD):  # the others keep the best of each level
            cells = [level.shape[-2] * level.shape[-1] for level in levels]
            each = len(anchors[0]) // sum(cells)
            counts = [each * count for count in cells]
            outputs = {key: list(value.split(counts, dim=1)) for key, value in outputs.items()}
            anchors = [list(some.split(counts)) for some in anchors]
        found = detector.postprocess_detections(outputs, anchors, list(batch.sizes))
        return detector.transform.postprocess(found, list(batch.sizes), list(originals))

    def _run(self, batch: DetectionBatch) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor], list[int]]:
        features = self.features(batch)
        levels = list(features.values())
        outputs = self.detector.head(levels)
        anchors = self.detector.anchor_generator(_images(batch), levels)
        return features, outputs, anchors, [level.shape[-2] * level.shape[-1] for level in levels]

    def _matched(self, targets: Targets, anchors: list[Tensor], levels: list[int]) -> list[Tensor]:
        """Which box each row belongs to, -1 for the background and -2 for neither, as the detector itself matches."""
        detector = self.detector
        if isinstance(detector, zoo.ssd.SSD):
            return [_match(detector.proposal_matcher, t["boxes"], a) for t, a in zip(targets, anchors, strict=True)]
        # Its matching is a part of its loss, so the loss is called with a head that gives back what was matched.
        head = SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched)
        known = ("proposal_matcher", "center_sampling_radius")
        stand_in = SimpleNamespace(head=head, **{k: getattr(detector, k) for k in known if hasattr(detector, k)})
        more = (levels,) if isinstance(detector, zoo.FCOS) else ()
        return type(detector).compute_loss(stand_in, targets, {}, anchors, *more)

    def _losses(
        self, targets: Targets, outputs: dict[str, Tensor], anchors: list[Tensor], matched: list[Tensor]
    ) -> dict[str, Tensor]:
        detector = self.detector
        owner = detector if isinstance(detector, zoo.ssd.SSD) else detector.head
        return owner.compute_loss(targets, outputs, anchors, matched)

    def _rows(self, outputs: Mapping[str, Tensor]) -> Rows:
        logits = outputs["cls_logits"]
        if not isinstance(self.detector, zoo.ssd.SSD):
            logits = logits[..., 1:]  # labels begin at 1: the column of label 0 is a class that nothing has
        centreness = outputs["bbox_ctrness"].flatten().float() if "bbox_ctrness" in outputs else None
        return Rows(logits.flatten(0, 1).float(), outputs["bbox_regression"].flatten(0, 1).float(), centreness)

    @torch.no_grad()
    def _goals(
        self, batch: DetectionBatch, outputs: Mapping[str, Tensor], anchors: list[Tensor], matched: Tensor
    ) -> RowTargets:
        """`matched` is int64 [N, A]."""
        detector, anchors = self.detector, torch.stack(anchors)
        boxes, labels = _assigned(batch, matched, anchors)
        if isinstance(detector, zoo.FCOS):
            deltas = detector.box_coder.encode(anchors, boxes)
        else:
            deltas = detector.box_coder.encode_single(boxes.flatten(0, 1), anchors.flatten(0, 1))
        positive = matched >= 0
        if isinstance(detector, zoo.RetinaNet):  # each image by its own count, then the mean over images
            normaliser = (positive.sum(1, keepdim=True).clamp(min=1) * len(matched)).expand_as(matched).flatten()
        else:
            normaliser = positive.sum().clamp(min=1)
        sampled = matched != -2
        if isinstance(detector, zoo.ssd.SSD):
            sampled = _hardest(outputs["cls_logits"].float(), labels, detector.neg_to_pos_ratio)
        scores = "softmax" if isinstance(detector, zoo.ssd.SSD) else "sigmoid"
        weights = tuple(getattr(detector.box_coder, "weights", (1.0, 1.0, 1.0, 1.0)))
        return RowTargets(
            labels.flatten(), deltas.reshape(-1, 4).float(), sampled.flatten(), scores, weights, normaliser.float()
        )


class TwoStage(Adapter):
    """Faster R-CNN: "rpn" are its anchors, "roi" the proposals that its second stage sampled for training."""

    heads = ("rpn", "roi")

    def learn(self, batch: DetectionBatch) -> Step:
        detector, targets = self.detector, _targets(batch)
        features = self.features(batch)
        rpn, proposals, rpn_goals, rpn_losses = self._propose(batch, features, targets)
        proposals, _, labels, deltas = detector.roi_heads.select_training_samples(proposals, targets)
        logits, boxes = self._ask(batch, features, proposals)
        losses = dict(
            zip(
                ("loss_classifier", "loss_box_reg"),
                zoo.roi_heads.fastrcnn_loss(logits, boxes, labels, deltas),
                strict=True,
            )
        )
        labels = torch.cat(labels)
        weights = tuple(detector.roi_heads.box_coder.weights)
        every = torch.ones_like(labels, dtype=torch.bool)
        roi_goals = RowTargets(labels, _positive(deltas, labels), every, "softmax", weights, float(len(labels)))
        rows = {"rpn": rpn, "roi": _roi_rows(logits, boxes)}
        said = DetectionFeatures(self.maps(features), rows, losses | rpn_losses)
        return Step(said, replace(batch, targets={"rpn": rpn_goals, "roi": roi_goals}), proposals)

    def look(
        self, batch: DetectionBatch, heads: Sequence[str] = (), proposals: Sequence[Tensor] = ()
    ) -> DetectionFeatures:
        features, rows = self.features(batch), {}
        if "rpn" in heads:
            objectness, deltas = zoo.rpn.concat_box_prediction_layers(*self.detector.rpn.head([*features.values()]))
            rows["rpn"] = Rows(objectness.float(), deltas.float())
        if "roi" in heads:
            rows["roi"] = _roi_rows(*self._ask(batch, features, list(proposals)))
        return DetectionFeatures(self.maps(features), rows)

    def anchors(self, batch: DetectionBatch) -> Tensor:
        return self.detector.rpn.anchor_generator(_images(batch), self._levels(batch))[0]

    def detections(
        self, features: dict[str, Tensor], batch: DetectionBatch, originals: Sequence[tuple[int, int]]
    ) -> Targets:
        proposals, _ = self.detector.rpn(_images(batch), features)
        found, _ = self.detector.roi_heads(features, proposals, list(batch.sizes))
        return self.detector.transform.postprocess(found, list(batch.sizes), list(originals))

    def _propose(
        self, batch: DetectionBatch, features: dict[str, Tensor], targets: Targets
    ) -> tuple[Rows, list[Tensor], RowTargets, dict[str, Tensor]]:
        """The first stage: its rows, the proposals that are left, its targets and its losses."""
        rpn, levels = self.detector.rpn, list(features.values())
        objectness, deltas = rpn.head(levels)
        counts = [level[0].numel() for level in objectness]
        anchors = rpn.anchor_generator(_images(batch), levels)
        objectness, deltas = zoo.rpn.concat_box_prediction_layers(objectness, deltas)
        boxes = rpn.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = rpn.filter_proposals(boxes, objectness, batch.sizes, counts)
        labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
        goals = torch.cat(rpn.box_coder.encode(matched, anchors))
        positive, negative = (
            torch.where(torch.cat(chosen))[0] for chosen in rpn.fg_bg_sampler(labels)
        )  # drawn here, so that the teacher can be asked about these very rows
        chosen, labels = torch.cat([positive, negative]), torch.cat(labels)
        losses = {
            "loss_objectness": nn.functional.binary_cross_entropy_with_logits(
                objectness.flatten()[chosen], labels[chosen]
            ),
            "loss_rpn_box_reg": nn.functional.smooth_l1_loss(
                deltas[positive], goals[positive], beta=1 / 9, reduction="sum"
            )
            / len(chosen),
        }
        sampled = torch.zeros_like(labels, dtype=torch.bool).index_fill_(0, chosen, True)
        weights = tuple(rpn.box_coder.weights)
        known = RowTargets(labels.long(), _positive([goals], labels), sampled, "sigmoid", weights, float(len(chosen)))
        return Rows(objectness.float(), deltas.float()), proposals, known, losses

    def _ask(
        self, batch: DetectionBatch, features: dict[str, Tensor], proposals: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        heads = self.detector.roi_heads
        return heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, list(batch.sizes))))


class Custom(Adapter):
    """A user's own detector: maps by stride, and its losses where it has any. No rows."""

    def learn(self, batch: DetectionBatch) -> Step:
        maps = self.detector.features(batch)
        losses = self.detector.losses(batch, maps)
        return Step(DetectionFeatures(_checked(maps, batch), {}, dict(losses)), batch)

    def look(
        self, batch: DetectionBatch, heads: Sequence[str] = (), proposals: Sequence[Tensor] = ()
    ) -> DetectionFeatures:
        return DetectionFeatures(_checked(self.detector.features(batch), batch))

    def features(self, batch: DetectionBatch) -> dict[str, Tensor]:
        return {str(stride): value for stride, value in _checked(self.detector.features(batch), batch).items()}

    def maps(self, features: Mapping[str, Tensor]) -> dict[int, Tensor]:
        return {int(stride): value for stride, value in features.items()}

    def _strides(self) -> dict[str, int]:
        return {}  # of each batch, they are what `features` says


def adapt(detector: nn.Module) -> Adapter:
    """The adapter for `detector`.

    Raises:
        KDScopeError: a module that is none of torchvision's detectors and has no `features`.
    """
    if isinstance(detector, zoo.FasterRCNN) and not (
        detector.roi_heads.has_mask() or detector.roi_heads.has_keypoint()
    ):
        return TwoStage(detector)
    if isinstance(detector, zoo.FCOS | zoo.RetinaNet | zoo.ssd.SSD):
        return OneStage(detector)
    if callable(getattr(detector, "features", None)) and not isinstance(detector.features, nn.Module):
        return Custom(detector)
    raise KDScopeError(
        f"a {type(detector).__name__} is no detector of boxes of torchvision (Faster R-CNN, RetinaNet, FCOS, SSD), "
        "and it has no method features(batch) that gives {stride: map}"
    )


def _targets(batch: DetectionBatch) -> Targets:
    return [{"boxes": boxes, "labels": labels} for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]


def _images(batch: DetectionBatch) -> ImageList:
    return ImageList(batch.images, list(batch.sizes))


def _match(matcher: object, boxes: Tensor, anchors: Tensor) -> Tensor:
    if not len(boxes):
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    return matcher(box_iou(boxes, anchors))


def _assigned(batch: DetectionBatch, matched: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row [N, A] its box (the anchor itself where it has none, so that all is finite) and its label."""
    counts = torch.tensor([len(boxes) for boxes in batch.boxes], device=matched.device)
    first = (counts.cumsum(0) - counts)[:, None]
    boxes = torch.cat([*batch.boxes, anchors.new_zeros(1, 4)])  # one more, for images without boxes
    labels = torch.cat([*batch.labels, matched.new_zeros(1)])
    row = torch.where(matched >= 0, first + matched, len(boxes) - 1)
    found = torch.where((matched >= 0)[..., None], boxes[row], anchors)
    return found, torch.where(matched == -2, -1, labels[row])


def _hardest(logits: Tensor, labels: Tensor, ratio: float) -> Tensor:
    """The rows that SSD's loss counts: all positives, and of each image `ratio` times as many of its worst negatives.

    Liu et al., ECCV 2016, section 2.2, hard negative mining. logits [N, A, K], labels [N, A]; bool [N, A].
    """
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    positive = labels > 0
    order = losses.masked_fill(positive, -torch.inf).argsort(1, descending=True).argsort(1)
    return positive | (order < ratio * positive.sum(1, keepdim=True))


def _positive(deltas: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Targets of rows with an object; of the others zero, for the logarithm of no box's size is infinite."""
    return torch.where((labels > 0)[:, None], torch.cat(list(deltas)).float(), 0)


def _roi_rows(logits: Tensor, deltas: Tensor) -> Rows:
    return Rows(logits.float(), deltas.view(len(deltas), -1, 4).float())


def _checked(maps: Mapping[int, Tensor], batch: DetectionBatch) -> dict[int, Tensor]:
    """The maps of a user's detector, finest first."""
    images = len(batch.images)
    for stride, value in maps.items():
        if not isinstance(stride, int) or value.ndim != 4 or len(value) != images:
            raise KDScopeError(
                f"features(batch) gives {{stride: map}} with whole strides and maps [N, C, H, W] of {images} images, "
                f"not {stride!r}: {tuple(value.shape)}"
            )
    return {stride: maps[stride].float() for stride in sorted(maps)}
