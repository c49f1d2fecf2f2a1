"""Teacher and student on the same images, as measures see them: checked, in float64, in chunks that fit a cache.

Everything here is a property of the predictor, not of its head: adding any constant to all logits of an image changes
no probability, so it may change no measure (the gauge rule).
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError

CHUNK = 2**20  # logits in a chunk: 8 MiB in float64, so that 50,000 x 1,000 logits never exist in float64 at once


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """log softmax(z / T) over the last axis, float64.

    Args:
        logits: finite [..., C], any real dtype.
        temperature: T > 0.

    >>> np.exp(log_softmax(np.array([[0.0, np.log(3.0)]]))).round(3)
    array([[0.25, 0.75]])
    """
    if not temperature > 0:
        raise KDScopeError(f"the temperature is {temperature}; it must be above 0")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))


class Pair:
    """One chunk of images: float64 logits [B, C] of teacher, student and perhaps of a student trained without a teacher
    (`baseline`), and labels int64 [B] where known. What several measures need is computed once.

    The top class is the one with the largest logit; of equal ones the first in class order.
    """

    def __init__(
        self,
        teacher: np.ndarray,
        student: np.ndarray,
        labels: np.ndarray | None = None,
        baseline: np.ndarray | None = None,
    ):
        self.teacher = teacher
        self.student = student
        self.labels = labels
        self.baseline = baseline
        self._log_probs: dict[tuple[str, float], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.teacher)

    @property
    def classes(self) -> int:
        return self.teacher.shape[1]

    @cached_property
    def teacher_top(self) -> np.ndarray:
        return self.teacher.argmax(axis=1)

    @cached_property
    def student_top(self) -> np.ndarray:
        return self.student.argmax(axis=1)

    @cached_property
    def baseline_top(self) -> np.ndarray:
        return self.baseline.argmax(axis=1)

    def teacher_log_probs(self, temperature: float = 1.0) -> np.ndarray:
        return self._of("teacher", temperature)

    def student_log_probs(self, temperature: float = 1.0) -> np.ndarray:
        return self._of("student", temperature)

    def _of(self, who: str, temperature: float) -> np.ndarray:
        key = (who, temperature)
        if key not in self._log_probs:
            self._log_probs[key] = log_softmax(getattr(self, who), temperature)
        return self._log_probs[key]


def pairs(
    teacher_logits: Any, student_logits: Any, labels: Any = None, baseline_logits: Any = None, *, first: int = 0
) -> Iterator[Pair]:
    """The images of one update as checked chunks. All is checked before the first chunk comes.

    Args:
        teacher_logits, student_logits, baseline_logits: [B, C], numpy or torch (any device), any floating dtype.
        labels: integers [B] in 0..C-1.
        first: number of the first row, for messages.

    Raises:
        KDScopeError: no images; shapes that do not match; NaN or infinite logits (how many rows, and the first); labels
            that are no classes.

    >>> [pair.student_top.tolist() for pair in pairs([[0.0, 1.0]], [[3.0, 1.0]])]
    [[0]]
    """
    networks = {"teacher": to_numpy(teacher_logits), "student": to_numpy(student_logits)}
    if baseline_logits is not None:
        networks["baseline"] = to_numpy(baseline_logits)
    _check_shapes(networks)
    for who, logits in networks.items():
        _check_finite(who, logits, first)
    count, classes = networks["teacher"].shape
    truth = None if labels is None else _check_labels(to_numpy(labels), count, classes, first)
    return _chunks(networks, truth, max(1, CHUNK // classes))


def _chunks(networks: dict[str, np.ndarray], labels: np.ndarray | None, rows: int) -> Iterator[Pair]:
    for start in range(0, len(networks["teacher"]), rows):
        part = slice(start, start + rows)
        exact = {who: logits[part].astype(np.float64) for who, logits in networks.items()}
        yield Pair(**exact, labels=None if labels is None else labels[part])


def to_numpy(array: Any) -> np.ndarray:
    """A numpy array of what numpy or torch gives; torch tensors may be on any device and in bfloat16."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.double() if array.is_floating_point() else array
    return np.asarray(array)


def _check_shapes(networks: dict[str, np.ndarray]) -> None:
    shape = networks["teacher"].shape
    for who, logits in networks.items():
        if logits.ndim != 2:
            raise KDScopeError(f"{who} logits have shape {list(logits.shape)}; they must be [images, classes]")
        if logits.shape[0] != shape[0]:
            raise KDScopeError(
                f"the {who} saw {logits.shape[0]} images and the teacher {shape[0]}; pair the same images"
            )
        if logits.shape[1] != shape[1]:
            raise KDScopeError(
                f"the {who} has {logits.shape[1]} classes and the teacher {shape[1]}; they must be the same"
            )
        if not np.issubdtype(logits.dtype, np.floating) and not np.issubdtype(logits.dtype, np.integer):
            raise KDScopeError(f"{who} logits are of type {logits.dtype}; they must be real numbers")
    if 0 in shape:
        raise KDScopeError(f"there is nothing to measure: the logits have shape {list(shape)}")


def _check_finite(who: str, logits: np.ndarray, first: int) -> None:
    rows = max(1, CHUNK // logits.shape[1])
    parts = [np.isfinite(logits[start : start + rows]).all(axis=1) for start in range(0, len(logits), rows)]
    bad = np.flatnonzero(~np.concatenate(parts))
    if len(bad):
        raise KDScopeError(
            f"{who} logits are NaN or infinite in {len(bad)} of {len(logits)} rows; the first is row {first + bad[0]}"
        )


def _check_labels(labels: np.ndarray, count: int, classes: int, first: int) -> np.ndarray:
    if labels.shape != (count,):
        raise KDScopeError(f"labels have shape {list(labels.shape)}; they must be [{count}], one for each image")
    if not np.issubdtype(labels.dtype, np.integer):
        raise KDScopeError(f"labels are of type {labels.dtype}; they must be whole numbers")
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(bad):
        raise KDScopeError(
            f"{len(bad)} labels are not in 0..{classes - 1}; the first is {labels[bad[0]]} in row {first + bad[0]}"
        )
    return labels.astype(np.int64)
