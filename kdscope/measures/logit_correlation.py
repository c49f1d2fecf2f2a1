"""Which classes go together? Correlations between the logits of classes, and how a student's differ from its teacher's.

Tian et al., "Contrastive Representation Distillation", ICLR 2020, figure 4: what a student has learned of the relations
between classes shows as a small difference. A vector added to all rows of the head adds a number to all logits of an
image, which would correlate all classes: logits are centred over classes first, so that only predictions count.
"""

import numpy as np

from kdscope.errors import KDScopeError


def class_correlation(logits: np.ndarray) -> np.ndarray:
    """Pearson's correlation of centred logits [N, C] over images: [C, C], NaN for a class whose logit is constant.

    Raises:
        KDScopeError: fewer than 3 images or classes (two centred logits are each other's negative), or NaN.

    >>> z = np.random.default_rng(0).normal(size=(100, 4))
    >>> bool(np.allclose(class_correlation(z), class_correlation(z + 9 * z[:, :1])))
    True
    """
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or min(z.shape) < 3:
        raise KDScopeError(f"logits of shape {list(z.shape)}; correlations of classes need 3 images and 3 classes")
    bad = int((~np.isfinite(z)).any(axis=1).sum())
    if bad:
        raise KDScopeError(f"logits are NaN or infinite in {bad} of {len(z)} images")
    z = z - z.mean(axis=1, keepdims=True)
    z = z - z.mean(axis=0)
    size = np.sqrt(np.square(z).sum(axis=0))
    size = np.where(size > 1e-10 * max(size.max(), 1e-300), size, np.nan)
    return np.clip(z.T @ z / size[:, None] / size, -1.0, 1.0)


def correlation_difference(teacher_logits: np.ndarray, student_logits: np.ndarray) -> np.ndarray:
    """Teacher's minus student's correlation of classes, [C, C], in [-2, 2]; the diagonal is 0.

    >>> z = np.random.default_rng(0).normal(size=(100, 4))
    >>> float(np.abs(correlation_difference(z, 3 * z)).max())
    0.0
    """
    if np.shape(teacher_logits) != np.shape(student_logits):
        shapes = f"{list(np.shape(teacher_logits))} and {list(np.shape(student_logits))}"
        raise KDScopeError(f"logits of shapes {shapes}; they must be of the same images and classes")
    return np.round(class_correlation(teacher_logits) - class_correlation(student_logits), 12)
