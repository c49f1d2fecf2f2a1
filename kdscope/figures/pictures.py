"""Pixels that a figure shows beside the numbers of a table: images, maps of them, and where the object is.

A tidy table has no place for pixels. They stand beside it in one .npz, which the table names in its column `pictures`;
`kdscope.figures.draw` finds it there. Nothing in it is pickled.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdscope.errors import KDScopeError
from kdscope.files import replacing


@dataclass(frozen=True)
class Pictures:
    """Maps of some images by some networks.

    Attributes:
        title: what the maps are. rule: how the images were chosen.
        images: uint8 [R, 3, H, W]; none (R, 3, 0, 0) where they are not known. rows: a name for each image.
        maps: for each network its maps [R, h, w], each on its own grid.
        masks: bool [R, H', W'], the true foreground; (R, 0, 0) where it is not known.
        values: what stands under the maps, by its name: float [R, networks], NaN for nothing.
    """

    title: str
    rule: str
    images: np.ndarray
    rows: tuple[str, ...]
    maps: Mapping[str, np.ndarray]
    masks: np.ndarray
    values: Mapping[str, np.ndarray]


def write_pictures(pictures: Pictures, path: str | Path) -> None:
    """One .npz, whole or not at all; the same pictures give the same bytes."""
    arrays = {
        "title": np.array(pictures.title), "rule": np.array(pictures.rule), "rows": np.array(pictures.rows),
        "images": pictures.images, "masks": pictures.masks,
        "networks": np.array(list(pictures.maps)), "measures": np.array(list(pictures.values), dtype=str),
    }  # fmt: skip
    arrays |= {f"map_{k}": maps for k, maps in enumerate(pictures.maps.values())}
    arrays |= {f"value_{k}": values for k, values in enumerate(pictures.values.values())}
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_pictures(path: str | Path) -> Pictures:
    """What `write_pictures` wrote; a KDScopeError for a file that is something else."""
    try:
        with np.load(path, allow_pickle=False) as held:
            return Pictures(
                title=str(held["title"]), rule=str(held["rule"]), images=held["images"],
                rows=tuple(map(str, held["rows"])),
                maps={str(name): held[f"map_{k}"] for k, name in enumerate(held["networks"])},
                masks=held["masks"],
                values={str(name): held[f"value_{k}"] for k, name in enumerate(held["measures"])},
            )  # fmt: skip
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise KDScopeError(f"{path} holds no pictures of a gallery: {' '.join(str(error).split())}") from error
