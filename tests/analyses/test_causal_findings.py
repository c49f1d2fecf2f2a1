"""What is said of causal maps, from caches that are written down: pairs, spread, and seeds together."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from kdscope.analyses.cast import Party
from kdscope.analyses.causal_findings import Found, of_own_maps, overlap_at, seeds_together
from kdscope.measures.intervention import mean_result, paired_result
from kdscope.sources import Subject

SHARES = [0.0, 0.5, 1.0]


@dataclass
class Told:
    """As much of a causal cache as is read."""

    arrays: dict
    baselines: tuple = ("mean",)
    index: np.ndarray = field(default_factory=lambda: np.arange(6))
    layers: tuple = ("input",)

    @property
    def names(self):
        return list(self.arrays)

    @property
    def identity(self):
        return {"attribution": {"baselines": list(self.baselines), "shares": SHARES, "tolerance": 0.01}}

    def array(self, name):
        return self.arrays[name]


def told(baselines=("mean",), seed=0, controls=("random", "smooth-random", "randomised-weights")):
    rng = np.random.default_rng(seed)
    arrays = {"mask": np.pad(np.ones((6, 2, 2)), ((0, 0), (0, 2), (0, 2)))}
    for name in baselines:
        which = f"input/{name}"
        arrays |= {f"error/{which}": np.array([0.0] * 5 + [0.5]), f"steps/{which}": np.full(6, 16)}
        arrays[f"maps/integrated-gradients/{which}"] = rng.normal(size=(6, 4, 4))
        arrays[f"maps/randomised-weights/{which}"] = rng.normal(size=(6, 4, 4))
        for mode in ("deletion", "insertion"):
            for by in ("own", *controls):
                arrays[f"{mode}/{by}/{which}"] = rng.random((6, 3))
    return Told(arrays, baselines)


def party(seed=0, group="kd"):
    return Party((Subject(name=f"{group}-{seed}", architecture="resnet8", group=group, seed=seed),))


def area(curve):
    return (curve[:, 0] / 2 + curve[:, 1] + curve[:, 2] / 2) / 2


def only(found, **wanted):
    (one,) = [f for f in found if all(getattr(f, name) == value for name, value in wanted.items() if name != "measure")
              and f.result.measure == wanted["measure"]]  # fmt: skip
    return one


def test_paired_differences_are_positive_where_the_own_map_finds_more():
    cache = told()
    others = Told(
        {f"{mode}/input/mean": np.full((6, 3), level) for mode, level in (("deletion", 2), ("insertion", -1))}
    )
    found = list(of_own_maps(party(), cache, others, 0.95))
    for than in ("other-image", "smooth-random", "randomised-weights"):
        for mode, sign in (("deletion", 1), ("insertion", -1)):
            one = only(found, measure=f"{mode}-gain", by="own", against=than)
            theirs = others.array(f"{mode}/input/mean") if than == "other-image" else None
            theirs = cache.array(f"{mode}/{than}/input/mean") if theirs is None else theirs
            expected = sign * (area(theirs) - area(cache.array(f"{mode}/own/input/mean")))
            assert np.allclose(one.result.per_sample[:5], expected[:5])
            assert np.isnan(one.result.per_sample[5])  # its attribution is not complete
            assert one.result.value == pytest.approx(expected[:5].mean())
            assert one.result.ci_low <= one.result.value <= one.result.ci_high
            assert (one.result.n, one.result.excluded) == (5, 1)
    assert only(found, measure="deletion-gain", against="other-image").result.ci_low > 0


def test_a_cache_without_the_smooth_control_has_no_rows_of_it():
    found = list(of_own_maps(party(), told(controls=("random", "randomised-weights")), None, 0.95))
    assert {f.against for f in found if f.result.measure.endswith("-gain")} == {"randomised-weights"}


def test_who_does_not_count_is_said():
    cache = told()
    maps = cache.arrays["maps/integrated-gradients/input/mean"]
    maps[0] = -np.abs(maps[0]) - 1
    one = only(of_own_maps(party(), cache, None, 0.95), measure="energy-inside")
    assert one.left_out == "1 not complete, 1 nowhere positive"
    assert (one.result.n, one.result.excluded) == (4, 2)
    assert one.result.floor == pytest.approx(0.25)


def test_the_spread_over_baselines_is_the_range_of_each_image():
    cache = told(("mean", "black", "blur"))
    found = list(of_own_maps(party(), cache, None, 0.95))
    areas = [area(cache.array(f"deletion/own/input/{name}")) for name in cache.baselines]
    spread = only(found, measure="deletion-auc-spread", against="mean, black, blur")
    assert spread.layer == "input"
    assert np.allclose(spread.result.per_sample[:5], np.ptp(areas, axis=0)[:5])
    overlaps = {(f.by, f.against) for f in found if f.result.measure == "baseline-overlap"}
    assert overlaps == {("mean", "black"), ("mean", "blur"), ("black", "blur")}
    assert not [f for f in of_own_maps(party(), told(), None, 0.95) if "baseline" in f.result.measure]


def test_seeds_together_are_the_mean_with_an_interval_over_seeds_and_images():
    rng = np.random.default_rng(0)
    found = []
    for seed in range(3):
        values, chance = rng.normal(0.4 + 0.1 * seed, 0.01, 40), rng.normal(0.9, 0.01, 40)
        for epoch in (None, 2):
            result = mean_result("deletion-auc", values).with_frame(float(chance.mean()), None, "floor: random masks")
            gain = paired_result("deletion-auc", chance, values)
            found.append(Found("own", party(seed), party(seed), "input/mean", "own", result, gain, epoch=epoch))
    found.append(Found("own", party(9, "at"), party(9, "at"), "input/mean", "own", result))
    together = list(seeds_together(found, 0.95))
    assert [(f.seeds, f.epoch) for f in together] == [(3, None), (3, 2)]
    one = together[0]
    values = np.array([f.result.per_sample for f in found[:6:2]])
    assert one.result.value == pytest.approx(values.mean())
    assert one.gain.value == pytest.approx(np.mean([f.gain.value for f in found[:6:2]]))
    assert one.result.floor == pytest.approx(np.mean([f.result.floor for f in found[:6:2]]))
    # seeds differ by 0.1 and images by 0.01: the interval is for another training, too
    half = 4.302653 * 0.1 / 3**0.5
    assert one.result.ci_high - one.result.value == pytest.approx(half, rel=0.05)
    assert one.gain.ci_high - one.gain.value == pytest.approx(half, rel=0.05)
    assert found[0].result.ci_high - found[0].result.ci_low < 0.01


def test_a_probe_meets_its_teacher_on_the_images_that_both_have():
    teacher, probe = told(seed=1), told(seed=2)
    probe.index = np.array([0, 2, 4, 6, 8, 10])
    probe.arrays["maps/integrated-gradients/input/mean"][:3] = teacher.array("maps/integrated-gradients/input/mean")[
        ::2
    ]
    (one,) = overlap_at("teacher-student", party(), party(1), teacher, probe, 4, 0.95)
    assert (one.epoch, one.result.n) == (4, 3)
    assert one.result.value == pytest.approx(1)
    probe.index = np.arange(100, 106)
    assert not list(overlap_at("teacher-student", party(), party(1), teacher, probe, 4, 0.95))
