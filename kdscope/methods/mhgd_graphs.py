"""The graphs that MHGD and its controls hand from teacher to student: everything else is the same in all of them.

Is it the learned graph that helps? Each source below takes its place, with the sharpness of the graph that it stands
for, so that compression, alignment, divergence and the rule for gradients stay as they are:

| arm | how it is run | what it answers |
|-----|---------------|-----------------|
| C0  | `--method none` | the student alone |
| C1  | `--method mhgd` | the method |
| C2  | `terms.mhgd.graph=untrained` | must the attention be trained? (no first phase; batch norm knows the data) |
| C3  | `graph=random`, `graph=random-fixed` | does any target do? anew in each step; one number for a pair of images |
| C4  | `graph=constant` | is it smoothing? every image is related to all alike |
| C5  | `graph=shuffled` | is it who is related to whom? rows and columns in another order |
| C6  | `graph=identity`, `graph=label` | do labels alone do it? |
| C7  | `graph=cosine` | is attention better than plain similarity? cosines of the vectors, of both networks |
| C8  | `--method kd-svd`, and with `terms.kd-svd.variant=vectors` | relations within an image; no relations |
| C9  | `gradients=noise-matched` | is it just a noisier step? |
| C10 | `gradients=lr-matched` | is it just a larger step? |
| C11 | `gradients=sum` with `terms.mhgd.weight`, `kl_reduction=batchmean`; `--method mhgd-paper` | is it clipping? |
| C12 | `terms.mhgd.heads=1`, `tanh=false`, `kl_direction=teacher-student` | ablations |
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kdscope.data import chance

GRAPHS = (
    *("trained", "untrained", "random", "random-fixed", "constant"),
    *("shuffled", "identity", "label", "cosine"),
)
HALVINGS = 40  # of the interval in which a sharpness is sought
SHARPEST = 40.0  # a softmax of that is one-hot in float32
IMAGES = 1 << 27  # more than a data set has; pairs and heads must have numbers of their own below 2^63


def targets(
    graph: str,
    student: Tensor,
    teacher: Tensor,
    vectors: tuple[Tensor, Tensor],
    label: Tensor,
    index: Tensor,
    pair: int = 0,
    bound: Callable[[Tensor], Tensor] = torch.tanh,
) -> tuple[Tensor, Tensor]:
    """The bounded scores of student and teacher [A, N, N] of a source; their softmax over the last axis is the graph.

    Args:
        graph: one of GRAPHS.
        student, teacher: the scores [A, N, N] that the attention heads give of both.
        vectors: those of student and teacher behind the pair of layers, [N, C] each.
        label, index: of the images, int64 [N].
        pair: number of the pair of layers.
        bound: what is done to scores before the softmax.

    >>> S = torch.randn(2, 3, 3)
    >>> ours, theirs = targets("constant", S, S, (S[0], S[0]), torch.arange(3), torch.arange(3))
    >>> theirs.softmax(dim=2)[0, 0], ours.equal(S.tanh())
    (tensor([0.3333, 0.3333, 0.3333]), True)
    """
    if graph == "cosine":
        ours, theirs = (cosines(each) for each in vectors)
        scale = (deviation(teacher) / deviation(theirs).clamp_min(1e-12)).detach()
        return bound(scale * ours), bound(scale * theirs)
    if graph in ("identity", "label"):
        same = label[:, None] == label if graph == "label" else torch.eye(len(label), device=label.device).bool()
        wanted = entropy(bound(teacher).double())  # of a nearly even graph it is ln N less what float32 rounds away
        return bound(student), alike(same, wanted).to(teacher)
    if graph == "random":
        teacher = torch.randn_like(teacher) * deviation(teacher)
    elif graph == "random-fixed":
        teacher = noise_of_pairs(index, len(teacher), pair).to(teacher) * deviation(teacher)
    elif graph == "constant":
        teacher = torch.zeros_like(teacher)
    elif graph == "shuffled":
        order = torch.randperm(len(label), device=label.device)
        teacher = teacher[:, order][:, :, order]
    return bound(student), bound(teacher)


def deviation(scores: Tensor) -> Tensor:
    """Standard deviation [A, 1, 1] of each head's scores [A, N, N]."""
    return scores.std(dim=(1, 2), keepdim=True, correction=0)


def cosines(vectors: Tensor) -> Tensor:
    """Cosines [1, N, N] of vectors [N, C] with one another."""
    unit = normalize(vectors, dim=1)
    return (unit @ unit.mT)[None]


def entropy(scores: Tensor) -> Tensor:
    """Mean entropy [A] of the rows of softmax(scores), scores [A, N, N]; nat, in [0, ln N]."""
    logs = scores.log_softmax(dim=2)
    return -(logs.exp() * logs).sum(dim=2).mean(dim=1)


def alike(same: Tensor, wanted: Tensor) -> Tensor:
    """Scores c_a 1[same], [A, N, N], whose softmax has rows of a wanted mean entropy.

    Where `same` cannot be so sharp (an image has many of its class), it is as sharp as it can be.

    Args:
        same: bool [N, N], true on the diagonal.
        wanted: mean entropy of the rows for each head, [A], in nat.

    >>> found = alike(torch.eye(4).bool(), torch.tensor([0.5, 1.0]))
    >>> entropy(found)
    tensor([0.5000, 1.0000])
    """
    count = same.sum(dim=1).double()  # of a row, and the rest has score 0
    low = torch.zeros_like(wanted, dtype=torch.float64)
    high = torch.full_like(low, SHARPEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        raised = middle.exp()[:, None] * count
        total = raised + (len(same) - count)
        found = (total.log() - raised / total * middle[:, None]).mean(dim=1)
        blunt = found > wanted
        low, high = torch.where(blunt, middle, low), torch.where(blunt, high, middle)
    return ((low + high) / 2).to(wanted)[:, None, None] * same


def noise_of_pairs(index: Tensor, heads: int, pair: int = 0) -> Tensor:
    """Standard normal numbers [A, N, N], float64, a function of the indices of two images: the same whenever they meet.

    >>> whole = noise_of_pairs(torch.tensor([3, 7, 8]), heads=2)
    >>> whole[:, 1:, 1:].equal(noise_of_pairs(torch.tensor([7, 8]), heads=2))
    True
    """
    head = torch.arange(heads, device=index.device)[:, None, None]
    number = (head * IMAGES + index[:, None]) * IMAGES + index
    even = chance.uniform(pair, 0, number, "mhgd-graph")
    return (2 * even + 2.0**-53 - 1).erfinv() * 2**0.5
