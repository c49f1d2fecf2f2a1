"""Where an extraction begins or goes on: the manifest under its key, one process for each rank, what is left to do."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from kdscope.errors import KDScopeError
from kdscope.features.manifest import (
    MANIFEST,
    differ_in_versions,
    differences,
    key_of,
    manifest_of,
    missing_shards,
    write_manifest,
)
from kdscope.features.plan import Plan, check_disk
from kdscope.features.shard import SCHEMA, damage, read_shard, shard_paths

_OWN = (".h5", ".tmp", ".lock")


def begin(
    out: Path, identity: dict[str, Any], plan: Plan, classes: tuple[str, ...], batch_size: int, device: str
) -> dict[str, Any]:
    """The manifest of a cache that is begun here, or of one that is gone on with, if it has the same key.

    Other versions of torch or kdscope make another key, so that no cache is half of one and half of the other; but one
    that is complete is good whatever made it (its manifest says what did), and is not made again.

    Raises:
        KDScopeError: another key, by the fields that differ; a folder of something else; too little room on the disk.
    """
    manifest, key = manifest_of(out), key_of(identity)
    if manifest is not None and manifest["key"] != key:
        older = differ_in_versions(manifest["identity"], identity)
        if older and manifest["complete"] and not missing_shards(out, manifest):
            return manifest
        with alone(out, 0):  # one that was stopped before its first shard may as well become this one
            if manifest["complete"] or shard_paths(out):
                fields = differences(manifest["identity"], identity)
                if older:
                    raise KDScopeError(
                        f"{out} is not whole, and was begun under other versions: {fields}; "
                        "go on under those, or remove it to begin again"
                    )
                raise KDScopeError(f"{out} was made from something else: {fields}")
            (out / MANIFEST).unlink(missing_ok=True)
            manifest = None
    if manifest is None:
        if out.exists() and not (out.is_dir() and all(path.suffix in _OWN for path in out.iterdir())):
            raise KDScopeError(f"{out} is something else than a cache; name a new folder for it")
        manifest = {
            "schema": SCHEMA,
            "key": key,
            "complete": False,
            "images": plan.images,
            "classes": list(classes),
            "batch_size": batch_size,
            "device": device,
            "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "identity": identity,
            "arrays": [array.to_json() for array in plan.arrays],
            "shards": [],
        }
        check_disk(out, plan.images, plan)
        write_manifest(out, manifest)
    return manifest


@contextlib.contextmanager
def alone(out: Path, rank: int) -> Iterator[None]:
    """One process for each rank of a cache; a killed one leaves nothing locked."""
    lock = FileLock(out / f".rank{rank:02d}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        raise KDScopeError(f"another process is extracting to {out}") from None
    try:
        yield
    finally:
        lock.release()


def remaining(out: Path, key: str, positions: Tensor, batch_size: int, rank: int, world_size: int) -> list[Tensor]:
    """The batches of this rank that no committed shard holds, int64 each.

    The drafts of earlier processes of this rank are removed, and so is a damaged shard, whose batches are made again.
    """
    for draft in out.glob(f".shard-rank{rank:02d}-*.tmp"):
        draft.unlink(missing_ok=True)
    committed = torch.zeros(int(positions[-1]) + 1, dtype=torch.bool)
    for path in shard_paths(out):
        if damage(path):
            if int(path.name[10:12]) % world_size == rank:
                path.unlink(missing_ok=True)
            continue
        committed[torch.from_numpy(read_shard(path, key)[1])] = True
    parts = positions.split(batch_size)
    mine = parts[len(parts) * rank // world_size : len(parts) * (rank + 1) // world_size]
    return [part for part in mine if not committed[part].all()]
