"""What the commands do, as functions: `kdscope.train`, `kdscope.extract`, `kdscope.analyze`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdscope.config import Config, TeacherSettings, detects, load_config, merge
from kdscope.errors import KDScopeError
from kdscope.run import Run

if TYPE_CHECKING:
    from torch import nn

    from kdscope.analyses.base import Report
    from kdscope.data import Dataset
    from kdscope.features.cache import FeatureCache
    from kdscope.features.extract import Plan
    from kdscope.sources import Subject

# Short names of the settings that people set most, and where each belongs.
SHORT = {
    "data": "data.name",
    "augment": "data.augment",
    "validation": "data.validation",
    "download": "data.download",
    "batch_size": "data.batch_size",
    "model": "model.name",
}

# Options of every extraction, which do not change what is kept of an image.
SHARED = ("view_seed", "view_epoch", "batch_size", "precision", "limit", "progress", "dry_run", "shard_bytes")


def settings(
    config: str | Path | None = None,
    assignments: Iterable[str] = (),
    teachers: Sequence[str | Path | Run | TeacherSettings] = (),
    **options: Any,
) -> Config:
    """The settings of a run: a YAML file, over it the options (as of the command line), over them `assignments`."""
    overrides = nested(options)
    if teachers:
        overrides["teachers"] = [_teacher(teacher).model_dump(exclude_defaults=True) for teacher in teachers]
    complete = load_config(config, overrides, assignments)
    if complete.teachers and not complete.model_fields_set & {"method", "terms"}:
        raise KDScopeError("a teacher is given but no method; add --method kd (or --method none to train without it)")
    return complete


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by short, dotted or whole names as they stand in a run's config.yaml.

    >>> nested({"model": "resnet8", "optim.lr": 0.1, "optim": {"momentum": 0}})
    {'model': {'name': 'resnet8'}, 'optim': {'lr': 0.1, 'momentum': 0}}
    """
    found: dict[str, Any] = {}
    for key, value in options.items():
        inner = value
        if key in ("peers", "assistants"):
            inner = [{"name": network} if isinstance(network, str) else network for network in value]
        place = key if isinstance(value, Mapping) else SHORT.get(key, key)  # data={...} is the whole group
        for part in reversed(place.split(".")):
            inner = {part: inner}
        found = merge(found, inner)
    return found


def train(
    out: str | Path,
    *,
    config: str | Path | None = None,
    assignments: Iterable[str] = (),
    teachers: Sequence[str | Path | Run | TeacherSettings] = (),
    **options: Any,
) -> Run:
    """Train a network, alone or from teachers, in a new run directory.

    Args:
        out: run directory to make.
        config: YAML file with settings (`kdscope.config.Config`).
        assignments: settings as text, such as "optim.lr=0.05"; the strongest.
        teachers: runs, run directories, "NAME@CHECKPOINT", or a library's name such as "torchvision:resnet50".
        options: settings by name: data, model, method, epochs, seed, augment, validation, batch_size, precision,
            device, devices, compile, probe, probe_every, probe_maps, tensorboard, ensemble, download; or a whole group,
            such as optim={"lr": 0.05}.

    Returns:
        The finished run.

    Raises:
        KDScopeError: bad settings or networks that do not fit; nothing is written then.

    >>> import kdscope
    >>> teacher = kdscope.train("teacher", data="digits:8", model="resnet8", epochs=1)
    >>> student = kdscope.train("kd", data="digits:8", model="resnet8", teachers=[teacher], method="kd", epochs=1)
    >>> 0 <= student.summary["test_accuracy"] <= 1
    True
    """
    from kdscope.training.loop import start

    return start(settings(config, assignments, teachers, **options), out)


def resume(path: str | Path) -> Run:
    """Go on with a run that was stopped; a finished run is returned as it is."""
    from kdscope.training.loop import resume as go_on

    return go_on(path)


def extract(
    source: "str | Path | Run | nn.Module",
    *,
    split: str = "test",
    view: str = "none",
    kind: str = "features",
    layers: Sequence[str] | None = None,
    reduction: str | None = None,
    dtype: str | None = None,
    data: "str | Dataset | None" = None,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> "FeatureCache | Plan":
    """Write what a network says of one view of one split to a feature cache, or open the cache that holds it.

    Args:
        source: a run or its directory; or a network that kdscope did not train: a module, or a model's name.
        split: "train", "validation" or "test".
        view: the augmentation that the images are shown under.
        kind: "features", or another kind of cache: "maps" keeps attention maps (`kdscope.features.maps.extract_maps`).
            Of a detector, "detection" (`kdscope.detection.extract`, the default) or "pair" (`kdscope.detection.pair`).
        layers: layer patterns (`kdscope.features.select`); by default the stages and the penultimate vector.
        reduction: "pool" (default), "attention" or "full".
        dtype: of features: "float16", "bfloat16" or "float32".
        data: a dataset or its name, for a network that is not a run.
        checkpoint: weights of a model that is given by name.
        image_size: pixels that the images of a dataset given by name are scaled to.
        out: the cache's directory; by default in the run directory.
        options: view_seed, view_epoch, batch_size, precision, limit, progress, dry_run
            (`kdscope.features.extract.extract_features`), and those of the kind.

    Returns:
        The cache; with `dry_run`, the plan.

    Raises:
        KDScopeError: an unknown name, weights that do not fit, a cache of something else there, or a small disk.

    >>> import kdscope, torch
    >>> net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 10))
    >>> cache = kdscope.extract(net, data="digits", layers=["0"], out="plain-network")
    >>> cache.logits.shape[1], cache.layers
    (10, ['0'])
    """
    from kdscope import models
    from kdscope.data import load
    from kdscope.features.kinds import extract_kind
    from kdscope.files import digest
    from kdscope.training.ranks import make_fabric

    if isinstance(source, str | Path) and (Path(source) / "config.yaml").is_file():
        source = Run(source)
    known = source.config.data.name if isinstance(source, Run) else getattr(data, "name", data)
    if isinstance(known, str) and detects(known):
        from kdscope.detection.cached import extract_of

        unfit = {"layers": layers, "reduction": reduction, "dtype": dtype, "image size": image_size}
        unfit |= {"view": None if view == "none" else view, "checkpoint": checkpoint}
        if any(value is not None for value in unfit.values()):
            name = next(name for name, value in unfit.items() if value is not None)
            raise KDScopeError(f"a cache of a detector has no {name} to choose; leave it out")
        for shared in ("view_seed", "view_epoch"):
            options.pop(shared, None)
        return extract_of(source, split=split, kind=kind, data=data, out=out, device=device, **options)
    chosen = {"layers": layers, "reduction": reduction, "dtype": dtype}
    if kind != "features":
        if reduction is not None or dtype is not None:
            raise KDScopeError(f"a cache of {kind} has neither a reduction nor a dtype to choose")
        chosen = {"layers": layers} | {key: options.get(key) for key in options if key not in SHARED}
    own = {key: value for key, value in chosen.items() if value is not None}
    extracted = extract_kind(kind)
    if isinstance(source, Run):
        if any(value is not None for value in (data, checkpoint, image_size)):
            raise KDScopeError("a run has its own data and weights; leave out data, checkpoint and image size")
        network, dataset, name, run = source.model(), source.dataset(), source.config.model.name, source.name
        if out is None:
            out = source.cache_path(split, view)
            out = out if kind == "features" else out.with_name(f"{out.stem}-{kind}.kdcache")
            if any(value is not None for value in chosen.values()):  # the plain place is for what analyses read
                out = out.with_name(f"{out.stem}-{digest(chosen)[:8]}.kdcache")
    else:
        if data is None or (out is None and not options.get("dry_run")):
            raise KDScopeError(f"{source} is no run directory, so it needs data (--data NAME) and a place (--out DIR)")
        if image_size is not None and not isinstance(data, str):
            raise KDScopeError("an image size is for a dataset that is given by its name; scale this one yourself")
        dataset = load(data, image_size=image_size, progress=True) if isinstance(data, str) else data
        name = source if isinstance(source, str) else type(source).__name__
        run, network = None, source
        if isinstance(source, str | Path):
            pretrained = checkpoint is None and ":" in str(source)
            if checkpoint is None and not pretrained:
                raise KDScopeError(f"model {str(source)!r} has no weights; add --checkpoint FILE")
            network = models.build(
                str(source), dataset.num_classes, image_size=dataset.image_size, pretrained=pretrained
            )
            if checkpoint is not None:
                models.load_weights(network, checkpoint)
    fabric = make_fabric(device, precision="32")
    return extracted(
        network,
        dataset,
        split,
        out if out is not None else "dry-run",
        view=view,
        device=fabric.device,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        barrier=fabric.barrier,
        identity={"model": name, "run": run, "weights": models.weights_hash(network)},
        **(options | own),
    )


def analyze(
    name: str,
    *sources: "str | Path | Run | FeatureCache | Subject",
    out: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> "Report":
    """Answer one question about runs and caches: a tidy table, its figures, and what must be said with them.

    Args:
        name: the analysis, such as "fidelity".
        sources: runs, feature caches, or their directories. A run knows its teachers; where no source has one, the
            first is the teacher of the others. What is not cached yet is extracted first.
        out: folder for `NAME.csv` and the figures (PDF and PNG); None writes nothing.
        device: where to extract.
        options: of the analysis; for fidelity: splits, view, definition, teacher, baseline, confidence
            (`kdscope.analyses.fidelity`).

    Returns:
        The report: `.table` and `.summary` (pandas), `.notes`, `.csv`, `.figures`.

    Raises:
        KDScopeError: an unknown analysis or option, a source that is none, caches of different images.

    >>> import kdscope, torch
    >>> def network():
    ...     return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 10))
    >>> a = kdscope.extract(network(), data="digits", layers=["0"], out="a")
    >>> b = kdscope.extract(network(), data="digits", layers=["0"], out="b")
    >>> report = kdscope.analyze("fidelity", a, b)
    >>> agreement = report.table[report.table.measure == "agreement"].iloc[0]
    >>> agreement.a, agreement.b, agreement.split, bool(0 <= agreement.ci_low <= agreement.value <= 1)
    ('a', 'b', 'test', True)
    """
    from kdscope.analyses.base import run_analysis

    return run_analysis(name, sources, out, device=device, **options)


def _teacher(teacher: str | Path | Run | TeacherSettings) -> TeacherSettings:
    if isinstance(teacher, TeacherSettings):
        return teacher
    return TeacherSettings(run=teacher.path) if isinstance(teacher, Run) else TeacherSettings.parse(str(teacher))
