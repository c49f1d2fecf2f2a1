"""Teacher, student, baseline and labels on the same images, related as networks are; no test changes them."""

from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture(scope="session")
def case():
    rng = np.random.default_rng(0)
    n, classes = 300, 7
    labels = rng.integers(0, classes, n)
    truth = 2.0 * np.eye(classes)[labels]
    teacher, baseline, noise = truth + rng.normal(size=(3, n, classes))
    student = 0.6 * teacher + 0.4 * noise
    for array in (labels, teacher, baseline, student):
        array.flags.writeable = False
    return SimpleNamespace(teacher=teacher, student=student, labels=labels, baseline=baseline, n=n, classes=classes)
