"""The strongest directions of a feature map: its right singular vectors, with a gradient that is finite everywhere.

A map [C, H, W] is a matrix X [H W, C] of one row for each place; its right singular vectors v_j are the directions in
channel space that most of it lies along (Lee, Kim & Song, ECCV 2018, section 3.1). The gradient that PyTorch has for
the decomposition divides by the gaps of all pairs of singular values, and is not finite where two are equal or zero,
as in a map of low rank. Of the chosen v_j only their own gaps matter. First order perturbation of A = X^T X gives

    dv_j = sum_{i != j} v_i (v_i . dA v_j) / (lambda_j - lambda_i),    d sigma_j = v_j . dA v_j / (2 sigma_j).
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from kdscope.methods.shapes import exact


def top_right_vectors(feature_map: Tensor, k: int = 1, sign_fix: bool = True) -> tuple[Tensor, Tensor]:
    """The k largest singular values [B, k] of each image's map and their right singular vectors [B, C, k].

    Values fall; vectors have unit length and a non-negative sum, which makes the first one of a non-negative map
    non-negative everywhere. Directions that the map does not have (zero maps, low rank) are zero vectors. Both outputs
    are differentiable; directions within the rounding error of each other's singular value do not turn into each other.

    Computed in float32 (float64 stays float64), from the eigenvectors of the smaller of X^T X and X X^T. NaN in, NaN
    out. On CUDA the eigensolver waits for the device once.

    Args:
        feature_map: [B, C, H, W].
        k: how many, at least 1; beyond min(C, H W) zeros follow.
        sign_fix: with False vectors have the sign that the eigensolver gave them, which means nothing.

    >>> front = torch.zeros(1, 2, 1, 3)
    >>> front[0, 0, 0, 0], front[0, 1, 0, 1] = 3.0, -2.0
    >>> values, vectors = top_right_vectors(front, k=2)
    >>> values[0].tolist(), vectors[0].tolist()
    ([3.0, 2.0], [[1.0, 0.0], [0.0, 1.0]])
    """
    x = exact(feature_map).flatten(2).mT  # [B, N, C]
    fixed = x.detach()
    wide = x.shape[1] < x.shape[2]
    gram = fixed @ fixed.mT if wide else fixed.mT @ fixed
    values, basis = torch.linalg.eigh(gram.nan_to_num())  # rising
    values, basis = values.flip(1), basis.flip(2)
    rounding = (values.shape[1] * torch.finfo(x.dtype).eps * values[:, :1]).clamp_min(torch.finfo(x.dtype).tiny)
    if wide:
        basis = normalize(fixed.mT @ basis, dim=1)
    basis = torch.where((values > rounding)[:, None], basis, 0)  # [B, C, n]
    if sign_fix:
        basis = basis * torch.where(basis.sum(dim=1, keepdim=True) < 0, -1, 1)

    top, squares = basis[:, :, :k], values[:, None, :k]
    gaps = squares - values[:, :, None]  # [B, n, k]
    over_gaps = torch.where(gaps.abs() > rounding[:, None], 1 / gaps, 0)
    over_squares = torch.where(squares > rounding[:, None], 1 / squares, 0)

    moved = x.mT @ (x @ top)
    moved = moved - moved.detach()  # dA v_j: zero, but with the gradient of A v_j
    along = basis.mT @ moved  # [B, n, k]
    beyond = moved - basis @ along  # into the directions that the map does not have, whose eigenvalue is zero
    vectors = top + basis @ (along * over_gaps) + beyond * over_squares
    own = torch.diagonal(along, dim1=1, dim2=2)
    sigma = (squares[:, 0] * (over_squares[:, 0] > 0)).sqrt() + own * (over_squares[:, 0].sqrt() / 2)
    missing = k - top.shape[2]
    return pad(sigma, (0, missing)), pad(vectors, (0, missing))


def align(student_vectors: Tensor, teacher_vectors: Tensor) -> Tensor:
    """For each vector of the teacher, the student's that is most parallel to it, with its sign.

    Singular vectors have no sign, and those of close singular values no order; this gives them the teacher's.

    Args:
        student_vectors: [B, C, m], candidates.
        teacher_vectors: [B, C, k], or one vector for each image, [B, C].

    Returns:
        Of the shape of `teacher_vectors`; the inner product with it is >= 0.

    >>> align(torch.eye(3)[None], torch.tensor([[0.0, -1.0, 0.0]])) + 0.0
    tensor([[ 0., -1.,  0.]])
    """
    targets = teacher_vectors[:, :, None] if teacher_vectors.dim() == 2 else teacher_vectors
    parallel = (student_vectors.mT @ targets).detach()  # [B, m, k]
    best = parallel.abs().argmax(dim=1, keepdim=True)  # [B, 1, k]
    sign = torch.where(parallel.gather(1, best) < 0, -1, 1)
    chosen = student_vectors.gather(2, best.expand(-1, student_vectors.shape[1], -1)) * sign
    return chosen.reshape(teacher_vectors.shape)
