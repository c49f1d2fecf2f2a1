"""What an extraction would write, and whether it fits the disk: known before it starts, from two images."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from kdscope.errors import KDScopeError
from kdscope.features.shard import Array

DISK_SHARE = 0.8


@dataclass(frozen=True)
class Plan:
    """What an extraction would write: `arrays` of `images` images.

    >>> plan = Plan((Array("logits", (10,), "float32"), Array("features/layer1", (16, 8, 8), "float16", "full")), 100)
    >>> plan.bytes_per_image, plan.total
    (2088, 208800)
    """

    arrays: tuple[Array, ...]
    images: int

    @property
    def bytes_per_image(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.images * self.bytes_per_image


def arrays_of(
    first: Mapping[str, Tensor],
    count: int,
    dtype: Callable[[str, Tensor], str],
    reduction: Callable[[str], str],
) -> list[Array]:
    """What is stored of an image, by what was made of `count` of them; a layer that mixes images is refused."""
    arrays = []
    for name, value in first.items():
        array = Array(name, tuple(value.shape[1:]), dtype(name, value), reduction(name))
        if value.dim() == 0 or len(value) != count:
            found = f"layer {array.layer!r} gives {tuple(value.shape)} for {count} images"
            raise KDScopeError(f"{found}: it does not keep the images apart")
        arrays.append(array)
        if name == "logits":
            arrays += [Array("labels", (), "int64"), Array("index", (), "int64")]
    return arrays


def check_disk(out: Path, images: int, plan: Plan) -> None:
    """Refuse, with a KDScopeError that says both numbers, what takes more than 80 % of the free disk."""
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    need = images * plan.bytes_per_image
    if need > DISK_SHARE * free:
        raise KDScopeError(
            f"{out} would take {size(need)}, more than {DISK_SHARE:.0%} of the {size(free)} that are free there; "
            "choose fewer layers, or a reduction"
        )


def size(count: int) -> str:
    """A number of bytes for people.

    >>> size(512), size(150 * 2**30)
    ('512 B', '150.0 GiB')
    """
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            break
    return f"{value:.1f} {unit}"
