"""HSIC of two sets of linear features: as it is defined on Gram matrices, and from sums that batches and ranks add up.

Gretton et al., "Measuring Statistical Dependence with Hilbert-Schmidt Norms", ALT 2005 (biased); Song et al., "Feature
Selection via Dependence Maximization", JMLR 2012, eq. 5 (the unbiased U-statistic HSIC1). For a linear kernel either is
a function of a few sums over images, so that no N x N matrix is needed, whatever the number of images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError

FEWEST = 4  # images that the U-statistic needs
CONSTANT = 1e-20  # of a layer's squared size: what rounding alone leaves of the variance of a constant


def unbiased_hsic(a: np.ndarray, b: np.ndarray) -> float:
    """HSIC1 of two Gram matrices [N, N], N >= 4: its expectation is exactly 0 where the two are independent.

    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> unbiased_hsic(x @ x.T, x @ x.T) > 0
    True
    """
    n = len(a)
    if n < FEWEST:
        raise KDScopeError(f"the unbiased HSIC needs at least {FEWEST} images, and there are {n}")
    a, b = (np.where(np.eye(n, dtype=bool), 0.0, gram) for gram in (a, b))
    rows_a, rows_b = a.sum(axis=0), b.sum(axis=0)
    total = (a * b).sum() + rows_a.sum() * rows_b.sum() / ((n - 1) * (n - 2)) - 2 * (rows_a @ rows_b) / (n - 2)
    return float(total / (n * (n - 3)))


def biased_hsic(a: np.ndarray, b: np.ndarray) -> float:
    """tr(A H B H) / (N - 1)^2 of two Gram matrices [N, N], N >= 2, H = 1 - 1/N: above 0 for independent data too.

    >>> biased_hsic(np.eye(2), np.eye(2))
    1.0
    """
    n = len(a)
    centred = a - a.mean(axis=0) - a.mean(axis=1, keepdims=True) + a.mean()
    return float((centred * b).sum() / (n - 1) ** 2)


@dataclass(frozen=True)
class Moments:
    """The sums over images of x [d1] and y [d2] that HSIC is a function of; they add up, and can be taken off again.

    |x|^2 is written xx below: `products` is sum x y^T, `x_yy` is sum x |y|^2, `xx_yy` is sum |x|^2 |y|^2.
    """

    n: Any
    x: Any
    y: Any
    products: Any
    xx: Any
    yy: Any
    xx_yy: Any
    x_yy: Any
    y_xx: Any

    @classmethod
    def of(cls, x: Any, y: Any) -> "Moments":
        """Of features [N, d1] and [N, d2], float64, numpy or torch."""
        xx, yy = (x * x).sum(1), (y * y).sum(1)
        return cls(
            n=len(x), x=x.sum(0), y=y.sum(0), products=x.T @ y, xx=xx.sum(), yy=yy.sum(), xx_yy=xx @ yy,
            x_yy=x.T @ yy, y_xx=y.T @ xx,
        )  # fmt: skip

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def moved(self, d: Any, e: Any) -> "Moments":
        """The sums of x - d and y - e."""
        dd, ee = d @ d, e @ e
        x, y = self.x - self.n * d, self.y - self.n * e
        xx = self.xx - 2 * (d @ self.x) + self.n * dd
        yy = self.yy - 2 * (e @ self.y) + self.n * ee
        return Moments(
            n=self.n,
            x=x,
            y=y,
            products=self.products - d[:, None] * self.y - self.x[:, None] * e + self.n * d[:, None] * e,
            xx=xx,
            yy=yy,
            xx_yy=(
                (self.xx_yy - 2 * (e @ self.y_xx) + ee * self.xx - 2 * (d @ self.x_yy))
                + (4 * (d @ self.products @ e) - 2 * ee * (d @ self.x))
                + (dd * self.yy - 2 * dd * (e @ self.y) + self.n * dd * ee)
            ),
            x_yy=self.x_yy - 2 * (self.products @ e) + ee * self.x - yy * d,
            y_xx=self.y_xx - 2 * (self.products.T @ d) + dd * self.y - xx * e,
        )

    def numpy(self) -> "Moments":
        """The same on the host."""
        return Moments(*(_host(getattr(self, f.name)) for f in fields(self)))

    def centred(self) -> np.ndarray:
        """sum (x - mean x)(y - mean y)^T, [d1, d2]."""
        return self.products - self.x[:, None] * self.y / self.n

    def unbiased(self) -> float:
        """HSIC1, equal to `unbiased_hsic` of the linear Gram matrices."""
        n = self.n
        trace = (self.products**2).sum() - self.xx_yy
        sums = (self.x @ self.x - self.xx) * (self.y @ self.y - self.yy)
        rows = self.x @ self.products @ self.y - self.x @ self.x_yy - self.y @ self.y_xx + self.xx_yy
        return float((trace + sums / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3)))

    def biased(self) -> float:
        """The biased HSIC, equal to `biased_hsic` of the linear Gram matrices."""
        return float((self.centred() ** 2).sum() / (self.n - 1) ** 2)


class Sums:
    """`Moments` of a stream of pairs of features, in float64, less a fixed pilot (the first batch's mean).

    The images are dealt in turn to `groups` groups, so that each can be left out for the jackknife at no further cost.
    numpy or torch on any device; nothing waits for a device before the numbers are asked for.

    Args:
        groups: 1 for none; memory is groups x d1 x d2 doubles.

    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> sums = Sums(groups=1).update(x[:20], x[:20]).update(x[20:], x[20:])
    >>> bool(abs(sums.whole().unbiased() - unbiased_hsic(x @ x.T, x @ x.T)) < 1e-12)
    True
    """

    def __init__(self, groups: int = 1):
        self.groups = groups
        self.n = 0
        self.pilot: tuple[Any, Any] | None = None
        self._parts: list[Moments | None] = [None] * groups

    def update(self, x: Any, y: Any) -> "Sums":
        """Adds features [B, d1] and [B, d2] of the same images; returns itself."""
        same = x is y
        x = double(x)
        y = x if same else double(y)
        if self.pilot is None:
            self.pilot = (x.mean(0), y.mean(0))
        x = x - self.pilot[0]
        y = x if same else y - self.pilot[1]
        for first in range(min(self.groups, len(x))):
            rows = slice(first, None, self.groups)
            part = x[rows]
            self._add((self.n + first) % self.groups, Moments.of(part, part if same else y[rows]))
        self.n += len(x)
        return self

    def merge(self, other: "Sums") -> "Sums":
        """Adds what another has seen, about its own pilot; returns itself."""
        if other.pilot is None:
            return self
        if self.pilot is None:
            self.pilot = other.pilot
        shift = [mine - theirs for mine, theirs in zip(self.pilot, other.pilot, strict=True)]
        for group, part in enumerate(other._parts):
            if part is not None:
                self._add(group, part.moved(*shift))
        self.n += other.n
        return self

    def whole(self) -> Moments:
        """The sums over all images, on the host."""
        parts = [part for part in self._parts if part is not None]
        return sum(parts[1:], parts[0]).numpy()

    def left_out(self) -> Iterator[Moments]:
        """The sums without each group in turn; none where a group would leave too few images."""
        if self.groups > 1 and None not in self._parts and self.n - -(-self.n // self.groups) >= FEWEST:
            whole = self.whole()
            yield from (whole - part.numpy() for part in self._parts)

    def _add(self, group: int, moments: Moments) -> None:
        known = self._parts[group]
        self._parts[group] = moments if known is None else known + moments


def double(array: Any) -> Any:
    """Features as float64, numpy or torch (on its device, without its history)."""
    return array.detach().double() if hasattr(array, "detach") else np.asarray(array, dtype=np.float64)


def _host(value: Any) -> Any:
    return value.cpu().numpy() if hasattr(value, "cpu") else value
