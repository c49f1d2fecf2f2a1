"""The caches of the detectors of an analysis: found in the run's folder, or extracted now and kept there."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.manifest import missing_shards, spans
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
    from kdscope.detection.cached import extract_of
    from kdscope.detection.evaluate import most_of
    from kdscope.detection.extract import extract_detections

    dataset, path = _dataset(subject), _plain(subject, split)

    def make() -> FeatureCache:
        if not subject.prefix:  # with its detections for other tools
            return extract_of(Run(subject.folder.parent), split=split, device=subject.device, progress=True)
        network = subject.load()
        most = most_of(dataset.name)
        return extract_detections(network, dataset, split, path, most=most, **_options(subject, network))

    return _kept(subject, split, {path: None}, _told(subject) | {"weights": subject.weights}, make)


def kept_detections(subject: Subject, split: str) -> FeatureCache | None:
    """The cache that `detection_cache` would give without asking a network; None where there is none."""
    if subject.load is None:
        return None
    wanted = _told(subject) | {"weights": subject.weights}
    return _taken(subject, split, {_plain(subject, split): None}, wanted)


def random_init_cache(subject: Subject, split: str) -> FeatureCache | None:
    """What the same architecture says before any training, its weights drawn from a seed of their own: a floor.

    Of a split of more than 500 images, 500 evenly spread ones. It is kept beside the run's own caches, and its identity
    says what it is. None for a bare cache, whose network is not known.

    Raises:
        KDScopeError: a network that classifies images.
    """
    if subject.build is None:
        return None
    from kdscope.detection.evaluate import most_of
    from kdscope.detection.extract import extract_detections

    dataset, network = _dataset(subject), subject.build()
    limit = some_images(len(dataset.split(split)))
    stem = f"{subject.prefix}random-init-{split}-none" + ("" if limit is None else f"-{IMAGES}-images")
    path = subject.folder / f"{stem}.kdcache"

    def make() -> FeatureCache:
        options = _options(subject, network) | {"limit": limit, "most": most_of(dataset.name)}
        options["identity"] |= {"model": f"{subject.architecture} (random init)"}
        return extract_detections(network, dataset, split, path, **options)

    return _kept(subject, split, {path: limit}, _told(subject) | {"weights": weights_hash(network)}, make)


def pair_cache(
    student: Subject, teacher: Subject, split: str, kind: str = "pair", *, untrained: bool = False, fitted: bool = False
) -> FeatureCache:
    """A detector beside a teacher, its own or another's.

    Where the widths of their maps differ, those adapters are used that the student's run trained for this teacher.

    Args:
        kind: "pair" (`kdscope.detection.pair`), "patched-regions" or "patched-levels" (`kdscope.detection.patch`).
        untrained: whether the student is its architecture before any training, without adapters: a floor.
        fitted: whether the adapters are fitted to some training images, whatever the run trained
            (`kdscope.detection.fitted_adapters`); such a pair has no rows.

    Raises:
        KDScopeError: a bare cache; maps that cannot be compared.
    """
    from kdscope.detection.evaluate import most_of
    from kdscope.detection.fitted_adapters import fitted_adapters, recipe_of
    from kdscope.detection.pair import ROWS, extract_pair
    from kdscope.detection.patch import extract_patched
    from kdscope.detection.trained_adapters import adapters_of, hash_of

    for subject in (student, teacher):
        if subject.load is None:
            raise KDScopeError(f"{subject.name} is a cache; two detectors can be compared map by map only as runs")
    if untrained and student.build is None:
        raise KDScopeError(f"{student.name} cannot be built anew, so that there is no untrained network of its kind")
    dataset = _dataset(student)
    own = any(teacher.weights is not None and t.weights == teacher.weights for t in student.teachers[:1])
    trained = own and not (student.prefix or untrained or fitted)
    adapters = adapters_of(Run(student.folder.parent)) if trained else {}
    known = f"{student.prefix}{'random-init-' * untrained}{'fitted-' * fitted}"
    stem = f"{known}{split}-none-{kind}" + ("" if own else f"-{teacher.name}")
    begun = student.build() if untrained else None
    limit, rows = some_images(len(dataset.split(split))), 0 if fitted else ROWS
    last = student.folder / f"{stem}{'' if limit is None else f'-{IMAGES}-images'}.kdcache"

    def make() -> FeatureCache:
        network, other = begun or student.load(), teacher.load()
        options = _options(student, network) | {"limit": limit, "adapters": adapters}
        if fitted:
            options["adapters"] = fitted_adapters(network, other, dataset, options["device"])
        if untrained:
            options["identity"] |= {"model": f"{student.architecture} (random init)"}
        if kind == "pair":
            return extract_pair(network, other, dataset, split, last, rows=rows, **options)
        options |= {"by": kind.removeprefix("patched-"), "most": most_of(dataset.name)}
        return extract_patched(network, other, dataset, split, last, **options)

    weights = weights_hash(begun) if untrained else student.weights
    wanted = {"weights": weights, "teacher": teacher.weights, "adapters": hash_of(adapters)}
    wanted |= {"adapters": recipe_of(dataset)} if fitted else {}
    wanted |= {"kind": kind, "rows": rows} if kind == "pair" else _told(student) | {"kind": kind}
    return _kept(student, split, {student.folder / f"{stem}.kdcache": None, last: limit}, wanted, make)


def some_images(count: int, most: int = IMAGES) -> torch.Tensor | None:
    """The images that a cache of two networks is of; None: all.

    >>> some_images(10), some_images(10, 4).tolist()
    (None, [0, 2, 5, 7])
    """
    return None if count <= most else torch.arange(most) * count // most


def _dataset(subject: Subject) -> Any:
    if not hasattr(subject.dataset, "category_ids"):
        raise KDScopeError(
            f"{subject.name} classifies images of {subject.dataset.name!r}; this analysis is of detectors"
        )
    return subject.dataset


def _options(subject: Subject, network: torch.nn.Module) -> dict[str, Any]:
    identity = {"model": subject.architecture, "run": subject.name, "weights": weights_hash(network)}
    return {"identity": identity, "device": resolve_device(subject.device), "progress": True}


def _plain(subject: Subject, split: str) -> Path:
    return subject.folder / f"{subject.prefix}{split}-none.kdcache"


def _told(subject: Subject) -> dict[str, Any]:
    """What analyses ask of detections: with fewer of them, AP would be another number."""
    from kdscope.detection.evaluate import SCORE, most_of

    return {"kind": "detection", "score": SCORE, "most": most_of(subject.dataset.name)}


def _kept(
    subject: Subject,
    split: str,
    places: Mapping[Path, torch.Tensor | None],
    wanted: Mapping[str, Any],
    make: Callable[[], FeatureCache],
) -> FeatureCache:
    """The cache that is there, as `_taken` says; else it is made, in the last place."""
    cache = _taken(subject, split, places, wanted)
    if cache is not None:
        return cache
    last = list(places)[-1]
    if not last.exists():
        say(f"extracting {subject.name}: {last.stem}")
    return make()


def _taken(
    subject: Subject, split: str, places: Mapping[Path, torch.Tensor | None], wanted: Mapping[str, Any]
) -> FeatureCache | None:
    """The first cache of `places` that is complete and right, which is known without a network; None without one.

    Args:
        places: where one may lie, and of which images (None: all). wanted: what its identity must say.
    """
    if None in wanted.values():
        return None
    part = subject.dataset.split(split)
    for path, images in places.items():
        if path.exists():
            cache = FeatureCache(path)
            samples = spans(torch.arange(len(part)) if images is None else images)
            known = {**wanted, "data": part.fingerprint, "split": split, "samples": samples}
            right = {name: cache.identity.get(name) for name in known} == known
            if right and cache.complete and not missing_shards(path, cache.manifest):
                return cache
    return None
