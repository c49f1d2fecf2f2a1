"""Extraction: run a network over a split once, and keep on disk what it says of each image.

Batches are fixed by (images, batch size) alone, whatever the number of ranks and however often the extraction was
killed, because a network's rounding depends on what stands beside an image in its batch: a shard holds whole batches,
and those that are missing are computed again as the same batches.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kdscope
from kdscope.data import Batches, Dataset, Split
from kdscope.errors import KDScopeError, unknown
from kdscope.features.cache import FeatureCache
from kdscope.features.hooks import Capture, unwrap
from kdscope.features.manifest import finalise, missing_shards, spans
from kdscope.features.plan import Plan, arrays_of, check_disk
from kdscope.features.reduce import reduction as reduction_named
from kdscope.features.resume import alone, begin, remaining
from kdscope.features.select import PENULTIMATE
from kdscope.features.shard import SCHEMA
from kdscope.features.writer import Background, ShardWriter, Transfer

DTYPES = ("float16", "bfloat16", "float32")
PRECISIONS = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}
FLOAT16_MAX = 65504.0


def extract_features(
    model: nn.Module,
    dataset: Dataset,
    split: str | Split,
    out: str | Path,
    *,
    layers: Sequence[str] | None = None,
    reduction: str = "pool",
    dtype: str | None = None,
    view: str = "none",
    view_seed: int = 0,
    view_epoch: int = 0,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    precision: str = "32",
    identity: Mapping[str, Any] | None = None,
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], None] = lambda: None,
    limit: Tensor | None = None,
    progress: bool = False,
    dry_run: bool = False,
    shard_bytes: int = 64 * 2**20,
    commit_seconds: float = 60.0,
) -> FeatureCache | Plan:
    """Write what `model` says of one view of one split to the cache `out`, or go on with one that was stopped.

    Logits (float32), labels and indices (int64) are always kept. The model runs in eval and inference mode, and is
    given back as it was. A killed extraction, started again, ends with the same content as one that was never stopped.

    Args:
        model: images [B, 3, H, W] to logits [B, C].
        dataset, split: whose images; `split` by its name, or a Split.
        out: the cache's directory, `NAME.kdcache`.
        layers: patterns (`kdscope.features.select`); default: `default_layers`.
        reduction: `pool` (average over positions), `attention` (activation map at native resolution), `full`.
        dtype: of features: `float16` (a value beyond its range stops the extraction), `bfloat16` or `float32`; default:
            float32 for attention maps, whose squares leave the range of float16 at both ends, else float16.
        view, view_seed, view_epoch: the augmentation, and which of its views.
        batch_size: images at a time; a cache that is gone on with keeps the one it was begun with.
        device: where the model runs.
        precision: `32`, or `bf16` or `16` (autocast).
        identity: what the caller knows of the model, JSON values: `weights` (a hash; made here if it is not given),
            `model`. Part of the key; only the name of its `run` is not, so that a run may be renamed.
        rank, world_size: this process's part; rank 0 completes the cache after `barrier`.
        barrier: waits for all ranks.
        limit: int64 positions in the split: only these images (a probe set).
        progress: a progress bar on standard error, when that is a terminal.
        dry_run: return the Plan, and write nothing.
        shard_bytes, commit_seconds: how much, and how many seconds of work, a shard holds: what a kill can lose.
            A shard is built in memory.

    Returns:
        The cache; with `dry_run`, the Plan.

    Raises:
        KDScopeError: unknown layer, reduction or dtype; a cache made under another key; more than 80 % of the free disk
            needed; a full disk; a value that float16 cannot hold; another process at work on the same cache.

    >>> from kdscope.data import load
    >>> digits, net = load("digits"), nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    >>> cache = extract_features(net, digits, "test", "net.kdcache", layers=["0"])
    >>> len(cache) == len(digits.test), cache.feature("0").shape[1], cache.logits.shape[1]
    (True, 768, 10)
    """
    if dtype is None:
        dtype = "float32" if reduction == "attention" else "float16"
    if dtype not in DTYPES:
        raise unknown("feature dtype", dtype, DTYPES)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    part = dataset.split(split) if isinstance(split, str) else split
    positions = _positions(part, limit)
    if layers is None:
        layers = default_layers(model, part.images.shape[-1])
    make = partial(Batches, statistics=dataset, augment=view, batch_size=batch_size, seed=view_seed, device=device)
    capture = Capture(model, layers, detach=True, reduce=reduction_named(reduction))
    out = cache_path(out)
    with _evaluating(model, device, PRECISIONS[precision]), capture:
        two = part.subset(positions[:2])  # to see the shapes
        first = capture(make(two).batch(torch.arange(len(two)), view_epoch).image)
        arrays = arrays_of(first, len(two), reduction, dtype)
        plan = Plan(tuple(arrays), len(positions))
        if dry_run:
            return plan
        how = {
            "layers": list(first.maps),
            "reduction": reduction,
            "dtype": dtype,
            "precision": precision,
            "target": None,
        }
        whole = {
            "schema": SCHEMA,
            **_known(model, identity),
            **how,
            **_shown(dataset, part, positions),
            "view": {"name": view, "seed": view_seed, "epoch": view_epoch},
            "versions": {"kdscope": kdscope.__version__, "torch": torch.__version__},
        }
        manifest = begin(out, whole, plan, dataset.classes, batch_size, str(device))
        if manifest["complete"] and not missing_shards(out, manifest):
            return FeatureCache(out)
        with alone(out, rank):
            todo = remaining(out, manifest["key"], positions, manifest["batch_size"], rank, world_size)
            count = sum(map(len, todo))
            check_disk(out, count, plan)
            writer = ShardWriter(
                out,
                rank,
                manifest["key"],
                arrays,
                batch=manifest["batch_size"],
                rows=count,
                shard_bytes=shard_bytes,
                seconds=commit_seconds,
            )
            batches = make(part) if todo else None
            with Background(writer) as sink, _bar(progress and rank == 0, part.name, count) as advance:
                for index in todo:
                    batch = batches.batch(index, view_epoch)
                    features = capture(batch.image)
                    sink.put(_stored(features, batch.label, batch.index, dtype))
                    advance(len(index))
    barrier()
    if rank == 0:
        finalise(out, positions)
    barrier()
    return FeatureCache(out)


def default_layers(model: nn.Module, image_size: int) -> list[str]:
    """The stage outputs and `penultimate`, as far as the network has them: a vision transformer has no stages.

    >>> from kdscope.models import build
    >>> default_layers(build("resnet8", num_classes=10), 32)
    ['layer1', 'layer2', 'layer3', 'penultimate']
    """
    from kdscope.models import classifier, stages

    network, layers = unwrap(model), []
    with contextlib.suppress(KDScopeError):
        layers += stages(network, image_size)
    with contextlib.suppress(KDScopeError):
        classifier(network, image_size)
        layers.append(PENULTIMATE)
    return layers


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


def _shown(dataset: Dataset, part: Split, positions: Tensor) -> dict[str, Any]:
    """The data's part of the identity."""
    return {
        "dataset": dataset.name,
        "split": part.name,
        "data": part.fingerprint,
        "samples": spans(positions),
        "transform": {"size": list(part.images.shape[-2:]), "mean": list(dataset.mean), "std": list(dataset.std)},
    }


def _positions(part: Split, limit: Tensor | None) -> Tensor:
    if limit is None:
        return torch.arange(len(part))
    positions = torch.as_tensor(limit).long().cpu().unique()
    if not len(positions) or int(positions[0]) < 0 or int(positions[-1]) >= len(part):
        raise KDScopeError(f"the chosen images are not all in split {part.name!r}, which has 0 to {len(part) - 1}")
    return positions


@contextlib.contextmanager
def _evaluating(model: nn.Module, device: str | torch.device, autocast: torch.dtype | None) -> Iterator[None]:
    """The model on the device, in eval and inference mode; afterwards each module is as and where it was."""
    modes = {module: module.training for module in model.modules()}
    origin = next((weight.device for weight in model.parameters()), None)
    try:
        model.to(device).eval()
        kind = torch.device(device).type
        with torch.inference_mode(), torch.autocast(kind, dtype=autocast, enabled=autocast is not None):
            yield
    finally:
        if origin is not None:
            model.to(origin)
        for module, training in modes.items():
            module.training = training


def _stored(features: Any, labels: Tensor, index: Tensor, dtype: str) -> Transfer:
    """One batch in the types of the cache, on its way to the host; float16 is checked on the way."""
    kind = getattr(torch, dtype)
    tensors = {"logits": features.logits.float(), "labels": labels, "index": index}
    checks = {}
    for layer, value in features.maps.items():
        if kind == torch.float16 and value.dtype != torch.float16:
            checks[layer] = value.abs().amax() > FLOAT16_MAX
        elif kind == torch.float16:
            checks[layer] = value.isinf().any()
        value = value.to(kind)
        tensors[f"features/{layer}"] = value.view(torch.uint16) if kind == torch.bfloat16 else value
    return Transfer(tensors, checks)


@contextlib.contextmanager
def _bar(shown: bool, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield lambda count: None
        return
    columns = (TextColumn("extract {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda count: bar.advance(task, count)
