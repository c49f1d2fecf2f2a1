"""The runs of a study as Ray tasks, on one machine or on a cluster: each begins when those it needs are done.

Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018. All nodes must see the study's
root and the data under the same paths (a shared file system), and have kdscope installed.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from kdscope.errors import KDScopeError
from kdscope.fleet import Outcome, Training, train_apart

say = logging.getLogger("kdscope").info


def on_ray(address: str | None = None, jobs: int | None = None) -> "Any":
    """The backend (`kdscope.study.conduct.Train`) that trains on the cluster at `address`; None starts one here.

    Args:
        jobs: trainings at a time; None: as many as the cluster has room for. Each takes one core, and as many GPUs as
            its `devices`, where the cluster has GPUs and the run does not say `device: cpu`.

    Raises:
        KDScopeError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise KDScopeError("--backend ray needs the package ray: pip install 'kdscope[ray]'") from None

    def train(trainings: Mapping[str, Training], needs: Mapping[str, Sequence[str]]) -> list[Outcome]:
        ours = not ray.is_initialized()
        if ours:
            _join(ray, address)
        try:
            return _train(ray, trainings, needs, jobs)
        finally:
            if ours:
                ray.shutdown()

    return train


def _join(ray: Any, address: str | None) -> None:
    options = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise KDScopeError(f"no Ray cluster at {address or 'this machine'}: {' '.join(str(error).split())}") from None


def _train(
    ray: Any, trainings: Mapping[str, Training], needs: Mapping[str, Sequence[str]], jobs: int | None
) -> list[Outcome]:
    gpus = ray.cluster_resources().get("GPU", 0)
    task = ray.remote(max_retries=1)(_one)  # a node that was lost: the run goes on from its last checkpoint on another
    left, refs, outcomes = dict(trainings), {}, {}
    try:
        while left or refs:
            for key in [key for key in left if _ready(key, left, refs, needs)]:
                if any(outcomes.get(need) and outcomes[need].error for need in needs[key]):
                    left.pop(key)  # waits for one that failed, and is said to
                elif jobs is None or len(refs) < jobs:
                    training = left.pop(key)
                    wanted = training.settings.get("devices", 1) if training.settings.get("device") != "cpu" else 0
                    options = {"num_cpus": 1, "num_gpus": wanted if gpus else 0, "name": training.path.name}
                    refs[key] = task.options(**options).remote(training)
            if not refs:
                continue
            (done,), _ = ray.wait([*refs.values()], num_returns=1)
            key = next(key for key, ref in refs.items() if ref == done)
            del refs[key]
            outcomes[key] = _result(ray, done, trainings[key])
            say(f"[{len(outcomes)}/{len(trainings)}] {outcomes[key]}")
    except KeyboardInterrupt:
        for ref in refs.values():
            ray.cancel(ref)
        raise
    return [*outcomes.values()]


def _ready(key: str, left: Mapping[str, Any], refs: Mapping[str, Any], needs: Mapping[str, Sequence[str]]) -> bool:
    return not any(need in left or need in refs for need in needs[key])


def _result(ray: Any, ref: Any, training: Training) -> Outcome:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:  # the process or its node is gone
        return Outcome(training.path, " ".join(str(error).split())[:300])


def _one(training: Training) -> Outcome:
    """A training in a worker of Ray: one thread, as in the local backend, so that the numbers are the same."""
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    return train_apart(training)
