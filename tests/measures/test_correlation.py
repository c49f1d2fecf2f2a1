"""Correlations over runs: pooled, ranked, and within groups, with the published numbers as oracle."""

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from kdscope.measures.correlation import correlate

# Guo et al., arXiv 2405.00739, tables 1, C.2 to C.4 and H.6: eight trials of two teachers, student weakly and strongly
# augmented in turn.
STUDENTS = ["weak", "strong"] * 4
PUBLISHED = {
    "cifar100": {
        "affinity": [0.9807, 0.8611, 0.9805, 0.9083, 0.9858, 0.9143, 0.9729, 0.9310],
        "accuracy": [0.7952, 0.8129, 0.8103, 0.8195, 0.8015, 0.8161, 0.8107, 0.8137],
        "gap": [0.1593, 0.0122, 0.1411, 0.0537, 0.1468, 0.0553, 0.1333, 0.0714],
        "iou": [0.5860, 0.5560, 0.5678, 0.5097, 0.5519, 0.4925, 0.5539, 0.5361],
        "fidelity": [0.9523, 0.7859, 0.9411, 0.8536, 0.9387, 0.8568, 0.9048, 0.8897],
        "ece": [0.0776, 0.0124, 0.1076, 0.0537, 0.0994, 0.0568, 0.1397, 0.0745],
    },
    "imbalanced": {
        "affinity": [0.9763, 0.8132, 0.9810, 0.8637, 0.9751, 0.8635, 0.9723, 0.8955],
        "accuracy": [0.4621, 0.5111, 0.4850, 0.5220, 0.4862, 0.5148, 0.5028, 0.5210],
        "gap": [0.4854, 0.3206, 0.4712, 0.3604, 0.4641, 0.3570, 0.4444, 0.3738],
        "iou": [0.4900, 0.4419, 0.5309, 0.4560, 0.4329, 0.4084, 0.4410, 0.4107],
        "fidelity": [0.9580, 0.8078, 0.9467, 0.8675, 0.9467, 0.8664, 0.9145, 0.8953],
        "ece": [0.0979, 0.0103, 0.1114, 0.0465, 0.0711, 0.0482, 0.1303, 0.0651],
    },
    "imagenet-lt": {
        "affinity": [0.9850, 0.8311, 0.9755, 0.8704, 0.9782, 0.8751, 0.9903, 0.8971],
        "accuracy": [0.4791, 0.4929, 0.4839, 0.4966, 0.4846, 0.4968, 0.4842, 0.4942],
        "gap": [0.3937, 0.2453, 0.3873, 0.2639, 0.3871, 0.2622, 0.3816, 0.2700],
        "iou": [0.7391, 0.7122, 0.7287, 0.6708, 0.7204, 0.6608, 0.7563, 0.7431],
        "fidelity": [0.8873, 0.7240, 0.8850, 0.7786, 0.8856, 0.7795, 0.8745, 0.7941],
        "ece": [0.0322, 0.0226, 0.0357, 0.0224, 0.0494, 0.0307, 0.0499, 0.0178],
    },
}
# pair of columns, data: pooled r, its p, r within weak and strong, group-centred r
STATED = [
    ("iou", "accuracy", "cifar100", -0.771, 0.025, -0.59, -0.73, -0.50),
    ("iou", "accuracy", "imbalanced", -0.644, 0.085, -0.44, 0.08, -0.36),
    ("iou", "accuracy", "imagenet-lt", -0.706, 0.050, -0.16, -0.81, -0.49),
    ("iou", "affinity", "cifar100", 0.504, 0.202, 0.08, -0.57, -0.48),
    ("iou", "affinity", "imbalanced", 0.503, 0.204, 0.90, -0.51, -0.15),
    ("iou", "affinity", "imagenet-lt", 0.639, 0.088, 0.92, 0.15, 0.21),
    ("fidelity", "accuracy", "cifar100", -0.688, 0.059, -0.71, 0.30, -0.18),
    ("fidelity", "accuracy", "imbalanced", -0.765, 0.027, -0.91, 0.83, -0.18),
    ("fidelity", "accuracy", "imagenet-lt", -0.873, 0.005, -0.47, 0.62, 0.29),
    ("fidelity", "iou", "cifar100", 0.503, 0.204, 0.69, -0.50, -0.25),
    ("fidelity", "iou", "imbalanced", 0.491, 0.217, 0.48, -0.48, -0.00),
    ("fidelity", "iou", "imagenet-lt", 0.560, 0.149, -0.79, -0.05, -0.10),
    ("affinity", "accuracy", "cifar100", -0.664, 0.072, -0.55, 0.32, 0.03),
    ("affinity", "accuracy", "imbalanced", -0.755, 0.030, -0.40, 0.81, 0.20),
    ("affinity", "accuracy", "imagenet-lt", -0.892, 0.003, -0.26, 0.45, 0.21),
    ("fidelity", "gap", "cifar100", 0.963, None, None, None, None),
    ("fidelity", "gap", "imbalanced", 0.964, None, None, None, None),
    ("fidelity", "gap", "imagenet-lt", 0.976, None, None, None, None),
    ("ece", "affinity", "cifar100", 0.871, None, None, None, None),
    ("ece", "affinity", "imbalanced", 0.902, None, None, None, None),
    ("ece", "affinity", "imagenet-lt", 0.775, None, None, None, None),
]


@pytest.mark.parametrize(("x", "y", "data", "r", "p", "weak", "strong", "centred"), STATED)
def test_published_correlations_are_mostly_between_groups(x, y, data, r, p, weak, strong, centred):
    found = correlate(PUBLISHED[data][x], PUBLISHED[data][y], STUDENTS)
    assert found.r == pytest.approx(r, abs=5.1e-4)
    assert (found.n, found.groups) == (8, 2)
    if p is not None:
        assert found.p == pytest.approx(p, abs=5.1e-4)
        # Two were rounded twice: -0.7248 is stated as -0.73, and -0.1747 as -0.18.
        assert [found.within["weak"], found.within["strong"]] == pytest.approx([weak, strong], abs=5.4e-3)
        assert found.centred == pytest.approx(centred, abs=5.4e-3)


def test_as_scipy_has_it():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12))
    found = correlate(x, y)
    assert found.r == pytest.approx(pearsonr(x, y).statistic)
    assert found.p == pytest.approx(pearsonr(x, y).pvalue)
    assert found.rho == pytest.approx(spearmanr(x, y).statistic)
    assert math.isnan(found.centred)
    assert found.within == {}


def test_all_of_it_is_said():
    one = PUBLISHED["cifar100"]
    assert str(correlate(one["fidelity"], one["accuracy"], STUDENTS)) == (
        "r = -0.69, ρ = -0.83, p = 0.059, n = 8; group-centred r = -0.18; within strong r = 0.30, weak r = -0.71"
    )
    assert str(correlate([1, 2, 4], [1, 2, 3])) == "r = 0.98, ρ = 1.00, p = 0.12, n = 3"


def test_too_few_constant_and_unknown():
    assert math.isnan(correlate([1, 2], [1, 2]).r)
    assert "too few" in str(correlate([1, 2], [1, 2]))
    assert math.isnan(correlate([1, 1, 1, 1], [1, 2, 3, 4]).r)
    assert "constant" in str(correlate([1, 1, 1, 1], [1, 2, 3, 4]))
    assert correlate([1, 2, 3, math.nan], [1, 2, 3, 4]).n == 3
    assert correlate([], []).n == 0
