"""Do two numbers go together over runs? Pearson's r, Spearman's rho, p and n, and r again within groups.

Runs come in groups (one recipe, several seeds), and a pooled correlation may be the difference between groups alone:
in Guo et al. (arXiv 2405.00739) fidelity and accuracy correlate at -0.69 over all trials, at +0.30 within those of
strongly augmented students, and at -0.18 once each group's mean is taken off.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import pearsonr, spearmanr

FEWEST = 3


@dataclass(frozen=True)
class Correlation:
    """What goes together with what, over `n` runs of `groups` groups.

    Attributes:
        r, p: Pearson's correlation and its two-sided p-value; NaN with fewer than 3 runs, or where one is constant.
        rho: Spearman's rank correlation.
        centred: r after each group's mean was taken off; NaN where no group has two runs.
        within: r in each group of at least 3 runs, by its name.
    """

    r: float
    rho: float
    p: float
    n: int
    groups: int
    centred: float
    within: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if math.isnan(self.r):
            return f"n = {self.n}: too few for a correlation" if self.n < FEWEST else f"n = {self.n}: one is constant"
        text = f"r = {self.r:.2f}, \N{GREEK SMALL LETTER RHO} = {self.rho:.2f}, p = {self.p:.2g}, n = {self.n}"
        if not math.isnan(self.centred):
            text += f"; group-centred r = {self.centred:.2f}"
        if self.within:
            text += "; within " + ", ".join(f"{name} r = {r:.2f}" for name, r in self.within.items())
        return text


def correlate(x: Sequence[float], y: Sequence[float], groups: Sequence | None = None) -> Correlation:
    """The correlation of x [N] and y [N] over runs that belong to groups [N]; runs with a NaN are left out.

    >>> c = correlate([1.0, 2.0, 11.0, 12.0], [2.0, 1.0, 12.0, 11.0], ["a", "a", "b", "b"])
    >>> round(c.r, 2), round(c.rho, 2), c.n, c.groups, round(c.centred, 2), c.within
    (0.98, 0.6, 4, 2, -1.0, {})
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = ~(np.isnan(x) | np.isnan(y))
    x, y = x[known], y[known]
    kinds = np.arange(len(x)) if groups is None else np.asarray(groups)[known]
    names, of = np.unique(kinds, return_inverse=True)
    r, p = _safe(pearsonr, x, y)
    rho, _ = _safe(spearmanr, x, y)
    centred, within = math.nan, {}
    if 1 < len(names) < len(x):
        centred, _ = _safe(pearsonr, x - _group_means(x, of), y - _group_means(y, of))
        for k, name in enumerate(names):
            inside, _ = _safe(pearsonr, x[of == k], y[of == k])
            if not math.isnan(inside):
                within[str(name)] = inside
    return Correlation(r, rho, p, len(x), len(names), centred, within)


def _safe(kind, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    if len(x) < FEWEST or np.ptp(x) < 1e-12 or np.ptp(y) < 1e-12:
        return math.nan, math.nan
    found = kind(x, y)
    return float(found.statistic), float(found.pvalue)


def _group_means(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    return (np.bincount(of, values) / np.bincount(of))[of]
