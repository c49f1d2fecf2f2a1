"""The feature cache: what one model says of one view of one split, read lazily.

`NAME.kdcache/` holds immutable HDF5 shards, `manifest.json`, and `index.h5`, whose virtual datasets show the shards as
one file to h5py, HDFView or MATLAB. All readers here see the images in the order of their positions in the split.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kdscope.errors import KDScopeError, unknown
from kdscope.features.manifest import MANIFEST, differences, layout, manifest_of, missing_shards
from kdscope.features.shard import Array, one_line, open_file, read_shard, shard_paths

HANDLES = 32


class Stored:
    """One array of a cache, read when it is indexed: an int, a slice, or an array of positions.

    bfloat16 is given as float32, exactly. `np.asarray` reads all of it.
    """

    def __init__(self, cache: "FeatureCache", array: Array):
        self._cache, self._array = cache, array
        self.shape = (len(cache), *array.shape)
        self.dtype = np.dtype("float32" if array.dtype == "bfloat16" else array.dtype)
        self.reduction = array.reduction

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        value = self._rows(first)
        return value[(slice(None), *rest)] if rest and value.ndim == len(self.shape) else value[tuple(rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def __repr__(self) -> str:
        return f"Stored({self._array.name!r}, shape={self.shape}, dtype={self._array.dtype})"

    def _rows(self, key: Any) -> np.ndarray:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step < 0:
                return self._rows(np.arange(start, stop, step))
            return self._read(start, max(start, stop))[::step]
        if key is Ellipsis:
            return self._read(0, len(self))
        positions = np.asarray(key)
        if positions.dtype == bool:
            positions = np.flatnonzero(positions)
        flat = np.atleast_1d(positions).astype(np.int64)
        flat = np.where(flat < 0, flat + len(self), flat)
        if flat.size and (flat.min() < 0 or flat.max() >= len(self)):
            raise IndexError(f"position {key} is outside a cache of {len(self)} images")
        rows = self._gather(flat)
        return rows[0] if positions.ndim == 0 else rows

    def _gather(self, positions: np.ndarray) -> np.ndarray:
        """Rows in any order: sorted, read in runs (HDF5's own fancy indexing is many times slower), put back."""
        order = np.argsort(positions, kind="stable")
        out = np.empty((len(positions), *self.shape[1:]), self.dtype)
        near = np.flatnonzero(np.diff(positions[order]) > max(1, 2**16 // max(1, self._array.bytes))) + 1
        for run in np.split(order, near) if len(order) else []:
            low = positions[run[0]]
            out[run] = self._read(low, positions[run[-1]] + 1)[positions[run] - low]
        return out

    def _read(self, start: int, stop: int) -> np.ndarray:
        raw = np.empty((stop - start, *self.shape[1:]), self._array.stored)
        for at, file, row, count in self._cache._runs(start, stop):
            self._cache._open(file)[self._array.name].read_direct(raw, np.s_[row : row + count], np.s_[at : at + count])
        if self._array.dtype == "bfloat16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw


class FeatureCache:
    """A cache on disk. Opening it reads the manifest only; arrays are read when they are asked for.

    It can be pickled and used after a fork: each process opens the files for itself.

    Args:
        path: the directory `NAME.kdcache`.
        identity: where given, the fields that the cache must have been made with (`weights`, `data`, ...).

    Attributes:
        manifest: all that is known of it; identity: what it was made from; key: the hash of that.
        classes, split, view, layers: names, as extracted.

    Raises:
        KDScopeError: no cache there; another schema; a field of `identity` that differs, by its name; on reading, an
            extraction that was not completed, or a shard that is missing.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any] | None = None):
        self.path = Path(path)
        if not self.path.exists() and self.path.with_name(f"{self.path.name}.kdcache").exists():
            self.path = self.path.with_name(f"{self.path.name}.kdcache")
        manifest = manifest_of(self.path)
        if manifest is None:
            raise KDScopeError(f"{self.path} is not a feature cache: it has no {MANIFEST}")
        self.manifest = manifest
        self.identity: dict[str, Any] = manifest["identity"]
        if identity is not None:
            there = {name: self.identity.get(name) for name in identity}
            if there != dict(identity):
                raise KDScopeError(f"{self.path} was made from something else: {differences(there, identity)}")
        self.key: str = manifest["key"]
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self.split: str = self.identity["split"]
        self.view: str = self.identity["view"]["name"]
        self.layers: list[str] = list(self.identity["layers"])
        self._arrays = {array.name: array for array in map(Array.from_json, manifest["arrays"])}
        self._files: OrderedDict[str, h5py.File] = OrderedDict()
        self._process = os.getpid()

    @property
    def complete(self) -> bool:
        """Whether the extraction came to its end; an incomplete cache cannot be read."""
        return self.manifest["complete"]

    def __len__(self) -> int:
        return self.manifest["images"]

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.path)!r}, {len(self)} images of {self.split}, layers {self.layers})"

    @cached_property
    def logits(self) -> np.ndarray:
        """float32 [N, C]."""
        return Stored(self, self._arrays["logits"])[:]

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 [N]."""
        return Stored(self, self._arrays["labels"])[:]

    @cached_property
    def index(self) -> np.ndarray:
        """int64 [N], positions in the split, ascending."""
        return Stored(self, self._arrays["index"])[:]

    def feature(self, layer: str) -> Stored:
        """The features of `layer`, [N, ...], read as they are indexed; an unknown layer is a KDScopeError."""
        if f"features/{layer}" not in self._arrays:
            raise unknown("layer", layer, self.layers, str(self.path))
        return Stored(self, self._arrays[f"features/{layer}"])

    @property
    def kind(self) -> str:
        """What it holds: "features", or what its producer calls it, such as "maps"."""
        return self.identity.get("kind", "features")

    @property
    def names(self) -> list[str]:
        """The names of all arrays, as `array` takes them."""
        return list(self._arrays)

    def array(self, name: str) -> Stored:
        """The array of that name, [N, ...], read as it is indexed; an unknown one is a KDScopeError."""
        if name not in self._arrays:
            raise unknown("array", name, self._arrays, str(self.path))
        return Stored(self, self._arrays[name])

    def blocks(self, layers: Sequence[str] | None = None, size: int = 1024) -> Iterator[dict[str, np.ndarray]]:
        """Blocks of at most `size` images, in order, by name: layers, or arrays such as `logits` or `index`."""
        names = self.layers if layers is None else layers
        stored = {name: self.array(name) if name in self._arrays else self.feature(name) for name in names}
        for start in range(0, len(self), size):
            yield {name: array[start : start + size] for name, array in stored.items()}

    def check_compatible(self, other: "FeatureCache") -> None:
        """A KDScopeError unless both caches are of the same view of the same images, and of the same classes."""
        fields = ("data", "samples", "view")
        mine, theirs = ({name: cache.identity.get(name) for name in fields} for cache in (self, other))
        if self.view == other.view == "none":  # whose seed changes nothing
            mine.pop("view"), theirs.pop("view")
        if mine != theirs:
            raise KDScopeError(f"{self.path} and {other.path} are not of the same images: {differences(mine, theirs)}")
        if self.classes != other.classes:
            raise KDScopeError(f"{self.path} and {other.path} do not have the same classes")

    def close(self) -> None:
        """Close the files that are open; they are opened again when they are needed."""
        while self._files:
            self._files.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    @cached_property
    def _layout(self) -> tuple[list[str], np.ndarray]:
        """Runs of consecutive images: their files, and rows (start in the cache, row in the file), ascending."""
        if not self.complete:
            done = sum(read_shard(path)[0].rows for path in shard_paths(self.path))
            raise KDScopeError(
                f"{self.path} is not complete: {done} of {len(self)} images; "
                "extract again with the same settings to go on"
            )
        if absent := missing_shards(self.path, self.manifest):
            raise KDScopeError(f"{self.path}: {absent[0]}; extract again with the same settings to mend it")
        shards = [shard["file"] for shard in self.manifest["shards"]]
        return layout([(file, read_shard(self.path / file, self.key)[1]) for file in shards])

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, str, int, int]]:
        """What to read for images start..stop: (position in the result, file, row, count)."""
        files, table = self._layout
        begins = table[:, 0]
        for i in range(max(0, int(np.searchsorted(begins, start, "right")) - 1), len(files)):
            begin = int(begins[i])
            if begin >= stop:
                return
            end = int(begins[i + 1]) if i + 1 < len(files) else len(self)
            low, high = max(begin, start), min(end, stop)
            if low < high:
                yield low - start, files[i], int(table[i, 1]) + low - begin, high - low

    def _open(self, file: str) -> h5py.File:
        if self._process != os.getpid():  # after a fork the parent's handles are not ours to use
            self._process, self._files = os.getpid(), OrderedDict()
        if file not in self._files:
            while len(self._files) >= HANDLES:
                self._files.popitem(last=False)[1].close()
            try:
                self._files[file] = open_file(self.path / file)
            except OSError as error:
                raise KDScopeError(f"the shard {self.path / file} cannot be read: {one_line(error)}") from error
        self._files.move_to_end(file)
        return self._files[file]
