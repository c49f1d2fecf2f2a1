"""Cross-entropy with the labels: a network trained alone, and the hard part of most distillation methods."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import exact
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
        no_number = isinstance(label_smoothing, bool) or not isinstance(label_smoothing, int | float)
        if no_number or not 0 <= label_smoothing < 1:
            raise KDScopeError(f"term 'cross-entropy': label_smoothing must be in [0, 1), not {label_smoothing!r}")
        self.label_smoothing = label_smoothing

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        return cross_entropy(exact(student.logits), batch.label, label_smoothing=self.label_smoothing)


METHODS.register("none")(
    Method(
        terms={CrossEntropy: 1.0},
        title="Training without a teacher",
        citation="cross-entropy alone",
        family="baseline",
        transfers="nothing",
        equation="CE(z_s, y)",
        reference="CIFAR-100, last epoch of 240: ResNet-20 69.06, ResNet-32 71.14, ResNet-8x4 72.50, WRN-16-2 73.26, "
        "WRN-40-1 71.98, VGG-8 70.36, MobileNetV2 64.60, ShuffleNetV1 70.50, ShuffleNetV2 71.82 (Tian et al., ICLR "
        "2020)",
    )
)

METHODS.register("label-smoothing")(
    Method(
        terms={CrossEntropy: 1.0},
        settings={"cross-entropy": {"label_smoothing": 0.1}},
        title="Label smoothing",
        citation="Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, CVPR 2016, arXiv:1512.00567",
        family="baseline",
        transfers="nothing: the soft part of the target is uniform (a control for what soft targets alone do)",
        equation="CE(z_s, (1 - e) onehot(y) + e / C), e = 0.1",
        departures="None from the paper: e is spread over all C classes, the right one among them. The code of "
        "Yuan et al. (CVPR 2020) spreads its alpha over the C - 1 others: that is e = alpha C / (C - 1) here",
    )
)
