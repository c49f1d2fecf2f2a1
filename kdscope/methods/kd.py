"""Knowledge distillation of logits: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015.

L = (1 - l) CE(z_s, y) + l T^2 KL(softmax(z_t / T) || softmax(z_s / T)), KL summed over classes, averaged over images.

The field trains several weightings of this one loss under one name; results compare only where they are the same:

| who                                         | CE   | KL   | T  | T^2 | here                                          |
|---------------------------------------------|------|------|----|-----|-----------------------------------------------|
| Tian et al. (ICLR 2020), DKD, AT            | 0.1  | 0.9  | 4  | yes | `kd`                                          |
| Lee & Song (BMVC 2019), the tables of MHGD  | 0.7  | 0.3  | 4  | no  | `kd-mhgd`                                     |
| Ji et al. (AAAI 2021), beside AFD           | 1    | 0.9  | 4  | yes | `kd`, `cross-entropy: {weight: 1}`            |
| Heo et al. (AAAI 2019), second stage of AB  | 0    | 1    | 3  | yes | `kd`, `cross-entropy: {weight: 0}`, weight, T |
"""

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from kdscope.data import Batch
from kdscope.features.features import Features
from kdscope.methods.checks import flag, positive
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.term import Term


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, scale_gradient: bool = True
) -> Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)), averaged over images; in nats, >= 0, zero where the two agree.

    Args:
        student_logits: z_s [B, C].
        teacher_logits: z_t [B, C]; a constant added to all logits of an image changes nothing.
        temperature: T > 0.
        scale_gradient: whether to multiply by T^2, which keeps the gradient's size when T changes (Hinton et al.,
            section 2.1); without it, T = 4 weighs a sixteenth.

    >>> import math, torch
    >>> z_t = torch.tensor([[4 * math.log(3), 0.0]])
    >>> round(float(kd_loss(torch.zeros(1, 2), z_t)), 4)  # 16 (3/4 ln 3/2 + 1/4 ln 1/2)
    2.093
    """
    student = log_softmax(student_logits / temperature, dim=1)
    return soft_loss(student, log_softmax(teacher_logits / temperature, dim=1), temperature if scale_gradient else 1.0)


def soft_loss(student_log_probs: Tensor, teacher_log_probs: Tensor, temperature: float) -> Tensor:
    """`kd_loss` from log-probabilities [B, C] that are already at temperature T; at 1 there is no factor."""
    return temperature**2 * kl_div(student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True)


class KD(Term):
    """The soft part of Hinton's loss; several teachers come as the mean of their probabilities, logits or losses."""

    name = "kd"
    reads = "logits"
    summary = "logits"

    def __init__(self, temperature: float = 4.0, scale_gradient: bool = True):
        super().__init__()
        self.temperature = positive("kd", "temperature", temperature)
        self.scale_gradient = flag("kd", "scale_gradient", scale_gradient)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        factor = self.temperature if self.scale_gradient else 1.0
        return soft_loss(student.log_probs(self.temperature), teacher.log_probs(self.temperature), factor)


METHODS.register("kd")(
    Method(
        terms={CrossEntropy: 0.1, KD: 0.9},
        title="Knowledge distillation of logits",
        citation="Hinton, Vinyals & Dean, 2015, arXiv:1503.02531",
        family="logits",
        transfers="probabilities of all classes, softened by a temperature",
        equation="0.1 CE(z_s, y) + 0.9 T^2 KL(softmax(z_t / T) || softmax(z_s / T)), T = 4",
        reference="CIFAR-100, last epoch, student alone -> KD: ResNet-56 -> ResNet-20 69.06 -> 70.66, ResNet-110 -> "
        "ResNet-32 71.14 -> 73.08, ResNet-32x4 -> ResNet-8x4 72.50 -> 73.33, WRN-40-2 -> WRN-16-2 73.26 -> 74.92, "
        "VGG-13 -> VGG-8 70.36 -> 72.98 (Tian et al., ICLR 2020)",
        departures="None from Tian et al.'s weighting, T = 4. Public code that departs from it: torchdistill's KDLoss "
        "weighs the hard loss by alpha, not the soft one, and drops both T^2 and cross-entropy at alpha = 0; TAKD's "
        "code averages KL over classes too, C times too small",
    )
)

METHODS.register("kd-mhgd")(
    Method(
        terms={CrossEntropy: 0.7, KD: 0.3},
        settings={"kd": {"temperature": 4.0, "scale_gradient": False}},
        title="Knowledge distillation of logits, as in the tables of MHGD",
        citation="Hinton, Vinyals & Dean, 2015, arXiv:1503.02531; weights of Lee & Song, BMVC 2019, arXiv:1907.02226",
        family="logits",
        transfers="probabilities of all classes, softened by a temperature",
        equation="0.7 CE(z_s, y) + 0.3 KL(softmax(z_t / T) || softmax(z_s / T)), T = 4, without T^2",
        reference="CIFAR-100, ResNet-32 -> ResNet-8 of doubled depth, 100 epochs: student 71.76, KD 71.79 (the "
        "authors' code); the soft part weighs 0.3 / 16 of what T^2 would give it, hence a gain of nothing",
        departures="None from that code; as a baseline it understates KD: `kd` is the usual one",
    )
)
