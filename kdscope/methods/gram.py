"""Relations between the images of a batch, exact: inner products, cosines and distances, all [B, B] in float64.

Losses of relations subtract numbers that nearly agree. On features that lie far from zero, such as 5 + 0.05 N(0, 1),
distances out of a float32 Gram matrix are wrong by 6e-4, and under bf16 the loss is forty times too large. In float64
nothing is lost, whatever precision of matrix products is set; a [B, B] matrix is cheap beside the networks. Features
keep the dtype that they come in, and so do their gradients; `like` brings a loss back to float32.
"""

import torch
from torch import Tensor

COINCIDENT = 1e-12  # of |f_i|^2 + |f_j|^2: below, float32 features cannot tell two images apart


def like(loss: Tensor, features: Tensor) -> Tensor:
    """A loss in float32, or in float64 where the features are."""
    return loss.to(torch.promote_types(features.dtype, torch.float32))


def gram(features: Tensor) -> Tensor:
    """Inner products f_i . f_j [B, B] of features [B, ...], each image flattened."""
    rows = features.reshape(len(features), -1).double()
    return rows @ rows.T


def unit(rows: Tensor) -> Tensor:
    """Rows [B, D] at length 1; a row of zeros stays one, and has no gradient."""
    squared = rows.square().sum(1, keepdim=True)
    there = squared > 0
    return rows * torch.where(there, squared, 1.0).rsqrt() * there


def cosines(features: Tensor) -> Tensor:
    """Cosine of the angle between each two of the vectors [B, D], in [-1, 1]; 0 with a vector of zeros.

    >>> cosines(torch.tensor([[2.0, 0.0], [3.0, 3.0]]))[0].round(decimals=6).tolist()
    [1.0, 0.707107]
    """
    return gram(unit(features.double()))


def centred_gram(features: Tensor) -> Tensor:
    """Inner products [B, B] of the vectors [B, D] less their mean: distances and angles do not see the difference."""
    rows = features.double()
    return gram(rows - rows.mean(0))


def distances(products: Tensor) -> Tensor:
    """Euclidean distances [B, B] from inner products [B, B]: sqrt(G_ii + G_jj - 2 G_ij).

    Two images that coincide, as each does with itself, are at exactly 0, and have no gradient.

    >>> distances(centred_gram(torch.tensor([[100.0, 0.0], [103.0, 4.0]]))).round(decimals=12).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    size = products.diagonal()
    both = size[:, None] + size
    squared = both - 2 * products
    apart = squared > COINCIDENT * both
    return torch.where(apart, squared, 1.0).sqrt() * apart
