"""The caches of the detectors of an analysis: found in the run's folder, or extracted now and kept there."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.manifest import missing_shards
from kdscope.models import weights_hash
from kdscope.run import Run
from kdscope.sources import Subject, resolve_device

say = logging.getLogger("kdscope").info
IMAGES = 500  # of a split, evenly spread, that a cache of two networks is of at the most


def detection_cache(subject: Subject, split: str) -> FeatureCache:
    """What a detector finds in a split, and where it looks: a cache of kind "detection".

    Raises:
        KDScopeError: a network that classifies images; a bare cache that does not hold the split.
    """
    if subject.load is None:
        return subject.cache(split, kind="detection")
    from kdscope.detection.evaluate import most_of
    from kdscope.detection.extract import extract_detections

    dataset = detection_data(subject)
    path = subject.folder / f"{subject.prefix}{split}-none.kdcache"

    def make() -> FeatureCache:
        network = subject.load()
        return extract_detections(
            network, dataset, split, path, most=most_of(dataset.name), **_options(subject, network)
        )  # fmt: skip

    return _kept(subject, split, path, {"kind": "detection", "weights": subject.weights}, make)


def pair_cache(student: Subject, teacher: Subject, split: str) -> FeatureCache:
    """A detector beside a teacher, its own or another's: a cache of kind "pair".

    Where the widths of their maps differ, those adapters are used that the student's run trained for this teacher.

    Raises:
        KDScopeError: a bare cache; maps that cannot be compared.
    """
    from kdscope.detection.cached import adapters_of
    from kdscope.detection.pair import extract_pair

    dataset, path, own = _of_two(student, teacher, split, "pair")

    def make() -> FeatureCache:
        network, other = student.load(), teacher.load()
        adapters = adapters_of(Run(student.folder.parent)) if own else {}
        return extract_pair(
            network, other, dataset, split, path, adapters=adapters, limit=some_images(len(dataset.split(split))),
            **_options(student, network),
        )  # fmt: skip

    wanted = {"kind": "pair", "weights": student.weights, "teacher": teacher.weights}
    return _kept(student, split, path, wanted, make)


def patch_cache(student: Subject, teacher: Subject, split: str) -> FeatureCache:
    """What the teacher's heads find where parts of its maps are the student's: a cache of kind "patch".

    Raises:
        KDScopeError: a bare cache; maps of other widths or grids.
    """
    from kdscope.detection.evaluate import most_of
    from kdscope.detection.patch import extract_patched

    dataset, path, _ = _of_two(student, teacher, split, "patch")

    def make() -> FeatureCache:
        network = student.load()
        return extract_patched(
            network, teacher.load(), dataset, split, path, most=most_of(dataset.name),
            limit=some_images(len(dataset.split(split))), **_options(student, network),
        )  # fmt: skip

    wanted = {"kind": "patch", "weights": student.weights, "teacher": teacher.weights}
    return _kept(student, split, path, wanted, make)


def some_images(count: int, most: int = IMAGES) -> torch.Tensor | None:
    """The images that a cache of two networks is of; None: all.

    >>> some_images(10), some_images(10, 4).tolist()
    (None, [0, 2, 5, 7])
    """
    return None if count <= most else torch.arange(most) * count // most


def detection_data(subject: Subject) -> Any:
    """The dataset of a detector; a KDScopeError for a classifier."""
    if not hasattr(subject.dataset, "category_ids"):
        raise KDScopeError(
            f"{subject.name} classifies images of {subject.dataset.name!r}; this analysis is of detectors"
        )
    return subject.dataset


def _of_two(student: Subject, teacher: Subject, split: str, kind: str) -> tuple[Any, Path, bool]:
    """The data, where the cache lies, and whether the student's run learned from this very teacher."""
    for subject in (student, teacher):
        if subject.load is None:
            raise KDScopeError(f"{subject.name} is a cache; two detectors can be compared map by map only as runs")
        detection_data(subject)
    own = any(teacher.weights is not None and t.weights == teacher.weights for t in student.teachers[:1])
    end = "" if own else f"-{(teacher.weights or weights_hash(teacher.load()))[:8]}"
    return student.dataset, student.folder / f"{student.prefix}{split}-none-{kind}{end}.kdcache", own


def _options(subject: Subject, network: torch.nn.Module) -> dict[str, Any]:
    identity = {"model": subject.architecture, "run": subject.name, "weights": weights_hash(network)}
    return {"identity": identity, "device": resolve_device(subject.device), "progress": True}


def _kept(
    subject: Subject, split: str, path: Path, wanted: dict[str, Any], make: Callable[[], FeatureCache]
) -> FeatureCache:
    """The cache at `path` where it is complete and right, which is known without a network; else it is made."""
    if path.exists() and None not in wanted.values():
        try:
            cache = FeatureCache(path, wanted | {"data": subject.dataset.split(split).fingerprint, "split": split})
            if cache.complete and not missing_shards(path, cache.manifest):
                return cache
        except KDScopeError:
            pass  # what is wrong there is for the extraction to say
    if not path.exists():
        say(f"extracting {subject.name}: {path.stem}")
    return make()
