"""CKA against full Gram matrices, closed forms and the measured facts on noise."""

import math
import pickle

import numpy as np
import pytest
import torch
from processes import on_two_ranks

from kdscope import KDScopeError
from kdscope.measures.cka import CKA, linear_cka, rbf_cka
from kdscope.measures.hsic import Moments, Sums, biased_hsic, unbiased_hsic
from kdscope.measures.layers import Layer, compare_layers
from kdscope.measures.statistics import subsample_interval
from kdscope.measures.streamed_cka import StreamedCKA


def related(n, d1=12, d2=7, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d1)) * rng.uniform(0.2, 3, d1) + offset
    return x, x[:, :d2] @ rng.normal(size=(d2, d2)) + rng.normal(size=(n, d2)) - 2 * offset


def gram_cka(x, y, hsic=unbiased_hsic):
    k, l = ((x - x.mean(0)) @ (x - x.mean(0)).T for x in (x, y))  # noqa: E741
    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def noise(n, d=512, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, d))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_streamed_is_the_full_gram_value(offset):
    x, y = related(1500, offset=offset)
    streamed = StreamedCKA(groups=3)
    for rows in np.split(np.arange(1500), [1, 7, 500, 1400]):
        streamed.update({"x": x[rows]}, {"y": y[rows], "x": x[rows]})
    for definition, hsic in (("kdscope", unbiased_hsic), ("kornblith2019", biased_hsic)):
        found = streamed.compute(definition)
        assert found["x", "y"].value == pytest.approx(gram_cka(x, y, hsic), abs=1e-10)
        assert found["x", "x"].value == pytest.approx(1, abs=1e-12)


def test_unbiased_hsic_is_the_mean_over_quadruples():
    # Song et al. 2012: HSIC = E k12 l12 + E k12 l34 - 2 E k12 l13 over distinct images.
    x, y = related(6, 3, 2)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    from itertools import permutations

    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in permutations(range(6), 4)]
    assert unbiased_hsic(k, l) == pytest.approx(np.mean(terms), rel=1e-12)
    assert Sums().update(x, y).whole().unbiased() == pytest.approx(np.mean(terms), rel=1e-12)


def test_sums_can_be_moved_to_another_pilot():
    x, y = related(50, offset=3.0)
    d, e = np.random.default_rng(1).normal(size=12), np.random.default_rng(2).normal(size=7)
    moved, direct = Moments.of(x, y).moved(d, e), Moments.of(x - d, y - e)
    for name in ("x", "y", "products", "xx", "yy", "xx_yy", "x_yy", "y_xx"):
        assert np.allclose(getattr(moved, name), getattr(direct, name), rtol=1e-9, atol=1e-6), name


def test_leaving_out_a_group_is_having_left_it_out():
    x, y = related(103)
    left = [m.unbiased() for m in Sums(5).update(x[:40], y[:40]).update(x[40:], y[40:]).left_out()]
    kept = np.arange(103) % 5 != 3
    assert len(left) == 5
    assert left[3] == pytest.approx(Sums().update(x[kept], y[kept]).whole().unbiased(), rel=1e-10)


def test_ranks_merge_to_the_same_number():
    x, y = related(900, offset=5.0)
    whole = StreamedCKA(5).update({"x": x}, {"y": y}).compute()["x", "y"]
    merged = StreamedCKA(5)
    for rank in range(3):
        part = StreamedCKA(5).update({"x": x[rank::3]}, {"y": y[rank::3]})
        merged.merge(pickle.loads(pickle.dumps(part)))
    assert merged.seen == 900
    assert merged.compute()["x", "y"].value == pytest.approx(whole.value, abs=1e-10)


def test_two_ranks(tmp_path):
    def work(rank):
        x, y = related(400, offset=2.0)
        state = StreamedCKA().update({"x": torch.tensor(x[rank::2])}, {"y": torch.tensor(y[rank::2])})
        states = [None] * 2
        torch.distributed.all_gather_object(states, state)
        return states[0].merge(states[1]).compute()["x", "y"].value

    assert on_two_ranks(work, tmp_path) == pytest.approx(gram_cka(*related(400, offset=2.0)), abs=1e-10)


def test_closed_form():
    x, y = [[0, 0], [1, 0], [0, 1]], [[0], [1], [2]]
    assert linear_cka(x, y, "kornblith2019") == pytest.approx(0.474341649, abs=1e-9)


def test_rotation_scale_and_shift():
    x, _ = related(100)
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    for definition in ("kdscope", "kornblith2019"):
        assert linear_cka(x, 3 * x @ q + 7, definition) == pytest.approx(1, abs=1e-12)
    assert rbf_cka(x, 3 * x @ q + 7) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("n", "biased"),
    [(32, 0.941), (64, 0.890), (128, 0.799), (256, 0.666), (512, 0.500), (1024, 0.333), (4096, 0.111)],
)
def test_independent_gaussians_in_512_dimensions(n, biased):
    seeds = {32: 100, 64: 60, 128: 30, 256: 16, 512: 8, 1024: 4}.get(n, 2)
    both = [[linear_cka(*noise(n, seed=s), d) for d in ("kornblith2019", "kdscope")] for s in range(seeds)]
    mean, debiased = np.mean(both, axis=0)
    assert mean == pytest.approx(512 / (512 + n), abs=0.001)  # d / (n + d), from the moments of Wishart matrices
    assert mean == pytest.approx(biased, abs=0.0015)
    assert abs(debiased) < 0.01


@pytest.mark.parametrize("n", [32, 1024])
def test_the_noise_of_debiased_cka_of_independent_layers(n):
    values = [linear_cka(*noise(n, seed=s)) for s in range(100 if n < 1000 else 40)]
    assert np.std(values, ddof=1) == pytest.approx(math.sqrt(2) / n, rel=0.3)  # 0.044 and 0.0014
    assert min(values) < 0  # and is not clamped


@pytest.mark.parametrize(("n", "seeds", "near"), [(128, 100, 0.003), (1000, 6, 0.002), (4000, 3, 0.0006)])
def test_independent_gaussians_in_64_dimensions(n, seeds, near):
    # 0.334, 0.060 and 0.016; of 128 images one draw differs from the mean by 0.0075, so 0.343 is found, too.
    values = [linear_cka(*noise(n, 64, s), "kornblith2019") for s in range(seeds)]
    assert np.mean(values) == pytest.approx(64 / (64 + n), abs=near)
    assert n > 128 or np.std(values) == pytest.approx(0.0075, abs=0.001)


def test_one_shared_outlier_makes_biased_cka_near_1():
    biased, debiased = [], []
    for seed in range(10):
        x, y = noise(1000, 512, seed)
        x[0] *= 50
        y[0] *= 50
        biased.append(linear_cka(x, y, "kornblith2019"))
        debiased.append(linear_cka(x, y))
    assert biased == pytest.approx([0.998] * 10, abs=0.001)
    assert abs(np.mean(debiased)) < 0.015
    assert np.sqrt(np.mean(np.square(debiased))) == pytest.approx(0.021, abs=0.006)  # 0.025 is such a draw


def test_two_passes_over_a_shuffled_loader_pair_different_images():
    # torch_cka 0.21 with shuffle=True: why images are paired by their index, and a floor is shuffled images.
    x, y = related(2000, 40, 30)
    assert linear_cka(x, y) > 0.4
    shuffled = [linear_cka(x[np.random.default_rng(s).permutation(2000)], y) for s in range(3)]
    assert np.abs(shuffled).max() < 0.01


def test_all_batches_count_not_the_last():
    # ckatorch 1.0.3 assigns where it should add: its number is that of the last batch.
    x, y = related(300)
    streamed = StreamedCKA()
    for rows in np.split(np.arange(300), 3):
        streamed.update({"x": x[rows]}, {"y": y[rows]})
    assert streamed.compute()["x", "y"].value == pytest.approx(linear_cka(x, y), abs=1e-12)
    assert streamed.compute()["x", "y"].value != pytest.approx(linear_cka(x[200:], y[200:]), abs=1e-4)


@pytest.mark.parametrize(
    ("channels", "width", "wrong", "right"), [(16, 32, 0.869, 0.183), (32, 16, 0.931, 0.301), (64, 8, 0.969, 0.461)]
)
def test_averaging_the_wrong_axes_is_near_1_on_noise(channels, width, wrong, right):
    # Stanton et al.'s code averages maps [B, C, H, W] over C and H, and takes the W columns for the samples.
    means = []
    for seed in range(6):
        a, b = np.random.default_rng(seed).normal(size=(2, 128, channels, width, width)).astype(np.float32)
        columns = rbf_cka(a.mean(axis=(1, 2)).T, b.mean(axis=(1, 2)).T)
        pooled = rbf_cka(a.mean(axis=(2, 3)), b.mean(axis=(2, 3)))
        means.append((columns, pooled))
    assert np.mean(means, axis=0) == pytest.approx([wrong, right], abs=0.02)


@pytest.mark.parametrize(("n", "d", "found"), [(740, 512, 0.409), (256, 128, 0.333)])
def test_the_bootstrap_with_replacement_is_invalid_and_subsampling_is_not(n, d, found):
    # Duplicates are their own neighbours off the diagonal: what the U-statistic takes off comes back, d / (n + d).
    x, y = noise(n, d, 3)
    rng, times = np.random.default_rng(0), 10 if n > 500 else 60
    drawn = [linear_cka(x[i], y[i]) for i in rng.integers(0, n, (times, n))]
    halves = [linear_cka(x[i], y[i]) for i in (rng.permutation(n)[: n // 2] for _ in range(times))]
    value = linear_cka(x, y)
    assert abs(value) < 0.01
    assert np.mean(drawn) == pytest.approx(d / (n + d), abs=0.012)
    assert d / (n + d) == pytest.approx(found, abs=5e-4)
    assert np.mean(halves) == pytest.approx(value, abs=0.006)
    assert CKA.card.resampling == "jackknife"


def test_the_interval_of_subsamples_holds_the_truth():
    x, y = noise(256, 128, 3)
    low, high = subsample_interval(lambda i: linear_cka(x[i], y[i]), 256, resamples=60)
    assert low < 0 < high < 0.1


def test_the_interval_covers():
    rng = np.random.default_rng(0)
    population = related(20_000, 5, 4)
    truth = linear_cka(*population)
    hits = 0
    for _ in range(60):
        rows = rng.choice(20_000, 300, replace=False)
        result = CKA().update(population[0][rows], population[1][rows]).compute()
        hits += result.ci_low < truth < result.ci_high
    assert hits >= 52


def test_torch_on_its_device_in_half_precision():
    x, y = related(64)
    half = torch.tensor(x, requires_grad=True).half(), torch.tensor(y).bfloat16()
    streamed = StreamedCKA().update({"x": half[0]}, {"y": half[1]}).compute()["x", "y"].value
    assert streamed == pytest.approx(linear_cka(half[0].detach().double(), half[1].double()), abs=1e-12)


def test_constant_nan_and_too_few():
    x, y = related(30)
    result = CKA().update(np.full((30, 3), 0.1), y).compute()
    assert (math.isnan(result.value), result.n, result.excluded) == (True, 0, 30)
    with pytest.raises(KDScopeError, match="needs at least 4 images, and there are 3"):
        linear_cka(x[:3], y[:3])
    broken = x.copy()
    broken[[3, 8], 1] = np.nan
    with pytest.raises(KDScopeError, match=r"first features are NaN or infinite in 2 of 30 images; the first is 3"):
        linear_cka(broken, y)
    with pytest.raises(KDScopeError, match="layer 'late' of the first network is NaN or infinite in 2 of 30 images"):
        StreamedCKA().update({"late": broken}, {"y": y}).compute()
    with pytest.raises(KDScopeError, match="features of 30 and of 29 images"):
        linear_cka(x, y[1:])
    with pytest.raises(KDScopeError, match=r"\[29, 30\] images cannot be compared"):
        StreamedCKA().update({"x": x}, {"y": y[1:]})
    with pytest.raises(KDScopeError, match="has 9000 dimensions, more than 8192: pool it first"):
        StreamedCKA().update({"x": np.zeros((4, 9000))}, {"y": np.zeros((4, 1))})
    with pytest.raises(KDScopeError, match="began with other layers"):
        StreamedCKA().update({"x": x}, {"y": y}).update({"z": x}, {"y": y})
    with pytest.raises(KDScopeError, match="has seen no images"):
        StreamedCKA().compute()


def test_more_dimensions_than_fit_are_turned_exactly():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5000))
    y = x[:, :40] + rng.normal(size=(60, 40))
    found = compare_layers({"x": Layer(x)}, {"y": Layer(y)}, ["cka"])["x", "y"]
    assert found[0].value == pytest.approx(gram_cka(x, y), abs=1e-10)
    assert found[1].value == pytest.approx(gram_cka(x, y, biased_hsic), abs=1e-10)
    assert Layer(x).top == pytest.approx(np.linalg.norm(x - x.mean(0), 2) ** 2 / np.square(x - x.mean(0)).sum())
