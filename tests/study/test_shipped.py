"""The studies that come along: their recipes are those of the papers."""

import pytest

from kdscope.study import cells, load_study


@pytest.fixture(scope="module")
def guo():
    """The first training of each kind of run of Guo et al."""
    return {cell.group: cell.config for cell in cells(load_study("rethinkkd"), "paper") if cell.seed == 0}


# Epochs in all, and those after which the rate falls to a tenth (none: a cosine), by appendix A and the released code.
STUDENTS = {
    "cifar100": (200, [190, 195]), "lt100": (175, [160, 165, 170]), "imagenet": (60, None),
    "imagenet-lt": (165, [150, 155, 160]),
}  # fmt: skip
TEACHERS = {"cifar100": (60, [25, 40]), "lt100": (60, [25, 40]), "imagenet": (30, None), "imagenet-lt": (60, [35, 50])}


@pytest.mark.parametrize("data", STUDENTS)
def test_rates_fall_when_those_of_guo_do(guo, data):
    of_students = [f"{kind}-{data}-T1sT2w-Ss" for kind in ("two", "half", "standardised")]
    groups = dict.fromkeys([*of_students, f"alone-{data}-Ss", f"clean-{data}"], (STUDENTS[data], 8))
    for group, ((epochs, falls), warm) in (groups | {f"t1-{data}-w": (TEACHERS[data], 0)}).items():
        config = guo[group]
        optim = config.optim
        assert (config.epochs, optim.lr, optim.weight_decay, config.data.batch_size) == (epochs, 0.1, 0.0, 128)
        assert optim.warmup * epochs == pytest.approx(warm, abs=0.01)
        assert (optim.schedule == "cosine") == (falls is None)
        if falls is not None:
            assert [m * epochs for m in optim.milestones] == pytest.approx(falls, abs=0.01)


def test_the_loss_is_that_of_guo(guo):
    """0.2 CE + 0.8 tau^2 mean_i KL_i with tau = 10, or the same with a KL of another kind."""
    for kind, term in (("two", "kd"), ("standardised", "kd-z"), ("half", "kd-half")):
        config = guo[f"{kind}-cifar100-T1sT2w-Ss"]
        assert config.ensemble == "mean-loss"
        terms = {name: options for name, options in config.terms.items() if options["weight"]}
        assert {name: options["weight"] for name, options in terms.items()} == {"cross-entropy": 0.2, term: 0.8}
        assert terms[term]["temperature"] == 10
