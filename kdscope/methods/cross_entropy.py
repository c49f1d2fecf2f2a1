"""Cross-entropy with the labels: a network trained alone, and the hard part of most distillation methods."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods.method import METHODS, Method
from kdscope.methods.term import Term


class CrossEntropy(Term):
    """-mean_i log p_s(y_i | x_i), in nats; `label_smoothing` in [0, 1) mixes in the uniform distribution.

    >>> import torch
    >>> batch = Batch(None, torch.tensor([0]), None, None)
    >>> round(float(CrossEntropy()(Features(torch.zeros(1, 10)), None, batch)), 4)  # ln 10
    2.3026
    """

    name = "cross-entropy"
    reads = "labels"
    summary = "labels"

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing < 1:
            raise KDScopeError(f"term 'cross-entropy': label_smoothing must be in [0, 1), not {label_smoothing!r}")
        self.label_smoothing = label_smoothing

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        return cross_entropy(student.logits.float(), batch.label, label_smoothing=self.label_smoothing)


METHODS.register("none")(
    Method(terms={CrossEntropy: 1.0}, title="Training without a teacher", citation="cross-entropy alone")
)
