"""What every measure on features must keep, made from its card; and closed forms of those that are not CKA."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from kdscope import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.features import FeatureMeasure, compact
from kdscope.measures.layers import NAMES as ALL
from kdscope.measures.layers import Layer, compare_layers
from kdscope.measures.logit_correlation import class_correlation, correlation_difference
from kdscope.measures.neighbour_overlap import jaccard, nearest_neighbours
from kdscope.measures.procrustes import procrustes_distance
from kdscope.measures.rsa import RDM, rsa

NAMES = [name for name in MEASURES if issubclass(MEASURES[name], FeatureMeasure)]
every_measure = pytest.mark.parametrize("name", NAMES)
every_definition = pytest.mark.parametrize(
    ("name", "definition"), [(name, definition) for name in NAMES for definition in MEASURES[name].definitions]
)


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 9)) * rng.uniform(0.3, 2, 9)
    return x, x[:, :5] + rng.normal(size=(150, 5))


def value(name, x, y, definition="kdscope"):
    return MEASURES[name](definition).update(x, y).estimate()


def claims(invariance):
    return pytest.mark.parametrize("name", [n for n in NAMES if invariance in MEASURES[n].card.invariances])


def test_all_are_there():
    assert set(ALL) == set(NAMES)


@every_definition
def test_the_result_is_whole(name, definition, pair):
    result, card = MEASURES[name](definition).update(*pair).compute(), MEASURES[name].card
    assert (result.measure, result.definition, result.n, result.per_sample) == (name, definition, 150, None)
    assert card.range[0] <= result.ci_low < result.value < result.ci_high <= card.range[1]
    assert result.source
    narrow = MEASURES[name](definition).update(*pair).compute(0.5)
    assert result.ci_low < narrow.ci_low < narrow.ci_high < result.ci_high


@every_definition
def test_batches_and_ranks_make_no_difference(name, definition, pair):
    x, y = pair
    whole = MEASURES[name](definition).update(x, y).compute()
    batches = MEASURES[name](definition)
    for rows in np.split(np.arange(150), [1, 20, 99]):
        batches.update(x[rows], y[rows])
    assert batches.compute().value == pytest.approx(whole.value, abs=1e-10)
    assert batches.compute().ci_low == pytest.approx(whole.ci_low, abs=1e-9)
    merged = MEASURES[name](definition)
    for rank in range(2):
        merged.merge(pickle.loads(pickle.dumps(MEASURES[name](definition).update(x[rank::2], y[rank::2]))))
    assert merged.estimate() == pytest.approx(whole.value, abs=1e-10)


@claims("rotation")
def test_rotations(name, pair):
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 9)))[0]
    assert value(name, pair[0] @ q.T, pair[1]) == pytest.approx(value(name, *pair), abs=1e-9)


@claims("scale")
def test_scale_and_shift(name, pair):
    moved = 7 * pair[0] - 3, 0.01 * pair[1] + np.arange(5)
    assert value(name, *moved) == pytest.approx(value(name, *pair), abs=1e-9)


@claims("swap")
def test_swap_and_order(name, pair):
    order = np.random.default_rng(2).permutation(150)
    assert value(name, pair[1][order], pair[0][order]) == pytest.approx(value(name, *pair), abs=1e-9)


@every_measure
def test_itself_is_the_best(name, pair):
    best = 0.0 if MEASURES[name].card.direction == "lower" else 1.0
    assert value(name, pair[0], pair[0]) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("name", [n for n in NAMES if MEASURES[n].card.null is not None])
def test_null(name):
    x, y = np.random.default_rng(5).normal(size=(2, 800, 10))
    result = MEASURES[name]().update(x, y).compute(0.999)
    assert abs(result.value - MEASURES[name].card.null) < 0.05
    assert result.ci_low < MEASURES[name].card.null < result.ci_high


@every_measure
def test_constants_are_counted_out(name, pair):
    result = MEASURES[name]().update(np.full((150, 3), 0.3), pair[1]).compute()
    assert (math.isnan(result.value), result.n, result.excluded) == (True, 0, 150)


@every_measure
def test_bad_features(name, pair):
    measure = MEASURES[name]().update(*pair)
    before = measure.estimate()
    broken = pair[1].copy()
    broken[[4, 9], 2] = np.inf
    with pytest.raises(KDScopeError, match="second features are NaN or infinite in 2 of 150 images; the first is 4"):
        measure.update(pair[0], broken)
    with pytest.raises(KDScopeError, match=r"the first features have shape \[150\]"):
        measure.update(pair[0][:, 0], pair[1])
    assert measure.estimate() == before
    with pytest.raises(KDScopeError, match="has seen no images"):
        MEASURES[name]().compute()
    with pytest.raises(KDScopeError, match="cannot be merged"):
        measure.merge(MEASURES["agreement"]())


@every_measure
def test_torch_and_numpy_agree(name, pair):
    assert value(name, *map(torch.tensor, pair)) == value(name, *pair)


@pytest.mark.parametrize(("name", "need"), [("cka", 4), ("rsa", 4), ("knn-jaccard", 20)])
def test_too_few_images_say_how_many_are_needed(name, need, pair):
    with pytest.raises(KDScopeError, match=f"{need} images, and there are 3"):
        value(name, pair[0][:3], pair[1][:3])


def test_procrustes_is_the_angle_of_the_best_rotation(pair):
    x, y = (z - z.mean(0) for z in (pair[0], np.c_[pair[1], np.zeros((150, 4))]))
    rotation, _ = orthogonal_procrustes(x, y)
    cosine = np.sum((x @ rotation) * y) / np.linalg.norm(x) / np.linalg.norm(y)
    assert procrustes_distance(*pair) == pytest.approx(np.arccos(cosine), abs=1e-10)
    assert procrustes_distance([[1, 0], [-1, 0], [0, 0]], [[0], [0], [0]]) != 0
    # Orthogonal signals have no rotation in common: X^T Y = 0.
    assert procrustes_distance([[1.0], [-1], [1], [-1]], [[1.0], [1], [-1], [-1]]) == pytest.approx(np.pi / 2)


def test_neighbours_are_those_of_scikit_learn(pair):
    x = pair[0]
    expected = NearestNeighbors(n_neighbors=10).fit(x).kneighbors(return_distance=False)
    assert (nearest_neighbours(x, 10) == expected).all()
    assert jaccard(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [5, 6]])).tolist() == [1.0, 0.0]
    # Chance: two random sets of 10 of 149 share 10 * 10 / 149.
    noise = np.random.default_rng(0).normal(size=(2, 1000, 10))
    assert value("knn-jaccard", *noise) < 0.02


def test_rsa_is_spearman_of_the_distances(pair):
    x, y = pair
    assert rsa(x, y) == pytest.approx(spearmanr(pdist(x), pdist(y)).statistic, abs=1e-7)
    by_correlation = spearmanr(pdist(x, "correlation"), pdist(y, "correlation")).statistic
    assert rsa(x, y, "kriegeskorte2008") == pytest.approx(by_correlation, abs=1e-7)


def test_ranks_of_a_part_need_no_sorting():
    from scipy.stats import rankdata

    x = np.random.default_rng(0).integers(0, 3, (30, 2)).astype(float)  # many equal distances
    kept = np.random.default_rng(1).random(435) < 0.7
    distance = np.round(np.square(pdist(x)), 6)
    assert np.array_equal(RDM(x).ranks(kept), rankdata(distance[kept]))


def test_a_matrix_is_its_cells(pair):
    x, y = pair
    found = compare_layers({"p": Layer(x), "q": Layer(x**2)}, {"r": Layer(y)})
    for name in ALL:
        alone = MEASURES[name]().update(x**2, y).compute()
        result = next(r for r in found["q", "r"] if (r.measure, r.definition) == (name, "kdscope"))
        assert (result.value, result.ci_low) == (pytest.approx(alone.value), pytest.approx(alone.ci_low))
    with pytest.raises(KDScopeError, match="unknown measure 'ckaa' in the likeness of layers; nearest: cka"):
        compare_layers({"p": Layer(x)}, {"r": Layer(y)}, ["ckaa"])
    with pytest.raises(KDScopeError, match="need at least 21 images, and there are 10"):
        compare_layers({"p": Layer(x[:10])}, {"r": Layer(y[:10])})
    with pytest.raises(KDScopeError, match=r"layers of \[149, 150\] images"):
        compare_layers({"p": Layer(x)}, {"r": Layer(y[1:])})


def test_compact_keeps_inner_products():
    x = np.random.default_rng(0).normal(size=(12, 300)).astype(np.float16)
    exact = x.astype(float) - x.astype(float).mean(0)
    assert np.allclose(compact(x) @ compact(x).T, exact @ exact.T)


def test_correlations_of_classes():
    z = np.random.default_rng(0).normal(size=(200, 5))
    centred = z - z.mean(axis=1, keepdims=True)
    assert class_correlation(z) == pytest.approx(np.corrcoef(centred.T), abs=1e-12)
    gauge = 100 * np.random.default_rng(1).normal(size=(200, 1))
    assert correlation_difference(z + gauge, z) == pytest.approx(np.zeros((5, 5)), abs=1e-9)
    with pytest.raises(KDScopeError, match="3 images and 3 classes"):
        class_correlation(z[:, :2])
    with pytest.raises(KDScopeError, match="same images and classes"):
        correlation_difference(z, z[1:])
