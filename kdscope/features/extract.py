"""What one network says of each image: its logits and chosen features, run once over a split and kept on disk."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.data import Dataset, Split
from kdscope.data.batches import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.cache import FeatureCache
from kdscope.features.hooks import Capture, unwrap
from kdscope.features.plan import Plan
from kdscope.features.produce import Job, Producer, cache_path, extract_arrays
from kdscope.features.reduce import reduction as reduction_named
from kdscope.features.select import PENULTIMATE

DTYPES = ("float16", "bfloat16", "float32")
__all__ = ["FeatureProducer", "cache_path", "default_layers", "extract_features"]


class FeatureProducer(Producer):
    """Logits [B, C], float32, and the reduced outputs of some layers; arguments as those of `extract_features`."""

    def __init__(self, model: nn.Module, layers: Sequence[str], reduction: str = "pool", dtype: str | None = None):
        if dtype is None:
            dtype = "float32" if reduction == "attention" else "float16"
        if dtype not in DTYPES:
            raise unknown("feature dtype", dtype, DTYPES)
        self._capture = Capture(model, layers, detach=True, reduce=reduction_named(reduction))
        self._reduction, self._dtype = reduction, dtype

    def __enter__(self) -> "FeatureProducer":
        self._capture.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._capture.__exit__(kind, error, trace)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        features = self._capture(batch.image)
        return {"logits": features.logits, **{f"features/{name}": value for name, value in features.maps.items()}}

    def identity(self, first: Mapping[str, Tensor]) -> dict[str, Any]:
        layers = [name.removeprefix("features/") for name in first if name != "logits"]
        return {"layers": layers, "reduction": self._reduction, "dtype": self._dtype, "target": None}

    def dtype(self, name: str, value: Tensor) -> str:
        return "float32" if name == "logits" else self._dtype

    def reduction(self, name: str) -> str:
        return "" if name == "logits" else self._reduction


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
            needed; a full disk; logits or features that are NaN or infinite; a value that float16 cannot hold; another
            process at work on the same cache.

    >>> from kdscope.data import load
    >>> digits, net = load("digits"), nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    >>> cache = extract_features(net, digits, "test", "net.kdcache", layers=["0"])
    >>> len(cache) == len(digits.test), cache.feature("0").shape[1], cache.logits.shape[1]
    (True, 768, 10)
    """
    part = dataset.split(split) if isinstance(split, str) else split
    if layers is None:
        layers = default_layers(model, part.shape[-1])
    job = Job(
        view, view_seed, view_epoch, batch_size, device, precision, identity, rank, world_size, barrier, limit,
        progress, dry_run, shard_bytes, commit_seconds,
    )  # fmt: skip
    return extract_arrays(model, dataset, part, out, FeatureProducer(model, layers, reduction, dtype), job)


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
