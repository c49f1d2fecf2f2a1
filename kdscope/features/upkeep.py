"""Caches on a disk: which there are, whether they are whole, and what can go."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from filelock import FileLock, Timeout

from kdscope.errors import KDScopeError
from kdscope.features.manifest import INDEX, MANIFEST, from_spans, manifest_of
from kdscope.features.shard import damage, one_line, open_file, read_shard, shard_paths
from kdscope.files import read_json


@dataclass(frozen=True)
class Found:
    """One cache, as `kdscope cache ls` shows it; `problem` is what keeps its manifest from being read."""

    path: Path
    model: str = ""
    split: str = ""
    view: str = ""
    layers: int = 0
    images: int = 0
    done: int = 0
    bytes: int = 0
    complete: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Leftover:
    """Something that `kdscope cache gc` would remove, and why."""

    path: Path
    why: str
    bytes: int


def caches(folder: str | Path) -> list[Path]:
    """Every cache in `folder` (which may itself be one), in the order of their paths.

    Raises:
        KDScopeError: if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise KDScopeError(f"there is no folder {folder}")
    if _is_cache(folder):
        return [folder]
    return sorted(path for path in folder.rglob("*.kdcache") if path.is_dir())


def describe(path: Path) -> Found:
    """What a cache is, from its manifest."""
    taken = sum(file.stat().st_size for file in path.iterdir())
    try:
        manifest = manifest_of(path)
    except KDScopeError as error:
        return Found(path, bytes=taken, problem=str(error))
    if manifest is None:
        return Found(path, bytes=taken, problem=f"it has no {MANIFEST}")
    identity = manifest["identity"]
    return Found(
        path,
        str(identity.get("model", "")),
        identity["split"],
        identity["view"]["name"],
        len(identity["layers"]),
        manifest["images"],
        manifest["images"] if manifest["complete"] else _committed(path),
        taken,
        manifest["complete"],
    )


def verify(path: str | Path) -> list[str]:
    """What is wrong with a cache, one line each, by reading all of it; empty if it is whole.

    Recomputes the checksum of every shard, and checks keys, numbers of rows, images that are missing or there twice,
    and the virtual index.

    Raises:
        KDScopeError: if there is no cache at `path`, or its manifest cannot be read.
    """
    path = Path(path)
    manifest = manifest_of(path)
    if manifest is None:
        raise KDScopeError(f"{path} is not a feature cache: it has no {MANIFEST}")
    listed = {shard["file"]: shard for shard in manifest["shards"]}
    problems = [f"{name}: the shard is missing" for name in listed if not (path / name).exists()]
    held = [np.empty(0, np.int64)]
    for file in shard_paths(path):
        found, index = _verify_shard(file, manifest["key"], listed if manifest["complete"] else None)
        problems += found
        held.append(index)
    wanted = from_spans(manifest["identity"]["samples"])
    values, counts = np.unique(np.concatenate(held), return_counts=True)
    for what, images in (
        ("missing", np.setdiff1d(wanted, values)),
        ("there twice", values[counts > 1]),
        ("not of this cache", np.setdiff1d(values, wanted)),
    ):
        if len(images):
            problems.append(f"{len(images)} of {len(wanted)} images are {what}, the first is {images[0]}")
    return problems + (_verify_index(path, wanted) if manifest["complete"] else ["the extraction is not complete"])


def leftovers(folder: str | Path) -> list[Leftover]:
    """What can be removed from the caches in `folder`: nothing that a running extraction is at work on.

    Drafts of killed processes; caches that are not complete; caches of a run that has other weights by now (those that
    lie in `RUN/features` under the name of their split: probes and random networks have weights of their own).
    """
    return [leftover for path in caches(folder) if not _busy(path) for leftover in _leftovers(path)]


def remove(things: Iterable[Leftover]) -> int:
    """Remove them; returns the bytes that this freed."""
    freed = 0
    for thing in things:
        if thing.path.is_dir():
            shutil.rmtree(thing.path)
        else:
            thing.path.unlink(missing_ok=True)
        freed += thing.bytes
    return freed


def _leftovers(path: Path) -> list[Leftover]:
    found = describe(path)
    why = ""
    if not found.problem and not found.complete:
        why = f"not complete: {found.done} of {found.images} images"
    elif found.complete and _stale(path):
        why = "its run has other weights by now"
    if why:
        return [Leftover(path, why, found.bytes)]
    drafts = sorted(path.glob(".*.tmp"))
    return [Leftover(draft, "draft of a process that was killed", draft.stat().st_size) for draft in drafts]


def _stale(path: Path) -> bool:
    identity: dict[str, Any] = read_json(path / MANIFEST)["identity"]
    summary = path.parent.parent / "summary.json"
    if path.parent.name != "features" or not path.name.startswith(f"{identity['split']}-") or not summary.is_file():
        return False
    now = read_json(summary).get("weights_hash")
    return now is not None and now != identity["weights"]


def _busy(path: Path) -> bool:
    """Whether a process holds the lock of one of the cache's ranks."""
    for file in path.glob(".rank*.lock"):
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
    return False


def _is_cache(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or folder.suffix == ".kdcache"


def _committed(path: Path) -> int:
    """Images in the shards of a cache that is not complete; one that cannot be read counts for none."""
    count = 0
    for file in shard_paths(path):
        try:
            count += read_shard(file)[0].rows
        except KDScopeError:
            continue
    return count


def _verify_shard(file: Path, key: str, listed: dict[str, Any] | None) -> tuple[list[str], np.ndarray]:
    """Its problems, and the images it holds (none, if it cannot be trusted)."""
    nothing = np.empty(0, np.int64)
    if problem := damage(file):
        return [f"{file.name}: {problem}; remove this shard and extract again with the same settings"], nothing
    try:
        shard, index = read_shard(file, key)
    except KDScopeError as error:
        return [f"{file.name}: {error}"], nothing
    if listed is None:
        return [], index
    if file.name not in listed:
        return [f"{file.name}: the manifest does not know this shard"], index
    there = {name: getattr(shard, name) for name in listed[file.name]}
    wrong = [name for name, value in there.items() if value != listed[file.name][name]]
    return [f"{file.name}: {name} is not what the manifest says" for name in wrong], index


def _verify_index(path: Path, wanted: np.ndarray) -> list[str]:
    """Problems of `index.h5`; HDF5 itself fills in silently for a source that is gone."""
    problems = []
    try:
        with open_file(path / INDEX) as file:
            names = [name for name in _datasets(file) if file[name].is_virtual]
            sources = {source.file_name for name in names for source in file[name].virtual_sources()}
            gone = sorted(source for source in sources if not (path / source).exists())
            problems += [f"{INDEX}: its source {source} is missing" for source in gone]
            problems += [
                f"{INDEX}: {name} has {len(file[name])} rows" for name in names if len(file[name]) != len(wanted)
            ]
            if not gone and not np.array_equal(file["index"][:], wanted):
                problems.append(f"{INDEX}: its images are not those of the cache, in order")
    except (OSError, KeyError, RuntimeError) as error:
        problems.append(f"{INDEX} cannot be read: {one_line(error)}")
    return problems


def _datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names
