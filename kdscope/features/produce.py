"""An extraction as such: a producer of named arrays for a batch, and the cache that keeps what it makes of a split.

Batches are fixed by (images, batch size) alone, whatever the number of ranks and however often the extraction was
killed, because a network's rounding depends on what stands beside an image in its batch: a shard holds whole batches,
and those that are missing are computed again as the same batches.

A kind of cache is a producer: pooled features (`kdscope.features.extract`), attention maps (`kdscope.features.maps`).
Each has the key, the shards, the resumption and the manifest of this file, and a batch is all that it has to know of.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import kdscope
from kdscope.data import Batches, Dataset, Split
from kdscope.data.batches import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.cache import FeatureCache
from kdscope.features.hooks import unwrap
from kdscope.features.manifest import finalise, missing_shards, spans
from kdscope.features.plan import Plan, arrays_of, check_disk
from kdscope.features.resume import alone, begin, remaining
from kdscope.features.shard import SCHEMA, Array
from kdscope.features.writer import Background, ShardWriter, Transfer
from kdscope.progress import bar

PRECISIONS = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


class Producer:
    """Makes of a batch what a cache keeps of it; a context manager, for its hooks.

    Attributes:
        kind: of the cache, such as "maps"; part of the key unless it is "features".
        gradients: whether it needs them. Then the batch comes outside of inference mode and the parameters are frozen;
            else the network runs in inference mode.
    """

    kind: ClassVar[str] = "features"
    gradients: ClassVar[bool] = False

    def __enter__(self) -> "Producer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        return None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Named arrays [B, ...] of a batch: `logits` [B, C], and what else is kept.

        The name is the path in the HDF5 file (`features/LAYER`, `maps/METHOD/LAYER`, ...). Nothing may depend on which
        images stand in the batch together.
        """
        raise NotImplementedError

    def identity(self, first: Mapping[str, Tensor]) -> dict[str, Any]:
        """What it does, as JSON values: its part of the key. `first` is what it made of two images.

        `layers` (names) must be there.
        """
        raise NotImplementedError

    def dtype(self, name: str, value: Tensor) -> str:
        """The stored type of an array; by default its own."""
        return str(value.dtype).removeprefix("torch.")

    def reduction(self, name: str) -> str:
        """What was kept of a feature map, for those who read the file."""
        return ""


@dataclass(frozen=True)
class Job:
    """How an extraction goes about its work: the options that all kinds share, as in `extract_features`."""

    view: str = "none"
    view_seed: int = 0
    view_epoch: int = 0
    batch_size: int = 256
    device: str | torch.device = "cpu"
    precision: str = "32"
    identity: Mapping[str, Any] | None = None
    rank: int = 0
    world_size: int = 1
    barrier: Callable[[], None] = lambda: None
    limit: Tensor | None = None
    progress: bool = False
    dry_run: bool = False
    shard_bytes: int = 64 * 2**20
    commit_seconds: float = 60.0


def extract_arrays(
    model: nn.Module,
    dataset: Dataset,
    split: str | Split,
    out: str | Path,
    producer: Producer,
    job: Job,
    make: Callable[..., Any] | None = None,
    told: Callable[..., dict[str, Any]] | None = None,
) -> FeatureCache | Plan:
    """Write what `producer` makes of one view of one split to the cache `out`, or go on with one that was stopped.

    Labels and indices (int64) are always kept. The model runs in eval mode, and is given back as it was. A killed
    extraction, started again, ends with the same content as one that was never stopped.

    Args:
        model: the network that the producer runs; its weights are part of the key.
        dataset, split: whose images; `split` by its name, or a Split.
        out: the cache's directory, `NAME.kdcache`.
        producer: what is kept of a batch.
        job: see `kdscope.features.extract.extract_features`.
        make: of a split, what gives its batches (`batch`, `views`), each with a `label` and an `index`; None: images
            and their labels. told: the data's part of the identity, as `shown`.

    Raises:
        KDScopeError: a cache made under another key; more than 80 % of the free disk needed; a full disk; logits or
            features that are NaN or infinite; a value that float16 cannot hold; another process at work on the same
            cache.
    """
    if job.precision not in PRECISIONS:
        raise unknown("precision", job.precision, PRECISIONS)
    part = dataset.split(split) if isinstance(split, str) else split
    positions = _positions(part, job.limit)
    make = make or partial(
        Batches, statistics=dataset, augment=job.view, batch_size=job.batch_size, seed=job.view_seed, device=job.device
    )
    out = cache_path(out)
    with _evaluating(model, job.device, PRECISIONS[job.precision], producer.gradients), producer:
        two = part.subset(positions[:2])  # to see the shapes
        first = producer(make(two).batch(torch.arange(len(two)), job.view_epoch))
        arrays = arrays_of(first, len(two), producer.dtype, producer.reduction)
        plan = Plan(tuple(arrays), len(positions))
        if job.dry_run:
            return plan
        whole = {
            "schema": SCHEMA,
            **({} if producer.kind == "features" else {"kind": producer.kind}),
            **_known(model, job.identity),
            **producer.identity(first),
            "precision": job.precision,
            **(told or shown)(dataset, part, positions),
            "view": {"name": job.view, "seed": job.view_seed, "epoch": job.view_epoch},
            "versions": {"kdscope": kdscope.__version__, "torch": torch.__version__},
        }
        manifest = begin(out, whole, plan, dataset.classes, job.batch_size, str(job.device))
        if manifest["complete"] and not missing_shards(out, manifest):
            return FeatureCache(out)
        with alone(out, job.rank):
            todo = remaining(out, manifest["key"], positions, manifest["batch_size"], job.rank, job.world_size)
            count = sum(map(len, todo))
            check_disk(out, count, plan)
            writer = ShardWriter(
                out,
                job.rank,
                manifest["key"],
                arrays,
                batch=manifest["batch_size"],
                rows=count,
                shard_bytes=job.shard_bytes,
                seconds=job.commit_seconds,
            )
            batches = make(part).views(todo, job.view_epoch) if todo else ()
            shows = bar(f"extract {part.name}", count, job.progress and job.rank == 0)
            with Background(writer) as sink, shows as advance:
                for batch in batches:
                    sink.put(_stored(producer(batch), batch, arrays))
                    advance(len(batch.index))
    job.barrier()
    if job.rank == 0:
        finalise(out, positions)
    job.barrier()
    return FeatureCache(out)


def cache_path(out: str | Path) -> Path:
    """`out` with the suffix of a cache."""
    out = Path(out)
    return out if out.suffix == ".kdcache" else out.with_name(f"{out.name}.kdcache")


def _known(model: nn.Module, identity: Mapping[str, Any] | None) -> dict[str, Any]:
    """The caller's part of the identity, with the weights and a name of the model in any case."""
    known = dict(identity or {})
    if "weights" not in known:
        from kdscope.models import weights_hash

        known["weights"] = weights_hash(unwrap(model))
    return {"model": type(unwrap(model)).__name__, **known}


def shown(dataset: Dataset, part: Split, positions: Tensor) -> dict[str, Any]:
    """The data's part of the identity."""
    return {
        "dataset": dataset.name,
        "split": part.name,
        "data": part.fingerprint,
        "samples": spans(positions),
        "transform": {"size": list(part.shape[-2:]), "mean": list(dataset.mean), "std": list(dataset.std)},
    }


def _positions(part: Split, limit: Tensor | None) -> Tensor:
    if limit is None:
        return torch.arange(len(part))
    positions = torch.as_tensor(limit).long().cpu().unique()
    if not len(positions) or int(positions[0]) < 0 or int(positions[-1]) >= len(part):
        raise KDScopeError(f"the chosen images are not all in split {part.name!r}, which has 0 to {len(part) - 1}")
    return positions


@contextlib.contextmanager
def _evaluating(
    model: nn.Module, device: str | torch.device, autocast: torch.dtype | None, gradients: bool
) -> Iterator[None]:
    """The model on the device, in eval and inference mode; afterwards each module is as and where it was.

    With `gradients` it is not in inference mode, but its parameters are frozen: gradients are those of activations.
    """
    modes = {module: module.training for module in model.modules()}
    learns = {weight: weight.requires_grad for weight in model.parameters()} if gradients else {}
    origin = next((weight.device for weight in model.parameters()), None)
    try:
        model.to(device).eval()
        for weight in learns:
            weight.requires_grad_(False)
        kind = torch.device(device).type
        mode = torch.enable_grad() if gradients else torch.inference_mode()
        with mode, torch.autocast(kind, dtype=autocast, enabled=autocast is not None):
            yield
    finally:
        if origin is not None:
            model.to(origin)
        for weight, learned in learns.items():
            weight.requires_grad_(learned)
        for module, training in modes.items():
            module.training = training


def _stored(made: Mapping[str, Tensor], batch: Batch, arrays: Sequence[Array]) -> Transfer:
    """One batch in the types of the cache, on its way to the host, with the largest value of each image to check."""
    made = {**made, "labels": batch.label, "index": batch.index}
    tensors, checks = {}, {}
    for array in arrays:
        value, kind = made[array.name].detach(), getattr(torch, array.dtype)
        if kind == torch.float16 or array.name == "logits" or array.name.startswith("features/"):
            flat = value.reshape(len(value), -1)
            checks[array] = torch.maximum(flat.amax(1), -flat.amin(1))  # NaN where there is one
        value = value.to(kind)
        tensors[array.name] = value.view(torch.uint16) if kind == torch.bfloat16 else value
    return Transfer(tensors, checks)
