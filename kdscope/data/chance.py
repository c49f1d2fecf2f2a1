"""Random numbers that are a function of (seed, epoch, index, stream) alone: no state, no order, no composition of
batches.

The mixer is the finaliser of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014), applied to a counter. It is integer arithmetic modulo 2^64, so every device gives the same bits.
"""

import zlib

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
WORD = (1 << 64) - 1


def bits(seed: int, epoch: int, index: Tensor, stream: str) -> Tensor:
    """64 well-mixed bits for each image.

    Args:
        seed: any integer (taken modulo 2^64).
        epoch: any integer.
        index: positions in the split, int64, any shape.
        stream: what the number is for ("flip", "crop-x"); different streams are independent.

    Returns:
        int64 of the shape of `index`, uniform over all 2^64 values.

    >>> bits(0, 0, torch.tensor([5, 6]), "flip").equal(bits(0, 0, torch.tensor([6, 5]), "flip").flip(0))
    True
    """
    key = _mix_int(_mix_int(_mix_int(seed) ^ (epoch & WORD)) ^ zlib.crc32(stream.encode()))
    return _mix(index * _signed(GOLDEN) + _signed(key))


def uniform(seed: int, epoch: int, index: Tensor, stream: str, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform numbers in [low, high), float64 of the shape of `index`, with 53 random bits."""
    unit = _shift(bits(seed, epoch, index, stream), 11).double() * 2.0**-53
    return unit if (low, high) == (0.0, 1.0) else low + (high - low) * unit


def integers(seed: int, epoch: int, index: Tensor, stream: str, count: int | Tensor) -> Tensor:
    """Uniform integers 0 .. count - 1, int64 of the shape of `index`; `count` < 2^31 (bias below count / 2^32).

    A tensor of counts, of that shape, gives each image its own.
    """
    return (_shift(bits(seed, epoch, index, stream), 32) * count) >> 32


def permutation(seed: int, epoch: int, count: int) -> Tensor:
    """An order of `count` images that depends on (seed, epoch) only: int64 [count], on the CPU.

    >>> sorted(permutation(0, 3, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    return bits(seed, epoch, torch.arange(count), "order").argsort(stable=True)


class Chance:
    """The random numbers of some images in one epoch: each call names its stream.

    >>> chance = Chance(seed=0, epoch=2, index=torch.arange(4))
    >>> chance.uniform("flip").shape, chance.integers("crop-x", 9).max() <= 8
    (torch.Size([4]), tensor(True))
    """

    def __init__(self, seed: int, epoch: int, index: Tensor):
        self.seed, self.epoch, self.index = seed, epoch, index

    def uniform(self, stream: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float64 [B] in [low, high)."""
        return uniform(self.seed, self.epoch, self.index, stream, low, high)

    def integers(self, stream: str, count: int) -> Tensor:
        """int64 [B] in 0 .. count - 1."""
        return integers(self.seed, self.epoch, self.index, stream, count)

    def coin(self, stream: str, probability: float = 0.5) -> Tensor:
        """bool [B], true with `probability`."""
        return self.uniform(stream) < probability


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift(word: Tensor, places: int) -> Tensor:
    """Logical shift to the right: torch shifts int64 arithmetically, so the sign's copies are masked away."""
    return (word >> places) & ((1 << (64 - places)) - 1)


def _mix(word: Tensor) -> Tensor:
    word = (word ^ _shift(word, 30)) * _signed(FIRST)
    word = (word ^ _shift(word, 27)) * _signed(SECOND)
    return word ^ _shift(word, 31)


def _mix_int(word: int) -> int:
    word = (word + GOLDEN) & WORD
    word = ((word ^ (word >> 30)) * FIRST) & WORD
    word = ((word ^ (word >> 27)) * SECOND) & WORD
    return word ^ (word >> 31)
