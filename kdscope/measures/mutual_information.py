"""Mutual information of the classes that teacher and student name: debiased, normalised, adjusted, and as published.

Guo et al. (arXiv 2405.00739, eq. 4) average estimates of batches of 128; with 100 classes these say more of the batch
than of the networks. Here the counts of the whole set go into one estimate (`kdscope.measures.contingency`). It is
close to a function of agreement and of the number of classes, and is no second witness to it.
"""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from kdscope.measures.agreement import ORDER_ONLY
from kdscope.measures.base import Card, Definition, measure
from kdscope.measures.contingency import (
    Contingency,
    chao_shen,
    entropy,
    jackknife,
    jackknife_information,
    left_out,
    miller_madow,
    permutation_null,
    plugin,
)
from kdscope.measures.logits import LogitMeasure
from kdscope.measures.pair import Pair
from kdscope.measures.result import Result
from kdscope.measures.statistics import student_interval

FAMILY = "mutual-information"
BATCH = 128
PERMUTATIONS = 100
ESTIMATORS = {
    "kdscope": lambda table: jackknife_information(table)[0],
    "plug-in": plugin,
    "miller-madow": miller_madow,
    "chao-shen": chao_shen,
    "permutation-null": lambda table: float(permutation_null(table, PERMUTATIONS).mean()),
}


def guo_information(teacher_top: np.ndarray, student_top: np.ndarray, *, neighbours: bool = True) -> np.ndarray:
    """Estimates [batches] of the released code of Guo et al., of consecutive batches of 128 images; nats.

    Args:
        neighbours: True: what scikit-learn's `mutual_info_classif` makes of it (`neighbour_information`), with the
            student's class *number* as a continuous quantity, so that renaming the classes changes it; False: plug-in.

    >>> same = np.arange(128) % 100
    >>> round(float(guo_information(same, same, neighbours=False)[0]), 1)  # of ln 100 = 4.6
    4.5
    """
    estimate = neighbour_information if neighbours else lambda t, s: plugin(Contingency.of(t, s))
    starts = range(0, len(teacher_top), BATCH)
    return np.array([estimate(teacher_top[i : i + BATCH], student_top[i : i + BATCH]) for i in starts])


def neighbour_information(classes: np.ndarray, numbers: np.ndarray, seed: int = 0) -> float:
    """scikit-learn's `mutual_info_classif` of classes [N] and of numbers [N] taken for a quantity, nats (Ross 2014).

    Where every class occurs once, it has nothing to count, and the estimate is 0. `seed` is that of the noise by which
    it breaks ties; the released code sets none.
    """
    from sklearn.feature_selection import mutual_info_classif

    if np.bincount(classes).max() < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes")
        found = mutual_info_classif(np.asarray(numbers, dtype=np.float64)[:, None], classes, random_state=seed)
    return float(found[0])


class TableMeasure(LogitMeasure):
    """A measure of the contingency table of the two networks' top classes."""

    def __init__(self, definition: str = "kdscope"):
        super().__init__(definition)
        self._table: Contingency | None = None

    def add(self, pair: Pair) -> None:
        self._merge(Contingency.of(pair.teacher_top, pair.student_top))
        self.seen += len(pair)

    def absorb(self, other: Any) -> None:
        if other._table is not None:
            self._merge(other._table)

    def _merge(self, table: Contingency) -> None:
        self._table = table if self._table is None else self._table + table

    def point(self) -> float:
        return self.found()[0]

    def found(self) -> tuple[float, float]:
        """The value, NaN where there is none, and its standard error."""
        raise NotImplementedError

    def finish(self, confidence: float, seed: int) -> Result:
        value, error = self.found()
        low, high = student_interval(value, error, self.seen, confidence)
        least, most = self.card.range
        known = not np.isnan(value)
        return Result(
            measure=self.card.name,
            value=value,
            per_sample=None,
            n=self.seen if known else 0,
            ci_low=max(low, least) if known else low,
            ci_high=min(high, most) if known else high,
            definition=self.definition,
            source=self.defined.citation,
            excluded=0 if known else self.seen,
        )


@measure
class MutualInformation(TableMeasure):
    """Mutual information of the top classes, nats: the jackknife, with its own standard error.

    A percentile bootstrap of a biased estimate misses the truth, and is not offered. The other estimators have the
    standard error of the jackknife; the interval of `permutation-null` holds the permuted values.

    >>> z = np.eye(2)
    >>> round(MutualInformation("plug-in").update(z[[0, 0, 1, 1]], z[[0, 0, 1, 1]]).compute().value, 6)
    0.693147
    """

    card = Card(
        *("mutual-information", "Mutual information of predicted classes", "nats", (-np.inf, np.inf), "higher"),
        *("Zahl 1977 (jackknife)", (*ORDER_ONLY, "swap"), (), "jackknife", 0.0),
        family=FAMILY,
    )
    definitions: ClassVar[Mapping[str, Definition]] = {
        "plug-in": Definition("Shannon 1948; biased by about (C - 1)^2 / 2n"),
        "miller-madow": Definition("Miller 1955; corrects only for the cells that occur"),
        "chao-shen": Definition("Chao & Shen 2003; undershoots for large n"),
        "permutation-null": Definition("plug-in of shuffled images: what it says where nothing is shared"),
        "guo2024-code": Definition(
            "Guo et al., arXiv 2405.00739, released code (get_mi)",
            "k nearest neighbours of the class number, which has no order; mean over batches of 128",
            "mean-logit",
            BATCH,
        ),
        "guo2024-code-plugin": Definition(
            "Guo et al., arXiv 2405.00739, released code (get_mis)",
            "plug-in of batches of 128: with 100 classes 3.5 nats for independent labels",
            "mean-logit",
            BATCH,
        ),
    }

    def __init__(self, definition: str = "kdscope"):
        super().__init__(definition)
        self._tops: list[np.ndarray] = []

    def add(self, pair: Pair) -> None:
        if self.defined.batch_size is None:
            return super().add(pair)
        self._tops.append(np.stack([pair.teacher_top, pair.student_top]))
        self.seen += len(pair)
        return None

    def absorb(self, other: Any) -> None:
        super().absorb(other)
        self._tops.extend(other._tops)

    def point(self) -> float:
        return ESTIMATORS[self.definition](self._table) if self._table is not None else self.found()[0]

    def found(self) -> tuple[float, float]:
        if self._table is not None:
            return self.point(), jackknife_information(self._table)[1]
        tops = np.concatenate(self._tops, axis=1)
        values = guo_information(*tops, neighbours=self.definition == "guo2024-code")
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0

    def finish(self, confidence: float, seed: int) -> Result:
        result = super().finish(confidence, seed)
        if self.definition != "permutation-null":
            return result
        draws = permutation_null(self._table, PERMUTATIONS)
        low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Result(**{**vars(result), "ci_low": float(low), "ci_high": float(high)})


@measure
class UncertaintyCoefficient(TableMeasure):
    """U = I / H(teacher), both jackknifed: the share of the teacher's answer that the student's answer tells.

    It is 1 where both are the same; where the teacher always names one class there is nothing to tell, and no image
    counts.

    >>> z = np.eye(2)
    >>> UncertaintyCoefficient().update(z[[0, 0, 1, 1]], z[[0, 0, 1, 1]]).compute().value
    1.0
    """

    card = Card(
        *("uncertainty-coefficient", "Mutual information / entropy of the teacher", "share", (-np.inf, np.inf)),
        *("higher", "Theil 1970; jackknifed", ORDER_ONLY, (), "jackknife", 0.0),
        family=FAMILY,
    )

    def found(self) -> tuple[float, float]:
        table = self._table
        of_a = table.margins[0]
        if (of_a > 0).sum() < 2:
            return np.nan, np.nan
        parts, h = left_out(table), entropy(of_a)
        information, _ = jackknife_information(table)
        known, _ = jackknife(h, parts["a"], table.counts)
        # To first order, so that a class seen once cannot make it 0 / 0.
        change = (parts["information"] - plugin(table) / h * parts["a"]) / h
        return information / known, jackknife(0.0, change, table.counts)[1]


@measure
class AdjustedMutualInformation(TableMeasure):
    """(I - E) / (mean(H(teacher), H(student)) - E), E what the plug-in is worth for shuffled images (Vinh et al. 2010).

    By scikit-learn. The standard error is that of the jackknife with E held. 1 for the same answers, about 0 for
    independent ones, whatever n and C; where neither network ever changes its answer no image counts.
    """

    card = Card(
        *("adjusted-mutual-information", "Adjusted mutual information", "share", (-1, 1), "higher"),
        *("Vinh et al., JMLR 2010", (*ORDER_ONLY, "swap"), (), "jackknife", 0.0),
        family=FAMILY,
    )

    def found(self) -> tuple[float, float]:
        from sklearn.metrics import adjusted_mutual_info_score

        table = self._table
        hs = [entropy(margin) for margin in table.margins]
        if max(hs) == 0:
            return np.nan, np.nan
        value, mean, information = float(adjusted_mutual_info_score(*table.labels())), sum(hs) / 2, plugin(table)
        if value >= 1 or table.n < 2:
            return min(value, 1.0), 0.0
        expected = (information - value * mean) / (1 - value)
        parts = left_out(table)
        change = (parts["information"] - value * (parts["a"] + parts["b"]) / 2) / (mean - expected)
        return value, jackknife(0.0, change, table.counts)[1]


@measure
class JointSupport(TableMeasure):
    """How many pairs of classes (teacher's, student's) occur; few images for each: an estimate not to be trusted."""

    card = Card(
        *("joint-support", "Pairs of classes that occur", "pairs", (0, np.inf), "none"),
        *("Burnham & Overton 1978 (error)", (*ORDER_ONLY, "swap"), (), "jackknife"),
        family=FAMILY,
    )

    def found(self) -> tuple[float, float]:
        counts = self._table.counts
        whole = float(len(counts))
        return whole, jackknife(whole, whole - (counts == 1), counts)[1]
