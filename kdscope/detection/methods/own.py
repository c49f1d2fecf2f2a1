"""The losses of the detector itself, which every objective holds: what the ground truth says, without a teacher."""

from torch import Tensor

from kdscope.detection.batch import DetectionBatch, DetectionFeatures
from kdscope.detection.methods.term import DetectionTerm
from kdscope.errors import KDScopeError
from kdscope.methods.checks import weights
from kdscope.methods.shapes import exact

CLASSIFICATION = ("loss_classifier", "loss_objectness", "classification")  # torchvision's names, of all families
REGRESSION = ("loss_box_reg", "loss_rpn_box_reg", "bbox_regression")


class DetectorLoss(DetectionTerm):
    """The student's own losses, by part; classification and regression can be weighed by themselves.

    `classification` is the mu of Chen et al. (NeurIPS 2017), the share of the hard labels beside the soft ones. A loss
    that is neither of the two (the centreness of FCOS, or one of a user's own) keeps the weight 1; a weight that none
    of the student's losses would have is an error.

    >>> import torch
    >>> student = DetectionFeatures({}, losses={"classification": torch.tensor(2.0), "bbox_ctrness": torch.tensor(1.0)})
    >>> {part: float(value) for part, value in DetectorLoss(classification=0.5)(student, None, None).items()}
    {'classification': 1.0, 'bbox_ctrness': 1.0}
    """

    name = "detection"
    reads = "labels"
    summary = "the detector's own losses"

    def __init__(self, classification: float = 1.0, regression: float = 1.0):
        super().__init__()
        self.classification, self.regression = weights(self.name, classification=classification, regression=regression)

    def build(self, student: DetectionFeatures, teacher: DetectionFeatures | None) -> None:
        self.parts = tuple(student.losses)
        for setting, known in (("classification", CLASSIFICATION), ("regression", REGRESSION)):
            if getattr(self, setting) != 1 and not set(known) & set(self.parts):
                raise KDScopeError(
                    f"term {self.name!r}: {setting}={getattr(self, setting)} weighs none of the student's losses "
                    f"({', '.join(self.parts)}), which would have to be called {known[-1]!r}; leave it at 1"
                )

    def forward(
        self, student: DetectionFeatures, teacher: DetectionFeatures | None, batch: DetectionBatch
    ) -> dict[str, Tensor]:
        return {part: self._weight(part) * exact(loss) for part, loss in student.losses.items()}

    def _weight(self, part: str) -> float:
        if part in CLASSIFICATION:
            return self.classification
        return self.regression if part in REGRESSION else 1.0
