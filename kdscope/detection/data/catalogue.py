"""Detection datasets by name: the registry, and `load`."""

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kdscope.data.catalogue import Request
from kdscope.detection.data.record import DetectionDataset, hold_out
from kdscope.errors import KDScopeError
from kdscope.registry import Registry

DETECTION_DATASETS: Registry[Callable[[Request], DetectionDataset]] = Registry(
    "detection dataset", "kdscope.detection.data", "kdscope.detection_datasets"
)


def load(
    name: str,
    *,
    validation: float = 0.0,
    image_size: int | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> DetectionDataset:
    """The detection dataset `name`.

    Args:
        name: "scenes", "scenes:100", "coco:DIR", "coco-ids:DIR", "voc:DIR", "visdrone:DIR"; see `DETECTION_DATASETS`.
        validation: fraction of train to hold out, 0 <= validation < 1.
        image_size: height and width in pixels of generated scenes; files keep the size that they have, and it is the
            shorter side that detectors scale them to.
        seed: which training images are held out; nothing else depends on it.
        cache_dir: where `voc:DIR` and `visdrone:DIR` keep their annotations as COCO JSON; default: beside them, or
            where that cannot be written below KDSCOPE_CACHE (~/.cache/kdscope).
        progress: whether to show a progress bar on standard error, when that is a terminal.

    What was left out of the files, or cut, is said once by the logger "kdscope", and stands in the dataset's `notes`.

    Raises:
        KDScopeError: unknown name (with the nearest), data that is absent or unreadable, an option out of range.

    >>> dataset = load("scenes:8", validation=0.25)
    >>> dataset.classes, len(dataset.train), len(dataset.validation), tuple(dataset.train[0].image.shape)
    (('circle', 'square', 'triangle'), 6, 2, (3, 128, 128))
    """
    kind, _, argument = name.partition(":")
    factory = DETECTION_DATASETS[kind]
    if image_size is not None and not 1 <= image_size <= 4096:
        raise KDScopeError(f"image_size={image_size} is out of range; give 1 to 4096 pixels")
    place = None if cache_dir is None else Path(cache_dir).expanduser()
    dataset = factory(Request(name, argument, None, image_size, False, place, progress))
    for note in dataset.notes:
        _say(note)
    return hold_out(replace(dataset, image_size=image_size), validation, seed)


@functools.cache
def _say(note: str) -> None:
    """Once a process, however often a dataset is loaded."""
    logging.getLogger("kdscope").info(note)
