"""Do the heads of two detectors say the same of the same rows? Agreement and divergence, objects and background apart.

Rows are anchors, places or proposals that both heads were asked about. Nearly all of them are background, on which any
two detectors agree: a number over all rows would say that and nothing else, so there is none. The bounded share is that
of the rows with an object on which the loss of Chen et al. (NeurIPS 2017) is active: the student's box is worse than
the teacher's.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_softmax

from kdscope.detection.box_errors import RAW, in_boxes, worse_than_teacher
from kdscope.errors import KDScopeError, unknown

PARTS = ("foreground", "background")
IGNORED = -1


class DenseFidelity(NamedTuple):
    """By image, [N]; NaN where an image has no row of that part."""

    agreement: np.ndarray
    kl: np.ndarray


def dense_fidelity(
    teacher: Any, student: Any, labels: Any, image: Any, images: int, scores: str = "softmax"
) -> dict[str, DenseFidelity]:
    """Top-1 agreement and KL(p_T || p_S) in nats, for rows with an object and rows of background.

    Args:
        teacher, student: logits [R, K]. With "softmax" the background is a class; with "sigmoid" each of the K classes
            has a probability of its own, "none" (no probability above one half) is one more answer, and the divergences
            of all classes are added.
        labels: int [R]: a class from 1, 0 background, -1 ignored.
        image: int [R], 0 to `images` - 1, which image each row belongs to.

    Returns:
        By part; each the mean over the rows of an image.

    Raises:
        KDScopeError: other shapes, an unknown kind of scores, NaN among the logits.

    >>> same = dense_fidelity([[2.0, 0.0]], [[2.0, 0.0]], [0], [0], 1)["background"]
    >>> float(same.agreement[0]), float(same.kl[0])
    (1.0, 0.0)
    """
    t, s = np.asarray(teacher, np.float64), np.asarray(student, np.float64)
    y, place = np.asarray(labels), np.asarray(image)
    if t.ndim != 2 or t.shape != s.shape or not len(t) == len(y) == len(place):
        raise KDScopeError(
            f"logits {list(t.shape)} and {list(s.shape)}, {len(y)} labels and {len(place)} places differ"
        )
    if scores not in ("softmax", "sigmoid"):
        raise unknown("kind of scores", scores, ("softmax", "sigmoid"))
    if np.isnan(t).any() or np.isnan(s).any():
        raise KDScopeError("NaN among the logits")
    agree = (_answer(t, scores) == _answer(s, scores)).astype(np.float64)
    kl = _divergence(t, s, scores)
    parts = {"foreground": y > 0, "background": y == 0}
    return {
        name: DenseFidelity(*(mean_by_image(values[of], place[of], images) for values in (agree, kl)))
        for name, of in parts.items()
    }


def rows_of_others(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each row one of the same part (an object, or background) in another image: int64 [N, R], flat, -1 without.

    What two heads would agree in if each knew how objects look, and nothing of this one. The rows of the other image
    are taken in turn.

    Args:
        labels: int [N, R], as of `dense_fidelity`. order: int [N], the image whose rows each is given.

    >>> rows_of_others(np.array([[1, 0, 0], [0, 2, -1]]), np.array([1, 0])).tolist()
    [[4, 3, 3], [1, 0, -1]]
    """
    found = np.full(labels.shape, IGNORED, dtype=np.int64)
    for part in (labels > 0, labels == 0):
        count = part.sum(axis=1)[order, None]
        first = np.argsort(~part, axis=1, kind="stable")[order]  # the rows of that part, then the others
        place = (part.cumsum(axis=1) - 1) % np.maximum(count, 1)
        flat = order[:, None] * labels.shape[1] + np.take_along_axis(first, np.maximum(place, 0), axis=1)
        found = np.where(part & (count > 0), flat, found)
    return found


def tilted(logits: Any, background: float, scores: str = "softmax") -> np.ndarray:
    """The logits that a soft loss really asks for which weighs the background w_0: those of w P_T, normalised.

    Chen et al. weigh it 1.5: the smallest loss is not at P_S = P_T, and so a student that learned all there was to
    learn still has a divergence from its teacher. It has none from this.

    Args:
        logits: of the teacher, [R, K]; with "softmax" the background first, with "sigmoid" of each class against it.
        background: w_0, above 0.

    >>> tilted(np.log([[0.4, 0.6]]), 1.5).round(3).tolist() == np.log([[0.6, 0.6]]).round(3).tolist()
    True
    """
    if scores not in ("softmax", "sigmoid"):
        raise unknown("kind of scores", scores, ("softmax", "sigmoid"))
    shifted = np.array(logits, np.float64)
    shifted[:, : 1 if scores == "softmax" else None] += np.log(background) * (1 if scores == "softmax" else -1)
    return shifted


def worse_boxes(
    teacher: Any,
    student: Any,
    targets: Any,
    labels: Any,
    image: Any,
    images: int,
    weights: Sequence[float] | None = RAW,
) -> np.ndarray:
    """The share of the rows with an object whose box deltas [R, 4] are farther from the target than the teacher's: [N].

    Which they are is decided by the gate of the loss, without a margin; `weights` are those of the head's box coder, or
    None where the deltas are distances to the sides, of FCOS.

    >>> worse_boxes([[0.0, 0, 0, 0]], [[1.0, 0, 0, 0]], [[0.0, 0, 0, 0]], [1], [0], 1)
    array([1.])
    """
    of = np.asarray(labels) > 0
    t, s, y = (np.asarray(x, np.float64)[of] for x in (teacher, student, targets))
    if weights is None:
        t, s, y = (in_boxes(each, y) for each in (t, s, y))
    worse = worse_than_teacher(s, t, y, weights=weights or RAW)
    return mean_by_image(worse.astype(np.float64), np.asarray(image)[of], images)


def mean_by_image(values: np.ndarray, image: np.ndarray, images: int) -> np.ndarray:
    """The mean of values [R] over the rows of each image, [N]; NaN for an image without any.

    >>> mean_by_image(np.array([1.0, 3.0]), np.array([0, 0]), 2)
    array([ 2., nan])
    """
    count = np.bincount(image, minlength=images)
    total = np.bincount(image, values, images)
    return np.divide(total, count, out=np.full(images, np.nan), where=count > 0)


def _answer(logits: np.ndarray, scores: str) -> np.ndarray:
    top = logits.argmax(axis=1)
    return top if scores == "softmax" else np.where(logits.max(axis=1) > 0, top, logits.shape[1])


def _divergence(t: np.ndarray, s: np.ndarray, scores: str) -> np.ndarray:
    if scores == "softmax":
        p, q = log_softmax(t, axis=1), log_softmax(s, axis=1)
        return (np.exp(p) * (p - q)).sum(axis=1)
    yes_t, yes_s, no_t, no_s = (-np.logaddexp(0, z) for z in (-t, -s, t, s))
    return (np.exp(yes_t) * (yes_t - yes_s) + np.exp(no_t) * (no_t - no_s)).sum(axis=1)
