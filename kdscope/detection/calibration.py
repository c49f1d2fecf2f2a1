"""Weights of a distillation for the very networks and images that it is for, measured before any of them is trained."""

import itertools
from collections.abc import Iterator, Mapping

import torch

from kdscope.config import Config
from kdscope.detection.methods.calibrate import View, calibrate
from kdscope.detection.task import Detection, observe_some
from kdscope.errors import KDScopeError
from kdscope.run import load_teacher
from kdscope.sources import resolve_device


def calibrated(
    config: Config,
    *,
    batches: int = 8,
    ratio: float = 2.0,
    by: str = "loss",
    shares: Mapping[str, float] | None = None,
    device: str = "auto",
) -> dict[str, dict[str, float]]:
    """Settings to write under `terms` of `config`, so that distillation starts at a chosen size; nothing is trained.

    A new student and the teacher see the first training batches of the run, in float32; the same config gives the same
    numbers on one kind of device, and torch's generators are left as they were.

    Args:
        config: of a run with a teacher (`kdscope.api.settings`).
        batches: how many, at least 1.
        ratio, by, shares: of `kdscope.detection.methods.calibrate.calibrate`.
        device: "auto" is the GPU where there is one.

    Raises:
        KDScopeError: a run without a teacher, or what `calibrate` cannot measure.
    """
    if not config.teachers:
        raise KDScopeError("calibrate: a run without a teacher has nothing to weigh; give one (--teacher RUN)")
    if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
        raise KDScopeError(f"calibrate: batches must be a whole number of at least 1, not {batches!r}")
    task, place = Detection(), torch.device(resolve_device(device))
    with torch.random.fork_rng():
        dataset = task.load_data(config.data)
        teachers = [load_teacher(teacher, dataset) for teacher in config.teachers]
        config, dataset, learner = task.prepare(config, False, teachers)
        learner.to(place)
        alone = {"rank": 0, "world_size": 1, "device": place}
        training, _ = task.batches(config, dataset, learner, alone)
        if learner.objective.observing:
            observe_some(learner, training, place)

        def views() -> Iterator[View]:
            learner.student.train()
            for batch in itertools.islice(training.epoch(0), batches):
                yield learner.look(*learner.arguments(batch))

        torch.manual_seed(config.seed)  # the rows that two-stage detectors sample are drawn by chance
        return calibrate(learner.objective, views(), ratio, by, shares, learner.student.parameters())
