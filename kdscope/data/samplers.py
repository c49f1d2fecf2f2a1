"""Which images make up each batch of an epoch: all of them in random order, or some images of some classes.

`class:K` is the class-uniform random sampler of Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV
2019: a batch of B images is B / K classes with K images of each, so that relations within a class are seen as well as
those between classes. Like everything that chance decides, a batch depends on (seed, epoch) alone.
"""

import torch
from torch import Tensor

from kdscope.data.chance import bits, permutation
from kdscope.errors import KDScopeError, unknown


def images_per_class(sampler: str) -> int | None:
    """K of `class:K`, None for `uniform`.

    Raises:
        KDScopeError: any other name, or a K that is no whole number above 0.

    >>> images_per_class("class:4")
    4
    """
    kind, colon, count = sampler.partition(":")
    if kind not in ("uniform", "class"):
        raise unknown("sampler", sampler, ("uniform", "class:K"))
    if kind == "uniform" and not colon:
        return None
    if kind == "uniform" or not count.isdecimal() or int(count) < 1:
        raise KDScopeError(f"sampler {sampler!r} is not understood; write uniform, or class:K such as class:4")
    return int(count)


def check_sampler(sampler: str, labels: Tensor, batch_size: int, world_size: int) -> None:
    """Raise unless each of `world_size` processes gets whole groups of a class, and no class has two in a batch."""
    each = images_per_class(sampler)
    if each is None:
        return
    if batch_size % (each * world_size):
        processes = f" on each of {world_size} processes" if world_size > 1 else ""
        raise KDScopeError(f"sampler {sampler!r} needs whole groups of {each} images{processes}; {batch_size} are none")
    groups, classes = batch_size // each, len(labels.unique())
    if groups > classes:
        shares = range(each, batch_size // world_size)
        fit = (k for k in shares if batch_size % (k * world_size) == 0 and batch_size // k <= classes)
        raise KDScopeError(
            f"sampler {sampler!r} puts {groups} classes into a batch of {batch_size}, and there are {classes}; "
            f"try class:{next(fit, batch_size // world_size)}"
        )


def order(sampler: str, labels: Tensor, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """The images of each batch of an epoch, int64 [B] on the host, before ranks share them.

    Args:
        sampler: "uniform" shows each image once, and the last batch may be smaller; "class:K" has whole batches alone.
        labels: of all images, int64 [N].

    >>> parts = order("class:2", torch.tensor([0, 1, 2] * 4), batch_size=4, seed=0, epoch=0)
    >>> [len(part) for part in parts], [torch.arange(3).repeat(4)[part].unique().numel() for part in parts]
    ([4, 4, 4], [2, 2, 2])
    """
    each = images_per_class(sampler)
    if each is None:
        return list(permutation(seed, epoch, len(labels)).split(batch_size))
    return list(_by_class(labels.cpu(), batch_size // each, each, max(1, len(labels) // batch_size), seed, epoch))


def _by_class(labels: Tensor, classes: int, each: int, batches: int, seed: int, epoch: int) -> Tensor:
    """int64 [batches, classes * each]: in each row, `each` images of `classes` different classes.

    The classes come from decks in which each is once. A class gives its images in a random order of the epoch, and
    begins that order again when it is through, so none comes twice before all have come once.
    """
    _, labels, sizes = labels.unique(return_inverse=True, return_counts=True)
    known, per_deck = len(sizes), len(sizes) // classes
    decks = -(-batches // per_deck)
    deck = bits(seed, epoch, torch.arange(decks * known), "classes").view(decks, known).argsort(dim=1, stable=True)
    chosen = deck[:, : per_deck * classes].reshape(-1, classes)[:batches].flatten()  # a class for each group

    shuffled = permutation(seed, epoch, len(labels))
    shuffled = shuffled[labels[shuffled].argsort(stable=True)]  # by class, and by chance within each
    first = sizes.cumsum(0) - sizes
    grouped = chosen.argsort(stable=True)
    counts = torch.bincount(chosen, minlength=known)
    turn = torch.empty_like(chosen)  # how often the group's class has come before
    turn[grouped] = torch.arange(len(chosen)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    place = (turn[:, None] * each + torch.arange(each)) % sizes[chosen][:, None]
    return shuffled[first[chosen][:, None] + place].view(batches, classes * each)
