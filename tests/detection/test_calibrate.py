"""Weights by measured size."""

import copy
from dataclasses import replace

import pytest
import torch
import yaml
from click.testing import CliRunner

import kdscope
from kdscope.api import settings
from kdscope.cli.main import cli
from kdscope.detection import models
from kdscope.detection.batch import DetectionBatch, DetectionFeatures, Rows, RowTargets
from kdscope.detection.calibration import calibrated
from kdscope.detection.data import load
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.learner import DetectionLearner
from kdscope.detection.methods.calibrate import calibrate, sizes
from kdscope.detection.methods.objective import DetectionObjective
from kdscope.detection.methods.presets import resolve
from kdscope.errors import KDScopeError

UNITS = (1.0, 1.0, 1.0, 1.0)
MODEL = {"name": "fcos_resnet10_w8", "options": {"min_size": 64}}
SHARED = {k: torch.zeros(2, 4, 32 // k, 32 // k, requires_grad=True) for k in (8, 16)}
QUICK = {"data": "scenes:16:128:8", "batch_size": 8, "epochs": 1, "model": MODEL, "augment": "none"}


def views_of(count=2, boxes=((4.0, 4.0, 14.0, 20.0),), scale=1.0, heads=True):
    """Maps of student and teacher on two levels, `count` batches; the student's loss is a function of its maps.

    The student's maps are drawn, and its parameters SHARED (a bias of every cell, zero) are added to them.
    """
    generator = torch.Generator().manual_seed(0)
    views = []
    for _ in range(count):
        maps = [
            {k: scale * torch.randn(2, 4, 32 // k, 32 // k, generator=generator) for k in (8, 16)} for _ in range(2)
        ]
        ours = {k: each + SHARED[k] for k, each in maps[0].items()}
        own = sum(each.square().mean() for each in ours.values()) / scale**2
        logits = torch.randn(2, 6, 3, generator=generator)
        moved = logits[0] + sum(each.mean() for each in ours.values())
        rows = [{"dense": Rows(z, torch.zeros(6, 4))} if heads else {} for z in (moved, logits[1])]
        labels = torch.tensor([1, 2, 0, 0, 0, -1])
        known = RowTargets(labels, torch.zeros(6, 4), labels >= 0, "sigmoid", UNITS, 2.0)
        each = torch.tensor(boxes).reshape(-1, 4)
        images, index = torch.zeros(2, 3, 32, 32), torch.arange(2)
        batch = DetectionBatch(images, ((32, 32),) * 2, (each, each), (), index, {"dense": known})
        student = DetectionFeatures(ours, rows[0], {"classification": own, "bbox_regression": 2 * own})
        views.append((student, DetectionFeatures(maps[1], rows[1]), batch))
    return views


def objective_of(method, views, **overrides):
    torch.manual_seed(0)
    objective = DetectionObjective(resolve(method, overrides), teacher=True)
    objective.build(*views[0][:2])
    for _, teacher, batch in views:
        objective.observe(teacher, batch)
    return objective


@pytest.mark.parametrize("by", ["loss", "gradient"])
@pytest.mark.parametrize("method", ["fgd", "fgd-normalised", "mimicry", "at", "kd"])
def test_with_the_weights_found_distillation_has_the_size_that_was_wished(method, by):
    views = views_of()
    objective = objective_of(method, views)
    found = calibrate(objective, views, ratio=0.5, by=by, parameters=SHARED.values())
    assert list(found) == [name for name in objective.terms if name != "detection"]
    after = sizes(objective_of(method, views, **found), views, by, SHARED.values())
    (name,) = found
    balanced = objective.terms[name].balanced
    if by == "loss" or not balanced:  # gradients of parts point elsewhere, so that their norms do not add up
        assert after[name] / after["own"] == pytest.approx(0.5, rel=0.01)
    for part, (_, share) in balanced.items():
        assert after[f"{name}.{part}"] / after["own"] == pytest.approx(0.5 * share, rel=0.01)


def test_two_terms_share_as_they_are_told():
    views = views_of()
    objective = objective_of("mimicry+at", views)
    for shares, expected in ((None, (0.5, 0.5)), ({"mimicry": 3, "at": 1}, (0.75, 0.25))):
        found = calibrate(objective, views, ratio=1.0, shares=shares)
        after = sizes(objective_of("mimicry+at", views, **found), views)
        assert (after["mimicry"] / after["own"], after["at"] / after["own"]) == pytest.approx(expected, rel=0.01)
    assert list(calibrate(objective, views, shares={"at": 1})) == ["at"]


def test_the_weights_found_do_not_depend_on_those_before_nor_on_the_scale_of_normalised_maps():
    views, scaled = views_of(), views_of(scale=40.0)
    first = calibrate(objective_of("fgd-normalised", views), views)
    settings = {"alpha": 7.0, "beta": 3.0, "gamma": 1.0, "lambda_": 0.01}
    other = calibrate(objective_of("fgd-normalised", views, fgd=settings), views)
    wide = calibrate(objective_of("fgd-normalised", scaled), scaled)
    for setting, value in first["fgd"].items():
        assert other["fgd"][setting] == pytest.approx(value, rel=0.01)
        if setting != "gamma":  # the attention of unit maps is that of unit maps
            assert wide["fgd"][setting] == pytest.approx(value, rel=0.01)


def test_calibration_repeats_and_changes_nothing():
    views = views_of()
    objective = objective_of("fgd-normalised+kd", views)
    before, state = copy.deepcopy(objective.state_dict()), torch.get_rng_state()
    every = ("loss", "gradient", "loss", "gradient")
    found = [calibrate(objective, views, by=by, parameters=SHARED.values()) for by in every]
    assert found[:2] == found[2:]
    assert found[0] != found[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert all(value == float(f"{value:.3g}") for settings in found[0].values() for value in settings.values())


def test_sizes_by_loss_are_means_over_batches_and_by_gradient_norms():
    views = views_of(3)
    objective = objective_of("mimicry", views, mimicry={"normalize": False, "reduction": "sum", "weight": 3.0})
    measured = sizes(objective, views)
    losses = [sum((s.maps[k] - t.maps[k]).square().sum() for k in (8, 16)) / 2 * 3.0 for s, t, _ in views]
    assert measured["mimicry"] == pytest.approx(sum(losses).item() / 3, rel=1e-5)
    own = [3 * sum(s.maps[k].square().mean() for k in (8, 16)) for s, _, _ in views]
    assert measured["own"] == pytest.approx(sum(own).item() / 3, rel=1e-5)
    by_hand = [
        sum((3.0 * (s.maps[k] - t.maps[k])).square().sum() for k in (8, 16)) for s, t, _ in views
    ]  # the gradient of sum (S - T)^2 / 2 images is S - T
    by_gradient = sizes(objective, views, "gradient", SHARED.values())
    assert by_gradient["mimicry"] == pytest.approx((sum(by_hand).item() / 3) ** 0.5, rel=1e-5)


def test_a_level_made_from_a_finer_one_counts_once_and_heads_do_not_count():
    """Stride 16 is stride 8 pooled: the loss on it is that on the mean, whatever goes through the finer map."""
    theta, head = torch.zeros(1, 2, 4, 4, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    start = torch.arange(32.0).view(1, 2, 4, 4)
    fine = start + theta
    coarse = 3 * torch.nn.functional.avg_pool2d(fine, 2)
    own = (head * fine.mean()).square()
    student = DetectionFeatures({8: fine, 16: coarse}, {}, {"classification": own})
    teacher = DetectionFeatures({8: torch.zeros(1, 2, 4, 4), 16: torch.zeros(1, 2, 2, 2)})
    batch = DetectionBatch(torch.zeros(1, 3, 32, 32), ((32, 32),), (torch.zeros(0, 4),), (), torch.arange(1))
    plain = {"normalize": False, "reduction": "sum", "weight": 1.0, "strides": [16]}
    views = [(student, teacher, batch)]
    measured = sizes(objective_of("mimicry", views, mimicry=plain), views, "gradient", [theta, head])
    # d/dtheta of sum (3 mean of four)^2 is 2 * 9 * mean / 4 in each of the four cells.
    means = torch.nn.functional.avg_pool2d(start, 2)
    assert measured["mimicry"] == pytest.approx((4 * (18 * means / 4).square().sum()).sqrt().item(), rel=1e-5)
    assert measured["own"] == pytest.approx(2 * 15.5 / 32**0.5, rel=1e-5)  # of theta alone: 32 cells, each 2 m / 32


def test_the_bounded_regression_keeps_its_weight_unless_it_is_named_by_gradient():
    views = views_of()
    objective = objective_of("chen2017", views)
    assert objective.names[-3:] == ("soft-class.dense", "bounded-box.dense", "hint")
    found = calibrate(objective, views, ratio=1.0)
    assert list(found) == ["soft-class", "hint"]
    after = sizes(objective_of("chen2017", views, **found), views)
    assert (after["soft-class"] / after["own"], after["hint"] / after["own"]) == pytest.approx((0.5, 0.5), rel=0.01)
    for shares, message in (
        ({"bounded-box": 1.0}, "calibrate: bounded-box begins near 0 and grows"),
        ({"hint": 1.0, "bounded-box": 0.5}, "calibrate: bounded-box begins near 0 and grows"),
    ):
        with pytest.raises(KDScopeError, match=message):
            calibrate(objective, views, shares=shares)
    alone = objective_of("chen2017", views, **{"soft-class": {"weight": 0}, "hint": {"weight": 0}})
    with pytest.raises(KDScopeError, match=r"bounded-box has its weight; to measure it all the same, name it \(shares"):
        calibrate(alone, views)


@pytest.mark.parametrize("by", ["loss", "gradient"])
def test_without_a_loss_of_the_detectors_own_there_is_nothing_to_compare_with(by):
    """As where the gradient is lost on the way: a weight of 0 would have come out, and no word."""
    views = [(replace(s, losses={"classification": 0 * s.losses["classification"]}), *rest) for s, *rest in views_of()]
    with pytest.raises(KDScopeError, match=f"the {by} of the detector's own losses is 0.0 on these batches"):
        calibrate(objective_of("mimicry", views), views, by=by, parameters=SHARED.values())
    with pytest.raises(KDScopeError, match="by gradient needs the student's parameters, and its maps depend on none"):
        calibrate(objective_of("mimicry", views), views, by="gradient", parameters=[torch.ones(1, requires_grad=True)])


@pytest.mark.parametrize(
    ("method", "views", "options", "message"),
    [
        ("fgd", views_of(boxes=()), {}, "calibrate: fgd.foreground is zero on these batches"),
        ("fgd", [], {}, "calibrate: no batch was given"),
        ("none", views_of(), {}, "calibrate: no term here distils"),
        ("fgd", views_of(), {"by": "losses"}, "unknown by 'losses' in calibrate; nearest: loss"),
        ("fgd", views_of(), {"shares": {"fdg": 1}}, "unknown term 'fdg' in calibrate; nearest: fgd"),
        *[
            ("fgd", views_of(), {"shares": {"fgd": share}}, "shares are numbers of at least 0, of which one is above 0")
            for share in (0, -1, float("nan"), float("inf"))
        ],
        *[
            ("fgd", views_of(), {"ratio": ratio}, f"calibrate: ratio must be a number above 0, not {ratio!r}")
            for ratio in (0, -1.0, float("nan"), float("inf"), True, "2")
        ],
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(method, views, options, message):
    objective = objective_of(method, views or views_of())
    with pytest.raises(KDScopeError) as error:
        calibrate(objective, views, **options)
    assert message in str(error.value)


# Of a run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    model = MODEL | {"name": "fcos_resnet10_w16"}
    return kdscope.train(tmp_path_factory.mktemp("runs") / "teacher", **QUICK | {"model": model})


def test_a_config_is_calibrated_before_it_is_trained(teacher):
    config = settings(teachers=[teacher], method="fgd-normalised", **QUICK)
    state = torch.get_rng_state()
    found = calibrated(config, batches=2, ratio=0.5)
    assert set(found["fgd"]) == {"alpha", "beta", "gamma", "lambda_"}
    assert calibrated(config, batches=2, ratio=0.5) == found
    assert torch.equal(torch.get_rng_state(), state)
    chosen = settings(teachers=[teacher], method="fgd-normalised", terms=found, **QUICK)
    assert calibrated(chosen, batches=2, ratio=0.5)["fgd"] == pytest.approx(found["fgd"], rel=0.02)


def test_calibration_looks_at_the_images_that_the_run_looks_at_and_at_their_sizes(teacher, tmp_path, monkeypatch):
    seen, look = [], DetectionLearner.observe

    def observe(learner, batch):
        sizes = learner.student.transform([image.float() for image in batch.images])[0].image_sizes
        seen.append((batch.index.tolist(), sizes))
        look(learner, batch)

    monkeypatch.setattr(DetectionLearner, "observe", observe)
    model = MODEL | {"options": {"min_size": [40, 48, 56, 64]}}
    options = QUICK | {"model": model, "batch_size": 4, "preflight": "off", "teachers": [teacher]}
    options |= {"method": "fgd-normalised"}
    calibrated(settings(**options), batches=1)
    before = list(seen)
    kdscope.train(tmp_path / "run", **options)
    assert len(before) > 1
    assert len({size for _, sizes in before for size in sizes}) > 1
    assert seen[len(before) :] == before


def test_the_command_prints_what_train_takes(teacher, tmp_path):
    config = tmp_path / "run.yaml"
    teachers = {"teachers": [{"run": str(teacher.path)}]}
    model = {"model": MODEL, "data": {"name": "scenes:16:128:8", "augment": "none", "batch_size": 8}}
    config.write_text(yaml.safe_dump(model | teachers | {"method": "mimicry"}))
    told = CliRunner().invoke(cli, ["calibrate", "--config", str(config), "--batches", "2", "--device", "cpu"])
    found = calibrated(settings(teachers=[teacher], method="mimicry", **QUICK), batches=2, device="cpu")
    assert told.output == f"--set terms.mimicry.weight={found['mimicry']['weight']}\n"
    wrong = CliRunner().invoke(cli, ["calibrate", "--config", str(config), "--share", "mimicry"])
    assert str(wrong.exception) == "--share mimicry: write TERM=NUMBER, such as hint=2"


def test_a_two_stage_pair_by_gradient_in_bfloat16_is_what_it_is_in_float32():
    """Under autocast the maps are cast beside the detector's own way; the parameters are under both."""
    torch.manual_seed(0)
    learner = DetectionLearner(
        models.build("fasterrcnn_resnet10_w8", 3, min_size=64),
        DetectionObjective(resolve("mimicry", {"mimicry": {"normalize": False}}), teacher=True),
        models.build("fasterrcnn_resnet10_w16", 3, min_size=64),
    )
    learner.build()
    batch = next(iter(DetectionBatches(load("scenes:8:128:8").train, batch_size=8).epoch(0)))
    measured = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            views = [learner.look(*learner.arguments(batch))]
        measured.append(sizes(learner.objective, views, "gradient", learner.student.parameters()))
    assert measured[0]["own"] > 0
    assert measured[1] == pytest.approx(measured[0], rel=0.2)


def test_a_run_without_a_teacher_has_nothing_to_weigh(teacher):
    with pytest.raises(KDScopeError, match="a run without a teacher has nothing to weigh"):
        calibrated(settings(**QUICK))
    with pytest.raises(KDScopeError, match="batches must be a whole number of at least 1, not 0"):
        calibrated(settings(teachers=[teacher], method="fgd", **QUICK), batches=0)
