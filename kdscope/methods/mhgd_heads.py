"""The attention network of MHGD: Lee & Song, "Graph-based Knowledge Distillation by Multi-head Attention Network", BMVC
2019, arXiv:1907.02226, section 3.2.

A batch of N images has for each image one vector in front of some layers of the teacher, v_F, and one behind them, v_B.
Each of A heads scores every pair of images, S_a[i, j] = theta_a(v_B,i) . phi_a(v_F,j): a graph of the batch. What it
learns from is that the vectors behind can be estimated from those in front along the edges of the graph.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, linear, normalize


class AttentionHeads(nn.Module):
    """Scores [A, N, N] of the images of a batch: row i is the image behind, column j the one in front.

    theta and phi are linear maps without bias into `heads` x (C_F + C_B) // 2 numbers, with batch norm; there is no
    division by the root of their number.
    """

    def __init__(self, front: int, back: int, heads: int = 8):
        super().__init__()
        self.heads, width = heads, heads * ((front + back) // 2)
        self.key, self.key_norm = _linear(back, width), nn.BatchNorm1d(width)
        self.query, self.query_norm = _linear(front, width), nn.BatchNorm1d(width)

    def keys(self, back: Tensor) -> Tensor:
        """theta [N, A, D] of vectors [N, C_B]."""
        return self.key_norm(self.key(back)).unflatten(1, (self.heads, -1))

    def queries(self, front: Tensor) -> Tensor:
        """phi [N, A, D] of vectors [N, C_F]."""
        return self.query_norm(self.query(front)).unflatten(1, (self.heads, -1))

    def forward(self, front: Tensor, back: Tensor) -> Tensor:
        return scores(self.keys(back), self.queries(front))

    @torch.no_grad()
    def calibrate(self, front: "Moments", back: "Moments") -> None:
        """Give the batch norms the statistics that the vectors of a whole data set have behind the linear maps."""
        for layer, norm, (mean, covariance) in (
            (self.key, self.key_norm, back),
            (self.query, self.query_norm, front),
        ):
            norm.running_mean.copy_(linear(mean.to(layer.weight), layer.weight))
            spread = (layer.weight @ covariance.to(layer.weight)) * layer.weight
            norm.running_var.copy_(spread.sum(dim=1).clamp_min(0))


Moments = tuple[Tensor, Tensor]  # mean [C] and covariance [C, C] of vectors


def scores(keys: Tensor, queries: Tensor) -> Tensor:
    """S [A, N, N] = theta . phi of keys [N, A, D] (rows) and queries [N, A, D] (columns).

    >>> scores(torch.eye(2)[:, None], torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]))
    tensor([[[1., 3.],
             [2., 4.]]])
    """
    return torch.einsum("iad,jad->aij", keys, queries)


class Estimator(nn.Module):
    """The vectors behind, [N, C_B] of unit length, from those in front and a graph: f_2(concat_a G_a f_1(v_F))."""

    def __init__(self, front: int, back: int, heads: int = 8):
        super().__init__()
        width = (front + back) // 2
        self.embed = nn.Sequential(_linear(front, width), nn.BatchNorm1d(width), nn.ReLU())
        self.out = _linear(heads * width, back, bias=True)

    def forward(self, front: Tensor, graph: Tensor) -> Tensor:
        gathered = graph @ self.embed(front)  # [A, N, D]
        return normalize(self.out(gathered.transpose(0, 1).flatten(1)), dim=1)


def drop_heads(graph: Tensor, noise: Tensor) -> Tensor:
    """A graph [A, N, N] of which each image keeps the heads whose noise [A, N, 1] is above its mean over heads.

    About half of them, at least one, and none is scaled up for those that are gone. A single head is always kept: its
    noise is its own mean, and so the rule by itself (and the authors' code) would drop it for every image and leave it
    no gradient.

    >>> drop_heads(torch.ones(2, 1, 1), torch.tensor([[[0.5]], [[0.1]]])).flatten().tolist()
    [1.0, 0.0]
    >>> drop_heads(torch.ones(1, 1, 1), torch.tensor([[[0.5]]])).flatten().tolist()
    [1.0]
    """
    return graph if len(graph) == 1 else graph * (noise > noise.mean(dim=0, keepdim=True))


def estimation_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """L_MHAN of one pair of layers: the mean of 1 - cosine of vectors [N, C], in [0, 2].

    The paper prints the similarity itself as the loss; the authors' code has this.

    >>> float(estimation_loss(torch.eye(2), torch.eye(2))), float(estimation_loss(torch.eye(2), torch.eye(2).flip(0)))
    (0.0, 1.0)
    """
    return (1 - cosine_similarity(estimate, target, dim=1)).mean()


def moments(vectors: Tensor) -> Moments:
    """Mean [C] and covariance [C, C] of vectors [N, C], in float64.

    >>> moments(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))[1].tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    vectors = vectors.double()
    mean = vectors.mean(dim=0)
    centred = vectors - mean
    return mean, centred.mT @ centred / len(vectors)


def _linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    """As the authors' code begins: normal, of variance 2.6 / outputs before it is cut off at two deviations."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    deviation = math.sqrt(2.6 / outputs)
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
