"""Images of other classes, drawn on the device without replacement, without a sort and without asking the host.

The images are put in order by class, so those of other classes than c are that order with one run cut out: M_c places.
A row draws the places a k mod P_c, k = 0 .. K - 1, turned round the circle of M_c by a random b: a is a random prime
above the number of images, and P_c the largest prime up to M_c (M_c itself where K leaves no choice), so all places
differ. Every image is as likely as any other, and so is, nearly, every pair: a sum over them has the mean and the
variance of one over a simple random sample. It costs B K integers, where random keys would be sorted for all B N.
"""

import functools

import torch
from torch import Tensor, nn

from kdscope.data.chance import bits, integers
from kdscope.errors import KDScopeError

STRIDES = 1024  # primes to choose from
BITS = 31  # of each; times K it must stay below 2^63


class Negatives(nn.Module):
    """Draws, for images of known classes, images of other classes.

    Args:
        labels: of all images, int64 [N].
        count: how many for each image, cut to what the largest class leaves: K.

    Raises:
        KDScopeError: if all images are of one class.

    >>> drawn = Negatives(torch.tensor([0, 1, 2, 0]), count=9)
    >>> drawn.count, sorted(drawn(torch.tensor([0]), key=torch.tensor([7]))[0].tolist())
    (2, [1, 2])
    """

    def __init__(self, labels: Tensor, count: int):
        super().__init__()
        sizes = torch.bincount(labels)
        self.count = min(count, len(labels) - int(sizes.max()))
        if self.count < 1:
            raise KDScopeError(f"all {len(labels)} images are of one class; negatives are images of other classes")
        # All of them follow from the labels, and are not saved.
        self.register_buffer("order", labels.argsort(stable=True), persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("first", sizes.cumsum(0) - sizes, persistent=False)
        self.register_buffer(
            "moduli", torch.tensor([self._modulus(len(labels) - n) for n in sizes.tolist()]), persistent=False
        )
        self.register_buffer("strides", torch.tensor(_primes(STRIDES)), persistent=False)
        self.register_buffer("steps", torch.arange(self.count), persistent=False)

    def forward(self, label: Tensor, key: Tensor) -> Tensor:
        """Images [B, K] of other classes than `label` [B]; which ones is decided by `key`, int64 [B], alone."""
        first, size = self.first[label], self.sizes[label]
        others = len(self.order) - size
        offset = integers(0, 0, key, "offset", others)
        stride = self.strides[integers(0, 0, key, "stride", STRIDES)]
        place = (offset[:, None] + stride[:, None] * self.steps % self.moduli[label][:, None]) % others[:, None]
        return self.order[place + torch.where(place < first[:, None], 0, size[:, None])]

    def _modulus(self, others: int) -> int:
        """The largest prime up to `others`, with which all pairs are equally likely; `others` if that is below K."""
        prime = next((n for n in range(others, self.count - 1, -1) if _is_prime(n)), others)
        return max(1, prime)

    def same_class(self, label: Tensor, key: Tensor) -> Tensor:
        """One image [B] of the class `label` [B], any of them, decided by `key`."""
        return self.order[self.first[label] + integers(0, 0, key, "same", self.sizes[label])]


@functools.cache
def _primes(count: int) -> list[int]:
    """`count` primes of BITS bits, always the same: more than the number of images of any training part."""
    candidates = bits(0, 0, torch.arange(64 * count), "primes") & (2 ** (BITS - 1) - 1) | 2 ** (BITS - 1) | 1
    primes = (candidate for candidate in candidates.tolist() if _is_prime(candidate))
    return [next(primes) for _ in range(count)]


def _is_prime(number: int) -> bool:
    """Miller-Rabin with bases that leave no doubt below 3,215,031,751 (Jaeschke, 1993)."""
    for small in (2, 3, 5, 7):
        if number % small == 0:
            return number == small
    if number < 2:
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True
