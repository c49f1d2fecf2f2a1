"""Teacher, student, baseline and labels on the same images, related as networks are; no test changes them.

`known.py`, data whose mutual information is known, is for the tests of its estimators.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))


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
