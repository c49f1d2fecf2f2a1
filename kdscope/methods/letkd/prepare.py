"""What is computed once from a teacher's maps of the un-augmented training images: centroids, and sub-classes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kdscope.methods.letkd.kmeans import kmeans
from kdscope.methods.letkd.lda import Scatter
from kdscope.methods.letkd.subclass import score_matrix, subclasses
from kdscope.methods.letkd.targets import patches, pooled

PATCH_BYTES = 2**32  # of patches that are held at a time; beyond, a random share of them is taken
TEMPLATES = 4096
COMPONENTS = 60
Show = Callable[[Tensor], Tensor]


def templates_for(patches: int) -> int:
    """How many centroids there are where no number was asked for: 4,096, or an eighth of the patches.

    >>> templates_for(3_200_000), templates_for(768)
    (4096, 96)
    """
    return max(1, min(TEMPLATES, patches // 8))


def make_codebook(images: Any, show: Show, grid: tuple[int, int], count: int, codebook: str, how: str) -> Tensor:
    """Centroids [K, D] of all patches of the training images, without normalisation.

    Args:
        images: `kdscope.training.preparation.TrainingImages`. show: the teacher's map [B, D, H, W] of images.
        grid: (h, w) to which maps are averaged. count: K.
        codebook: "kmeans"; as controls "patches", random ones, or "gaussian", normal numbers with the mean and the
            deviation of each channel.
        how: of `kmeans`.
    """
    points, filled = None, 0
    for part, _ in _patches(images, show, grid, "patches of the final map"):
        if points is None:  # filled piece by piece: pieces and the whole at once would take twice the memory
            most = _share(images, part.shape[1], grid) * len(images) * grid[0] * grid[1]
            points = part.new_empty(int(most + 6 * most**0.5) + 1, part.shape[1])
        part = part[: len(points) - filled]
        points[filled : filled + len(part)] = part
        filled += len(part)
    points = points[:filled]
    if codebook == "patches":
        return points[torch.randperm(len(points))[:count].to(points.device)]
    if codebook == "gaussian":
        return points.mean(0) + points.std(0) * torch.randn(count, points.shape[1]).to(points)
    return kmeans(points, count, how).centres


def make_subclasses(
    images: Any, show: Show, grid: tuple[int, int], count: int, components: int, permuted: bool
) -> dict[str, Tensor]:
    """The discriminant analysis, the sub-classes of each class, and their score matrix, by the names of `Subclasses`.

    Args:
        count: sub-classes of each class. components: n, of the discriminant analysis.
        permuted: give the images each other's labels first (a control).
    """
    order = torch.randperm(len(images.labels)).to(images.device) if permuted else None
    scatter, kept, labels = None, [], []
    for part, index in _patches(images, show, grid, "patches of the intermediate map"):
        own = (images.labels if order is None else images.labels[order])[index]
        scatter = scatter or Scatter(images.num_classes, part.shape[1], part.device)
        scatter.update(part, own)
        kept.append(part)
        labels.append(own)
    mean, directions = scatter.solve(components)
    features, labels = torch.cat([(part - mean.float()) @ directions.float() for part in kept]), torch.cat(labels)
    centres, there, index = subclasses(features, labels, images.num_classes, count)
    scores = score_matrix(features, index, images.num_classes * count)
    return {
        "mean": mean.float(), "directions": directions.float(), "centres": centres, "there": there.to(torch.uint8),
        "scores": scores,
    }  # fmt: skip


def _patches(images: Any, show: Show, grid: tuple[int, int], title: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Patches [n, D] of each batch, float32, and the image that each is from [n]; a random share where there are too
    many to hold."""
    for batch in images.plain(title):
        feature_map = pooled(show(batch.image).float(), grid)
        rows = patches(feature_map)
        index = batch.index.to(rows.device).repeat_interleave(grid[0] * grid[1])
        share = _share(images, rows.shape[1], grid)
        if share < 1:
            chosen = (torch.rand(len(rows)) < share).to(rows.device)
            rows, index = rows[chosen], index[chosen]
        yield rows, index


def _share(images: Any, channels: int, grid: tuple[int, int]) -> float:
    """Of the patches, how many are held."""
    return min(1.0, PATCH_BYTES / (4 * len(images) * channels * grid[0] * grid[1]))
