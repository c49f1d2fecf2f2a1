"""What is known of a detector's run beside its weights: its caches, and its detections as COCO JSON."""

from pathlib import Path
from typing import Any

from torch import nn

from kdscope.detection.data import DetectionDataset, load
from kdscope.detection.evaluate import most_of
from kdscope.detection.extract import extract_detections
from kdscope.detection.pair import extract_pair
from kdscope.detection.patch import extract_patched
from kdscope.detection.results import write_results
from kdscope.detection.stored import found_in
from kdscope.detection.trained_adapters import adapters_of
from kdscope.errors import KDScopeError, unknown
from kdscope.features.cache import FeatureCache
from kdscope.features.plan import Plan
from kdscope.models import weights_hash
from kdscope.run import Run
from kdscope.training.ranks import make_fabric

KINDS = ("detection", "pair", "patched-regions", "patched-levels")
OWN_PLACE = ("limit", "score", "most", "rows")


def extract_of(
    source: Run | nn.Module,
    *,
    split: str = "test",
    kind: str = "features",
    data: str | DetectionDataset | None = None,
    out: str | Path | None = None,
    teacher: str | Path | Run | None = None,
    device: str = "auto",
    **options: Any,
) -> FeatureCache | Plan:
    """The cache of a detector, as `kdscope.api.extract` says; "features" stands for "detection", the plain kind.

    A run's detections lie beside it, too: detections/SPLIT.json in COCO's results format, which other tools read.

    What analyses read lies in the run's folder under its plain name, so that what is chosen otherwise (fewer images, a
    higher score, fewer detections or rows) needs a place of its own.

    Args:
        kind: one of KINDS; all but "detection" are of a student beside its teacher.
        teacher: of a pair, a run to stand beside in place of the run's own teacher, such as one that a student trained
            alone is held against.
    """
    kind = "detection" if kind == "features" else kind
    if kind not in KINDS:
        raise unknown("kind of cache of a detector", kind, KINDS)
    other = [name for name in OWN_PLACE if options.get(name) is not None]
    if other and out is None:
        raise KDScopeError(f"a cache with {other[0]} chosen is not what analyses read: give it a place (--out DIR)")
    fabric = make_fabric(device, precision="32")
    options |= {"device": fabric.device, "rank": fabric.global_rank, "world_size": fabric.world_size}
    options["barrier"] = fabric.barrier
    if not isinstance(source, Run):
        if data is None or out is None or kind != "detection" or not isinstance(source, nn.Module):
            raise KDScopeError("a detector that is no run is a module, and needs data and a place; pairs are of runs")
        dataset = load(data, progress=True) if isinstance(data, str) else data
        known = {"model": type(source).__name__, "run": None, "weights": weights_hash(source)}
        options = {"most": most_of(dataset.name), **options}
        return extract_detections(source, dataset, split, out, identity=known, **options)

    run, dataset, network = source, source.dataset(), source.model()
    known = {"model": run.config.model.name, "run": run.name, "weights": weights_hash(network)}
    place = run.cache_path(split)
    if kind != "detection":
        return _beside(kind, run, network, teacher, split, out, identity=known, **options)
    place, options = Path(out) if out is not None else place, {"most": most_of(dataset.name), **options}
    cache = extract_detections(network, dataset, split, place, identity=known, **options)
    if isinstance(cache, FeatureCache) and fabric.is_global_zero and out is None:
        part = dataset.split(split)
        write_results(
            run.path / "detections" / f"{split}.json", found_in(cache), part.image_ids.tolist(), dataset.category_ids
        )
    return cache


def _beside(
    kind: str,
    run: Run,
    network: nn.Module,
    teacher: str | Path | Run | None,
    split: str,
    out: str | Path | None,
    **options: Any,
) -> FeatureCache | Plan:
    place, other = run.cache_path(split), Run(teacher) if isinstance(teacher, str | Path) else teacher
    if other is None and not run.config.teachers:
        raise KDScopeError(f"{run.name} was trained alone; say which run it should stand beside: teacher=RUN")
    name = kind if other is None else f"{kind}-{other.name}"
    beside = run.teachers()[0] if other is None else other.model().requires_grad_(False)
    place = Path(out) if out is not None else place.with_name(f"{place.stem}-{name}.kdcache")
    dataset, options["adapters"] = run.dataset(), adapters_of(run) if other is None else {}
    if kind == "pair":
        return extract_pair(network, beside, dataset, split, place, **options)
    options = {"by": kind.removeprefix("patched-"), "most": most_of(dataset.name), **options}
    return extract_patched(network, beside, dataset, split, place, **options)
