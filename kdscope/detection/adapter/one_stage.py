"""One-stage detectors of torchvision: RetinaNet, FCOS and SSD."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torchvision.models import detection as zoo
from torchvision.ops import box_iou

from kdscope.detection.adapter.base import Adapter, Step, Targets, exact_heads, image_list, targets_of
from kdscope.detection.batch import DetectionBatch, DetectionFeatures, Rows, RowTargets, filled


class OneStage(Adapter):
    """RetinaNet, FCOS and SSD: the rows of "dense" are the anchors or locations, image by image, level by level."""

    heads = ("dense",)

    @property
    def least_images(self) -> int:
        """The last maps of SSD have one cell, and a batch norm needs two values of a channel."""
        ssd = isinstance(self.detector, zoo.ssd.SSD)
        return 2 if ssd and any(isinstance(module, nn.BatchNorm2d) for module in self.detector.modules()) else 1

    def learn(self, batch: DetectionBatch) -> Step:
        features, outputs, anchors, levels = self._run(batch)
        targets = targets_of(batch)
        matched = self._matched(targets, anchors, levels)
        losses = self._losses(targets, outputs, anchors, matched)
        goals = self._goals(batch, outputs, anchors, torch.stack(matched))
        said = DetectionFeatures(self.maps(features), {"dense": self._rows(outputs)}, losses)
        return Step(said, replace(batch, targets={"dense": goals}))

    def rows(
        self,
        features: dict[str, Tensor],
        batch: DetectionBatch,
        heads: Sequence[str],
        proposals: Mapping[str, Sequence[Tensor]],
    ) -> dict[str, Rows]:
        return {"dense": self._rows(self._head(list(features.values())))} if "dense" in heads else {}

    def anchors(self, batch: DetectionBatch) -> Tensor:
        return self.detector.anchor_generator(image_list(batch), self._levels(batch))[0]

    def detections(
        self, features: dict[str, Tensor], batch: DetectionBatch, originals: Sequence[tuple[int, int]]
    ) -> Targets:
        detector, levels = self.detector, list(features.values())
        outputs = self._head(levels)
        anchors = detector.anchor_generator(image_list(batch), self._levels(batch, features))
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
        outputs = self._head(levels)
        anchors = self.detector.anchor_generator(image_list(batch), self._levels(batch, features))
        return features, outputs, anchors, [level.shape[-2] * level.shape[-1] for level in levels]

    def _strides(self) -> dict[str, int]:
        """SSD with VGG has convolutions without padding, whose maps are no even part of an image: it has a table."""
        steps = getattr(self.detector.anchor_generator, "steps", None)
        return super()._strides() if steps is None else {str(key): step for key, step in enumerate(steps)}

    def _head(self, levels: list[Tensor]) -> dict[str, Tensor]:
        return exact_heads(self.detector.head(levels))

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
        centreness = outputs["bbox_ctrness"].flatten() if "bbox_ctrness" in outputs else None
        return Rows(logits.flatten(0, 1), outputs["bbox_regression"].flatten(0, 1), centreness)

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
            sampled = _hardest(outputs["cls_logits"], labels, detector.neg_to_pos_ratio)
        scores = "softmax" if isinstance(detector, zoo.ssd.SSD) else "sigmoid"
        weights = None if isinstance(detector, zoo.FCOS) else tuple(detector.box_coder.weights)
        return RowTargets(
            labels.flatten(), deltas.reshape(-1, 4).float(), sampled.flatten(), scores, weights, normaliser.float()
        )


def _match(matcher: object, boxes: Tensor, anchors: Tensor) -> Tensor:
    if not len(boxes):
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    return matcher(box_iou(boxes, anchors))


def _assigned(batch: DetectionBatch, matched: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row [N, A] its box (the anchor itself where it has none, so that all is finite) and its label."""
    first = filled([0, *itertools.accumulate(map(len, batch.boxes[:-1]))], matched)[:, None]
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
