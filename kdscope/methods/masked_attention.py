"""What causal attention transfer compares: attention maps under a mask, with the partner's and with those of others.

Q = sum_c A_c^2 is the attention map of a layer (Zagoruyko & Komodakis, ICLR 2017), M a mask of each image. A student is
drawn to its teacher's masked map, and by InfoNCE (van den Oord et al., 2018, arXiv:1807.03748) to it more than to those
of the other images of the batch. Under which mask two images are compared decides what that contrast can be won by.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from kdscope.attention.activation import activation_map
from kdscope.errors import KDScopeError, unknown
from kdscope.methods.gram import like, unit
from kdscope.methods.shapes import to_grid

ALIGN_MASKS = ("pair", "none", "own")
TINY = 1e-12


def attention_maps(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Q_S and Q_T [B, h, w] of two feature maps [B, C, H, W]; the finer Q (not A) is averaged to the coarser's grid.

    >>> s, t = attention_maps(torch.ones(1, 2, 4, 4), torch.full((1, 3, 2, 2), 2.0))
    >>> s.flatten().tolist(), t.flatten().tolist()
    ([2.0, 2.0, 2.0, 2.0], [12.0, 12.0, 12.0, 12.0])
    """
    student, teacher = activation_map(student_map), activation_map(teacher_map)
    grid = tuple(min(sizes) for sizes in zip(student.shape[1:], teacher.shape[1:], strict=True))
    return to_grid(student[:, None], grid)[:, 0], to_grid(teacher[:, None], grid)[:, 0]


def masked_attention_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """mean_{B,hw} (q_S - q_T)^2 with q_X = vec(M Q_X) / ||vec(M Q_X)||_2, the same mask on both; in [0, 2 / (h w)].

    Args:
        student, teacher: attention maps Q [B, h, w], at least 0. Without a mask this is the loss of `at`.
        mask: M [B, h, w]; None is 1 everywhere.

    >>> q_s, q_t = torch.ones(1, 2, 2), torch.tensor([[[4.0, 0.0], [0.0, 0.0]]])
    >>> float(masked_attention_loss(q_s, q_t)), float(masked_attention_loss(q_s, q_t, q_t / 4))
    (0.25, 0.0)
    """
    if mask is not None:
        student, teacher = student * mask, teacher * mask
    difference = normalize(student.flatten(1), dim=1, eps=TINY) - normalize(teacher.flatten(1), dim=1, eps=TINY)
    return difference.square().mean()


def alignment_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    align_mask: str = "pair",
    temperature: float = 0.1,
    center: bool = True,
    labels: Tensor | None = None,
) -> Tensor:
    """InfoNCE -mean_i log softmax_j(s_ij / tau)_i: of all the teacher's maps, image i's student must find that of i.

    Args:
        student, teacher: attention maps Q [B, h, w], at least 0; B identical ones give ln B.
        mask: M [B, h, w]; None compares without one.
        align_mask: `pair`, s_ij = cos(M_j Q_S,i, M_j Q_T,j): both under the mask of the teacher's image; `none`,
            cos(Q_S,i, Q_T,j); `own`, cos(M_i Q_S,i, M_j Q_T,j), each under its own, which leaks: the two sides of a
            pair share their zeros, so that maps that have nothing to do with each other find their partners. The
            last is there to show that.
        temperature: tau.
        center: compare sqrt(Q) less its mean over places; maps that are nowhere negative are all alike without it.
        labels: int64 [B], to leave out other images of the same class; None keeps all as negatives.

    >>> one_hot = torch.eye(4).reshape(4, 2, 2)
    >>> round(float(alignment_loss(one_hot, one_hot, temperature=1.0, center=False)), 6)  # ln(1 + 3 / e)
    0.743668
    """
    scores = similarities(student, teacher, mask, align_mask, center) / temperature
    own = torch.arange(len(scores), device=scores.device)
    if labels is not None:
        same = (labels[:, None] == labels) & (own[:, None] != own)
        scores = scores.masked_fill(same, float("-inf"))
    return like(cross_entropy(scores, own), student)


def similarities(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, align_mask: str = "pair", center: bool = True
) -> Tensor:
    """s_ij in [-1, 1]: float64 [B, B], of student i (rows) and teacher j (columns); as in `alignment_loss`.

    `pair` takes three matrix products, (S (M^2 T)^T)_ij / sqrt((S^2 (M^2)^T)_ij) / ||M_j T_j||, and never B^2 masked
    maps. Like all relations here it is in float64, whatever precision of matrix products is set.
    """
    if align_mask not in ALIGN_MASKS:
        raise unknown("align_mask", align_mask, ALIGN_MASKS, "term 'cakd'")
    if student.shape != teacher.shape or (mask is not None and mask.shape != student.shape):
        raise KDScopeError(
            f"attention maps {list(student.shape)}, {list(teacher.shape)} and mask "
            f"{None if mask is None else list(mask.shape)} must have one shape [B, h, w]"
        )
    s, t = (unit(_centred(each) if center else each.flatten(1).double()) for each in (student, teacher))
    if mask is None or align_mask == "none":
        return s @ t.T
    m = mask.flatten(1).double()
    if align_mask == "own":
        return unit(m * s) @ unit(m * t).T
    weight = m.square()
    length = (s.square() @ weight.T).clamp_min(TINY**2).sqrt()
    return s @ (weight * t).T / length / (m * t).norm(dim=1).clamp_min(TINY)


def _centred(attention: Tensor) -> Tensor:
    """sqrt(Q) less its mean over places [B, hw]; where Q is 0, the root has no gradient."""
    root = attention.flatten(1).double().clamp_min(TINY).sqrt()
    return root - root.mean(1, keepdim=True)
