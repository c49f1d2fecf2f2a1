"""Two-stage detectors of torchvision: Faster R-CNN, in any of its forms with boxes alone."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision.models import detection as zoo

from kdscope.detection.adapter.base import Adapter, Step, Targets, exact_heads, image_list, targets_of
from kdscope.detection.batch import PROPOSED, DetectionBatch, DetectionFeatures, Rows, RowTargets


class TwoStage(Adapter):
    """Faster R-CNN: "rpn" are its anchors, "roi" the proposals that its second stage sampled for training."""

    heads = ("rpn", "roi")

    def learn(self, batch: DetectionBatch) -> Step:
        features, targets = self.features(batch), targets_of(batch)
        rpn, proposals, rpn_goals, rpn_losses = self._propose(batch, features, targets)
        proposals, labels, deltas, roi_goals = self._sampled(proposals, targets)
        logits, boxes = self._ask(batch, features, proposals)
        losses = dict(
            zip(
                ("loss_classifier", "loss_box_reg"),
                zoo.roi_heads.fastrcnn_loss(logits, boxes, labels, deltas),
                strict=True,
            )
        )
        rows = {"rpn": rpn, "roi": _roi_rows(logits, boxes)}
        said = DetectionFeatures(self.maps(features), rows, losses | rpn_losses)
        known = replace(batch, targets={"rpn": rpn_goals, "roi": roi_goals})
        return Step(said, known, proposals, outputs=features)

    def learn_proposed(self, step: Step, proposals: Sequence[Tensor]) -> Step:
        """`step` with the rows PROPOSED, too: of a teacher's `proposals`, a sample that this detector's own rule draws.

        They get boxes and labels by that rule, as its own do, and the boxes themselves are among them. The detector's
        losses are not of them, and they move no batch statistic.
        """
        sampled, _, _, goals = self._sampled(list(proposals), targets_of(step.batch))
        with _still(self.detector.roi_heads):
            rows = _roi_rows(*self._ask(step.batch, step.outputs, sampled))
        said = replace(step.features, rows={**step.features.rows, PROPOSED: rows})
        known = replace(step.batch, targets={**step.batch.targets, PROPOSED: goals})
        return replace(step, features=said, batch=known, proposed=sampled)

    def rows(
        self,
        features: dict[str, Tensor],
        batch: DetectionBatch,
        heads: Sequence[str],
        proposals: Mapping[str, Sequence[Tensor]],
    ) -> dict[str, Rows]:
        found = {}
        if "rpn" in heads:
            found["rpn"] = Rows(*self._first_stage(features)[:2])
        for head in ("roi", PROPOSED):
            if head in heads:
                found[head] = _roi_rows(*self._ask(batch, features, list(proposals[head])))
        return found

    def propose(self, features: dict[str, Tensor], batch: DetectionBatch) -> list[Tensor]:
        """What the first stage proposes in eval mode, of each image [n, 4] in pixels of the padded frame."""
        objectness, deltas, counts = self._first_stage(features)
        return self._decoded(batch, objectness, deltas, self._anchors(batch, features), counts)

    def anchors(self, batch: DetectionBatch) -> Tensor:
        return self.detector.rpn.anchor_generator(image_list(batch), self._levels(batch))[0]

    def detections(
        self, features: dict[str, Tensor], batch: DetectionBatch, originals: Sequence[tuple[int, int]]
    ) -> Targets:
        heads, sizes, proposals = self.detector.roi_heads, list(batch.sizes), self.propose(features, batch)
        parts = heads.postprocess_detections(*self._ask(batch, features, proposals), proposals, sizes)
        found = [dict(zip(("boxes", "scores", "labels"), one, strict=True)) for one in zip(*parts, strict=True)]
        return self.detector.transform.postprocess(found, sizes, list(originals))

    def _propose(
        self, batch: DetectionBatch, features: dict[str, Tensor], targets: Targets
    ) -> tuple[Rows, list[Tensor], RowTargets, dict[str, Tensor]]:
        """The first stage: its rows, the proposals that are left, its targets and its losses."""
        rpn = self.detector.rpn
        objectness, deltas, counts = self._first_stage(features)
        anchors = self._anchors(batch, features)
        proposals = self._decoded(batch, objectness, deltas, anchors, counts)
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
        return Rows(objectness, deltas), proposals, known, losses

    def _first_stage(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, list[int]]:
        """Objectness [N * A, 1] and deltas [N * A, 4] of all anchors, and how many of an image are of each level."""
        objectness, deltas = exact_heads(self.detector.rpn.head(list(features.values())))
        counts = [level[0].numel() for level in objectness]
        return *zoo.rpn.concat_box_prediction_layers(objectness, deltas), counts

    def _anchors(self, batch: DetectionBatch, features: dict[str, Tensor]) -> list[Tensor]:
        return self.detector.rpn.anchor_generator(image_list(batch), self._levels(batch, features))

    def _decoded(
        self, batch: DetectionBatch, objectness: Tensor, deltas: Tensor, anchors: list[Tensor], counts: list[int]
    ) -> list[Tensor]:
        """The boxes of an image that are left after suppression, [n, 4]."""
        rpn = self.detector.rpn
        boxes = rpn.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        return rpn.filter_proposals(boxes, objectness, batch.sizes, counts)[0]

    def _sampled(
        self, proposals: list[Tensor], targets: Targets
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], RowTargets]:
        """The proposals of each image that the second stage draws for training, their labels and deltas; and of all."""
        heads = self.detector.roi_heads
        proposals, _, labels, deltas = heads.select_training_samples(proposals, targets)
        all_labels, weights = torch.cat(labels), tuple(heads.box_coder.weights)
        every = torch.ones_like(all_labels, dtype=torch.bool)
        goals = RowTargets(all_labels, _positive(deltas, all_labels), every, "softmax", weights, float(len(all_labels)))
        return proposals, labels, deltas, goals

    def _ask(
        self, batch: DetectionBatch, features: dict[str, Tensor], proposals: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        heads = self.detector.roi_heads
        pooled = heads.box_roi_pool(features, proposals, list(batch.sizes))
        logits, deltas = exact_heads(heads.box_predictor(heads.box_head(pooled)))
        return logits, deltas


@contextlib.contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Batch norms that learn normalise by the batch, as ever, and keep their running statistics as they are."""
    norms = [m for m in module.modules() if getattr(m, "track_running_stats", False)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _positive(deltas: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Targets of rows with an object; of the others zero, for the logarithm of no box's size is infinite."""
    return torch.where((labels > 0)[:, None], torch.cat(list(deltas)).float(), 0)


def _roi_rows(logits: Tensor, deltas: Tensor) -> Rows:
    return Rows(logits, deltas.view(len(deltas), -1, 4))
