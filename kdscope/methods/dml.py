"""Deep mutual learning: Zhang, Xiang, Hospedales & Lu, CVPR 2018.

K untrained networks learn together. Each has the labels and the mean of the others as its teacher:
L_k = CE(z_k, y) + 1 / (K - 1) sum_(l != k) KL(p_l || p_k), p = softmax(z).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from kdscope.data import Batch
from kdscope.features.features import Features
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.kd import soft_loss
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import exact
from kdscope.methods.term import Term


def mutual_loss(logits: Sequence[Tensor]) -> Tensor:
    """sum_k 1 / (K - 1) sum_(l != k) KL(p_l || p_k), averaged over images; in nats, >= 0, zero where all agree.

    Args:
        logits: z_k [B, C] of each of K >= 2 networks. Through KL(p_l || p_k) only network k gets a gradient.

    >>> import math
    >>> z = [torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])]
    >>> round(float(mutual_loss(z)), 6)  # (3/4 ln 3/2 + 1/4 ln 1/2) + (1/2 ln 2/3 + 1/2 ln 2)
    0.274653
    """
    log_probs = [log_softmax(z, dim=1) for z in logits]
    pairs = [
        soft_loss(student, teacher.detach(), 1.0)
        for k, student in enumerate(log_probs)
        for j, teacher in enumerate(log_probs)
        if j != k
    ]
    return torch.stack(pairs).sum() / (len(log_probs) - 1)


class MutualLearning(Term):
    """All of the peers' losses, and the student's but for its cross-entropy, which is a term of its own.

    No parameter of one network lies behind another's loss, so their sum gives each network the gradient of its own.
    The peers weigh as much as the student only where this term and the cross-entropy have the same weight.
    """

    name = "dml"
    reads = "peers"
    summary = "logits of peers"

    def forward(self, student: Features, teacher: Sequence[Features], batch: Batch) -> Tensor:
        peers = [exact(peer.logits) for peer in teacher]
        labels = torch.stack([cross_entropy(z, batch.label) for z in peers]).sum()
        return labels + mutual_loss([exact(student.logits), *peers])


METHODS.register("dml")(
    Method(
        terms={CrossEntropy: 1.0, MutualLearning: 1.0},
        title="Deep mutual learning",
        citation="Zhang, Xiang, Hospedales & Lu, CVPR 2018, arXiv:1706.00384",
        family="logits",
        transfers="probabilities of all classes, among networks that learn together",
        equation="sum_k CE(z_k, y) + 1 / (K - 1) sum_(l != k) KL(softmax(z_l) || softmax(z_k))",
        reference="CIFAR-100, ResNet-8 of doubled depth beside ResNet-32, 100 epochs, last epoch: student alone 71.76, "
        "KD 71.79, DML 73.27 (the code of Lee & Song, BMVC 2019)",
        departures="All networks step at once on the same predictions; the paper updates them in turn, each on the "
        "others' newest predictions, which costs a forward pass more for each",
        cost="Peers are trained too: forward and backward passes of all K networks.",
        peers=1,
    )
)
