"""Knowledge distillation of logits: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015.

L = (1 - l) CE(z_s, y) + l T^2 KL(softmax(z_t / T) || softmax(z_s / T)), with l = 0.9 and T = 4 as in the comparison of
Tian, Krishnan & Isola (ICLR 2020). KL is summed over classes and averaged over images.
"""

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.features import Features
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.term import Term


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)), averaged over images; in nats, >= 0, zero where the two agree.

    Args:
        student_logits: z_s [B, C].
        teacher_logits: z_t [B, C]; a constant added to all logits of an image changes nothing.
        temperature: T > 0; T^2 keeps the gradient's size when T changes (Hinton et al., section 2.1).

    >>> import math, torch
    >>> z_t = torch.tensor([[4 * math.log(3), 0.0]])
    >>> round(float(kd_loss(torch.zeros(1, 2), z_t)), 4)  # 16 (3/4 ln 3/2 + 1/4 ln 1/2)
    2.093
    """
    student = log_softmax(student_logits / temperature, dim=1)
    return soft_loss(student, log_softmax(teacher_logits / temperature, dim=1), temperature)


def soft_loss(student_log_probs: Tensor, teacher_log_probs: Tensor, temperature: float) -> Tensor:
    """`kd_loss` from log-probabilities [B, C] that are already at temperature T."""
    return temperature**2 * kl_div(student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True)


class KD(Term):
    """The soft part of Hinton's loss; several teachers come as the mean of their probabilities, logits or losses."""

    name = "kd"
    reads = "logits"
    summary = "logits"

    def __init__(self, temperature: float = 4.0):
        super().__init__()
        if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
            raise KDScopeError(f"term 'kd': temperature must be a number above 0, not {temperature!r}")
        self.temperature = float(temperature)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return soft_loss(student.log_probs(self.temperature), teacher.log_probs(self.temperature), self.temperature)


METHODS.register("kd")(
    Method(
        terms={CrossEntropy: 0.1, KD: 0.9},
        title="Knowledge distillation of logits",
        citation="Hinton, Vinyals & Dean, 2015, arXiv:1503.02531",
    )
)
