"""How far a box regression is from its target, in units that mean the same on every head.

Heads with anchors regress fractions of the anchor's size, times the weights of their box coder. FCOS regresses the
distances (l, t, r, b) from a place to the four sides, in strides, which are as long as the object is large; its own
loss, a generalised IoU, does not know how long. So distances are divided by the target's own width and height, and an
error is a fraction of a box on every head. All here is arithmetic, for arrays of numpy and tensors of torch alike.
"""

from collections.abc import Sequence
from typing import Any

RAW = (1.0, 1.0, 1.0, 1.0)


def in_boxes(distances: Any, target: Any) -> Any:
    """Distances (l, t, r, b) [R, 4] as fractions of the target's width l + r and height t + b; unitless.

    Args:
        distances: what a head says, or the target itself.
        target: the distances of the box [R, 4]. One without a side (a row without an object) divides by 1.

    >>> import numpy as np
    >>> in_boxes(np.array([[3.0, 1.0, 1.0, 1.0]]), np.array([[2.0, 1.0, 2.0, 1.0]]))
    array([[0.75, 0.5 , 0.25, 0.5 ]])
    """
    size = target.reshape(-1, 2, 2).sum(1)
    size = size + (size <= 0) * (1 - size)
    return (distances.reshape(-1, 2, 2) / size[:, None]).reshape(-1, 4)


def worse_than_teacher(
    student: Any, teacher: Any, target: Any, margin: float = 0.0, weights: Sequence[float] = RAW
) -> Any:
    """Whether ||R_s - y||^2 + m > ||R_t - y||^2, in raw deltas: bool [R]. A tie at m = 0 is not worse.

    It is the gate of Chen et al. (NeurIPS 2017), of the loss and of the measure alike.

    Args:
        student, teacher, target: R_s, R_t and y [R, 4]; distances `in_boxes`.
        margin: m, in squared fractions of a box's size.
        weights: of the box coder (x, y, w, h), by which all three are multiplied.

    >>> import numpy as np
    >>> y, r_s, r_t = np.zeros((2, 4)), np.array([[0.3, 0, 0, 0], [0, 0, 0.2, 0]]), np.full((2, 4), 0.11)
    >>> worse_than_teacher(r_s, r_t, y), worse_than_teacher(r_s, r_t, y, margin=0.01)
    (array([ True, False]), array([ True,  True]))
    """
    ours, theirs = (
        sum(((each[:, k] - target[:, k]) / weight) ** 2 for k, weight in enumerate(weights))
        for each in (student, teacher)
    )
    return ours + margin > theirs
