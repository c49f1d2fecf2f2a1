"""Tasks of known mutual information, after Czyz et al. (NeurIPS 2023), and what single draws may differ by."""

import numpy as np
from scipy.special import digamma, gammaln
from scipy.stats import norm


def is_such_a_draw(stated, draws, digit=0.005):
    """Whether a number that was published of one draw, rounded to twice `digit`, is one that others would find, too."""
    return np.abs(stated - np.mean(draws, axis=0)) < 3 * np.std(draws, axis=0, ddof=1) + digit


def is_their_mean(expected, draws, bias=0.0):
    """Whether draws have that mean, to four of their standard errors."""
    return np.abs(expected - np.mean(draws, axis=0)) < 4 * np.std(draws, axis=0, ddof=1) / np.sqrt(len(draws)) + bias


def correlation(nats):
    """Of two Gaussian numbers that share so much."""
    return np.sqrt(1 - np.exp(-2 * np.asarray(nats)))


def gaussians(d, nats, n=2_000, spread=True, seed=0):
    """x, y [n, d] that share `nats`, evenly over all dimensions or in the first alone.

    `seed` may be a generator, which then goes on.
    """
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, n, d))
    rho = np.zeros(d)
    rho[: d if spread else 1] = correlation(nats / (d if spread else 1))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


def bent(f, nats, n, seed):
    """Each margin mapped by an increasing f, which changes no mutual information."""
    return tuple(map(f, gaussians(1, nats, n, seed=seed)))


def turned(n, seed):
    """3 dimensions that share 0.9, 0.4 and 0.1 nats, each side mixed by a matrix of its own."""
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, n, 3))
    rho = correlation([0.9, 0.4, 0.1])
    return x @ rng.normal(size=(3, 3)), (rho * x + np.sqrt(1 - rho**2) * noise) @ rng.normal(size=(3, 3))


def uniform_noise(width, n, seed):
    """x uniform on [0, 1], and y = x + uniform noise on [-width, width]."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 1))
    return x, x + rng.uniform(-width, width, (n, 1))


def uniform_nats(width):
    return 1 / (4 * width) if width > 0.5 else width - np.log(2 * width)


def student_t(n, seed, freedom=3, nats=0.3):
    """Two numbers of one bivariate Student distribution."""
    scale = np.sqrt(freedom / np.random.default_rng([seed, 1]).chisquare(freedom, (n, 1)))
    x, y = gaussians(1, nats, n, seed=seed)
    return x * scale, y * scale


def student_nats(freedom=3, nats=0.3):
    """Arellano-Valle et al. 2013."""

    def part(k):
        return gammaln(k / 2) - k / 2 * digamma(k / 2)

    return nats + part(freedom) + part(freedom + 2) - 2 * part(freedom + 1)


def stretched(z):
    return np.sign(z) * np.abs(z) ** 1.5


# name: (sample(n, seed), nats, by how much at most a critic of linear variates falls short at n = 1,000)
TASKS = {
    "gaussian, weak": (lambda n, seed: gaussians(1, 0.1438, n, seed=seed), 0.1438, 0.03),
    "gaussian, strong": (lambda n, seed: gaussians(1, 1.5, n, seed=seed), 1.5, 0.05),
    "gaussian, two dimensions": (lambda n, seed: gaussians(2, 1.0, n, seed=seed), 1.0, 0.08),
    "gaussian, three mixed dimensions": (turned, 1.4, 0.08),
    "stretched tails": (lambda n, seed: bent(stretched, 0.8, n, seed), 0.8, 0.15),
    "squeezed tails": (lambda n, seed: bent(np.arcsinh, 0.8, n, seed), 0.8, 0.07),
    "uniform margins": (lambda n, seed: bent(norm.cdf, 0.8, n, seed), 0.8, 0.14),
    "uniform noise, wide": (lambda n, seed: uniform_noise(0.75, n, seed), uniform_nats(0.75), 0.2),
    "uniform noise, narrow": (lambda n, seed: uniform_noise(0.1, n, seed), uniform_nats(0.1), 0.25),
    "student": (student_t, student_nats(), 0.1),
    "nothing shared": (lambda n, seed: gaussians(2, 0.0, n, seed=seed), 0.0, 0.01),
}
