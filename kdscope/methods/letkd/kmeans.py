"""K-means of many points: Lloyd's iterations in chunks of bounded memory, or scikit-learn's mini-batches.

Public code of letKD runs 20 iterations from random points, once (faiss). With 3.2 million points of 64 channels and
4,096 clusters an iteration is 1.7 * 10^12 operations; a table of all distances would take 52 GB and is never made.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdscope.errors import KDScopeError, unknown

CHUNK_BYTES = 2**27  # of distances at a time
CLUSTERINGS = ("lloyd", "minibatch")


@dataclass(frozen=True)
class Clusters:
    """Attributes: centres [K, D]; index int64 [N], each point's cluster, none empty; inertia after each step."""

    centres: Tensor
    index: Tensor
    inertia: tuple[float, ...]


def kmeans(points: Tensor, count: int, how: str = "lloyd", iterations: int = 20, restarts: int = 1) -> Clusters:
    """Clusters of points [N, D]; random numbers are torch's.

    Args:
        how: "lloyd", or "minibatch" (scikit-learn's `MiniBatchKMeans`, on the host: faster, a few percent worse).
        iterations: of Lloyd, at most; it stops when nothing changes.
        restarts: of Lloyd; the lowest inertia (sum of squared distances) is kept.

    Raises:
        KDScopeError: fewer points than clusters; an unknown `how`.
    """
    if count > len(points):
        raise KDScopeError(f"{len(points)} points cannot make {count} clusters")
    if how not in CLUSTERINGS:
        raise unknown("clustering", how, CLUSTERINGS)
    if how == "minibatch":
        return _minibatch(points, count)
    return min((lloyd(points, count, iterations) for _ in range(restarts)), key=lambda found: found.inertia[-1])


def lloyd(points: Tensor, count: int, iterations: int = 20, start: Tensor | None = None) -> Clusters:
    """Lloyd's algorithm from random points, or from `start` [K, D]. A cluster that is empty takes the point that is
    farthest from its centre, one from each cluster that can spare it: inertia never rises.

    >>> found = lloyd(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), 2, start=torch.tensor([[0.0], [1.0]]))
    >>> found.centres.flatten().tolist(), found.inertia[-1]
    ([0.5, 10.5], 1.0)
    """
    centres = points[torch.randperm(len(points))[:count].to(points.device)] if start is None else start
    inertia: list[float] = []
    index = torch.full((len(points),), -1, device=points.device)
    for _ in range(iterations):
        before = index
        index, distance = nearest(points, centres)
        index = _filled(index, distance, count)
        centres = means(points, index, count)
        inertia.append(_inertia(points, index, centres))
        if torch.equal(before, index):
            break
    return Clusters(centres, index, tuple(inertia))


def nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each point (int64 [N]) and the squared distance to it [N], in chunks of bounded memory.

    >>> nearest(torch.tensor([[1.0], [8.0]]), torch.tensor([[0.0], [10.0]]))
    (tensor([0, 1]), tensor([1., 4.]))
    """
    middle = centres.mean(0)  # far from zero, the differences of squares would be rounded away
    centres = centres - middle
    squares = centres.square().sum(1)
    index, distance = [], []
    for chunk in _chunks(points, len(centres)):
        chunk = chunk - middle
        value, at = torch.addmm(squares, chunk, centres.T, alpha=-2).min(1)
        index.append(at)
        distance.append((value + chunk.square().sum(1)).clamp_min(0))
    return torch.cat(index), torch.cat(distance)


def means(points: Tensor, index: Tensor, count: int) -> Tensor:
    """The mean of the points of each cluster [K, D], summed in float64; 0 of one that has none."""
    sums = torch.zeros(count, points.shape[1], dtype=torch.float64, device=points.device)
    for chunk, at in zip(_chunks(points, 1024), _chunks(index, 1024), strict=True):
        sums.index_add_(0, at, chunk.double())
    sizes = torch.bincount(index, minlength=count).clamp_min(1)
    return (sums / sizes[:, None]).to(points.dtype)


def _inertia(points: Tensor, index: Tensor, centres: Tensor) -> float:
    pairs = zip(_chunks(points, 1024), _chunks(index, 1024), strict=True)
    return float(sum((chunk - centres[at]).double().square().sum() for chunk, at in pairs))


def _chunks(points: Tensor, columns: int) -> Iterator[Tensor]:
    return iter(points.split(max(1, CHUNK_BYTES // (4 * columns))))


def _filled(index: Tensor, distance: Tensor, count: int) -> Tensor:
    """`index` with no cluster left empty, if there are as many points as clusters."""
    sizes = torch.bincount(index, minlength=count)
    while bool((sizes == 0).any()):
        order = distance.argsort(descending=True, stable=True)
        places = torch.arange(len(order), device=order.device)
        first = torch.full((count,), len(order), device=order.device)
        first = first.scatter_reduce(0, index[order], places, "amin")  # of each cluster its farthest point
        spare = first[sizes > 1].sort().values
        empty = (sizes == 0).nonzero().flatten()[: len(spare)]
        taken = order[spare[: len(empty)]]
        index = index.scatter(0, taken, empty)
        distance = distance.scatter(0, taken, 0.0)
        sizes = torch.bincount(index, minlength=count)
    return index


def _minibatch(points: Tensor, count: int) -> Clusters:
    from sklearn.cluster import MiniBatchKMeans

    seed = int(torch.randint(2**31, ()))
    model = MiniBatchKMeans(count, n_init=1, batch_size=max(16384, 4 * count), max_iter=50, random_state=seed)
    centres = torch.from_numpy(model.fit(points.cpu().numpy()).cluster_centers_).to(points)
    index, distance = nearest(points, centres)
    index = _filled(index, distance, count)
    return Clusters(centres, index, (_inertia(points, index, centres),))
