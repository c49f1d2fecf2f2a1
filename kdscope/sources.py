"""What the analyses are given: runs, caches and users' own models, all as subjects that answer with feature caches.

A subject that is a run extracts what is not cached yet, says so, and keeps it in the run directory. A bare cache has
only what is in it. Analyses see no model, only `Subject.cache(...)`.
"""

import functools
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdscope import models
from kdscope.config import IDLE, PROBES, TeacherSettings, excluded
from kdscope.data import Dataset
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.kinds import extract_kind
from kdscope.features.manifest import missing_shards
from kdscope.features.produce import shown
from kdscope.files import digest
from kdscope.run import Run, load_teacher

if TYPE_CHECKING:
    from torch import nn

    from kdscope.features.graph import Attention

say = logging.getLogger("kdscope").info


@dataclass(frozen=True, eq=False)
class Subject:
    """One network of an analysis.

    Attributes:
        name: of the run directory or of the cache.
        architecture: the model's name, such as "resnet20"; method: how it was trained, None where that is unknown.
        group: the same for subjects that differ in their seed alone; seed: None where it is unknown.
        teachers: the subjects that it learned from; ensemble: how their logits were combined.
        summary: headline numbers of its run, empty for a bare cache.
        dataset: what it is asked about, None for a bare cache.
        augment: the augmentation that it was trained with, None where that is unknown.
        weights: hash of its weights where a record has it, so that a cache can be known without loading the network.
        recipe: what it was trained on and how, whatever the method, as flat settings; effort: epochs beside the main
            ones, and seconds (`Run.effort`). Both are empty where that is unknown.
        caches: of features, by split and view; others: of other kinds, by kind, split and view.
        attentions: gives the attention heads of its run for each teacher, None where it has none.
    """

    name: str
    architecture: str
    group: str
    method: str | None = None
    seed: int | None = None
    teachers: "tuple[Subject, ...]" = ()
    ensemble: str = "mean-probability"
    summary: dict[str, Any] = field(default_factory=dict)
    dataset: Dataset | None = None
    caches: dict[tuple[str, str], FeatureCache] = field(default_factory=dict)
    others: dict[tuple[str, str, str], FeatureCache] = field(default_factory=dict)
    folder: Path | None = None
    prefix: str = ""
    augment: str | None = None
    weights: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    effort: dict[str, float] = field(default_factory=dict)
    load: "Callable[[], nn.Module] | None" = None
    build: "Callable[[], nn.Module] | None" = None
    attentions: "Callable[[], list[Attention]] | None" = None
    device: str = "auto"

    def cache(
        self,
        split: str,
        view: str = "none",
        view_seed: int = 0,
        *,
        kind: str = "features",
        options: Mapping[str, Any] | None = None,
    ) -> FeatureCache:
        """What this network says of `split` as `view` shows it; extracted now if it is not cached.

        Args:
            kind: "features", or another kind of cache (`kdscope.features.kinds.KINDS`), such as "maps".
            options: of that kind's extraction; each choice has a cache of its own. A bare cache is taken as it is.

        Raises:
            KDScopeError: a bare cache that does not hold it, or a cache made from other weights or data.
        """
        known = self.caches if kind == "features" else self.others
        named = kind
        if options and self.load is not None:
            named = f"{kind}-{digest({name: getattr(value, 'key', value) for name, value in options.items()})[:8]}"
        key = (split, view) if kind == "features" else (named, split, view)
        if key not in known:
            if self.load is None:
                held = [f"{s} ({v})" for s, v in self.caches] + [f"{k} of {s} ({v})" for k, s, v in self.others]
                held = ", ".join(held)
                what = "" if kind == "features" else f" of {kind}"
                raise KDScopeError(f"{self.name} has no cache{what} of split {split!r}, view {view!r}; it has {held}")
            path = self._path(split, view, named)
            found = self._on_disk(path, split, view, view_seed)
            if found is None:
                found = self._extract(self.load, path, self.architecture, split, view, view_seed, kind, options)
            known[key] = found
        return known[key]

    def kept(self, split: str, view: str = "none", *, kind: str = "features") -> list[FeatureCache]:
        """The caches of that kind that are there already, whatever their options, those of most images first.

        Nothing is extracted; what is not complete, or was made from other weights, is not among them.
        """
        held = [self.caches.get((split, view))] if kind == "features" else []
        held += [cache for (named, *what), cache in self.others.items() if [*what] == [split, view]]
        if self.folder is not None and self.weights is not None:
            stem = self._path(split, view, kind).stem
            named = f"{stem}.kdcache" if kind == "features" else f"{stem}*.kdcache"
            found = [FeatureCache(path) for path in sorted(self.folder.glob(named))]
            held += [
                c for c in found if c.identity.get("weights") == self.weights and (c.split, c.view) == (split, view)
            ]
        right = {cache.key: cache for cache in held if cache is not None and cache.kind == kind and cache.complete}
        return sorted(right.values(), key=len, reverse=True)

    def random_init(
        self, split: str, view: str = "none", view_seed: int = 0, *, kind: str = "features"
    ) -> FeatureCache | None:
        """The same architecture before any training: a floor. None for a bare cache, whose network is not known."""
        if self.build is None:
            return None
        path = self._path(split, view, kind, "random-init-")
        return self._extract(self.build, path, f"{self.architecture} (random init)", split, view, view_seed, kind)

    def efficiency(self) -> dict[str, Any]:
        """What this network costs on its device (`kdscope.features.efficiency`), measured now if it is not known.

        Raises:
            KDScopeError: a bare cache, whose network is not known.
        """
        if self.load is None or self.folder is None:
            raise KDScopeError(f"{self.name} is a cache: its cost can be measured on a run only")
        from kdscope.features.efficiency import kept_efficiency

        device = resolve_device(self.device)
        return kept_efficiency(self.load, self.folder, self.prefix, self.dataset.image_size, device)

    def probe_epochs(self, split: str = "test", kind: str = "features") -> list[int]:
        """The epochs of which the run kept a probe of `split`: of train and of test, or none."""
        end = "" if kind == "features" else f"-{kind}"
        paths = self.folder.glob(f"probe-epoch-*-{split}{end}.kdcache") if self.folder and not self.prefix else []
        return sorted(int(path.name.split("-")[2]) for path in paths)

    def probe(self, epoch: int, split: str, kind: str = "features") -> FeatureCache:
        """The probe set of `split` as this network saw it after `epoch` epochs."""
        end = "" if kind == "features" else f"-{kind}"
        return FeatureCache(self.folder / f"probe-epoch-{epoch:04d}-{split}{end}.kdcache")

    def _path(self, split: str, view: str, kind: str, control: str = "") -> Path:
        end = "" if kind == "features" else f"-{kind}"
        return self.folder / f"{self.prefix}{control}{split}-{view.replace(':', '-')}{end}.kdcache"

    def _on_disk(self, path: Path, split: str, view: str, view_seed: int) -> FeatureCache | None:
        """The cache at `path` if it is complete, and of these weights and images: known without loading them."""
        if self.weights is None or not path.exists():
            return None
        import torch

        part = self.dataset.split(split)
        wanted = {"weights": self.weights, "view": {"name": view, "seed": view_seed, "epoch": 0}}
        try:
            cache = FeatureCache(path, wanted | shown(self.dataset, part, torch.arange(len(part))))
        except KDScopeError:
            return None  # what is wrong there is for the extraction to say
        return cache if cache.complete and not missing_shards(path, cache.manifest) else None

    def _extract(
        self,
        load: "Callable[[], nn.Module]",
        path: Path,
        name: str,
        split: str,
        view: str,
        view_seed: int,
        kind: str,
        options: Mapping[str, Any] | None = None,
    ) -> FeatureCache:
        network = load()
        if not path.exists():
            say(f"extracting {self.name}: {path.stem}")
        return extract_kind(kind)(
            network, self.dataset, split, path, view=view, view_seed=view_seed, device=resolve_device(self.device),
            identity={"model": name, "run": self.name, "weights": models.weights_hash(network)}, progress=True,
            **(options or {}),
        )  # fmt: skip


def subjects(sources: Iterable[str | Path | Run | FeatureCache | Subject], device: str = "auto") -> list[Subject]:
    """A subject for each run, in their order; bare caches with the same weights (train and test, say) are one subject.

    Raises:
        KDScopeError: a path that is neither a run directory nor a cache, or two caches of one network whose splits have
            one name and other images.
    """
    found: list[Subject] = []
    bare: dict[str, Subject] = {}
    for source in sources:
        if isinstance(source, Subject):
            found.append(source)
            continue
        if not isinstance(source, Run | FeatureCache):
            source = open_source(source)
        if isinstance(source, Run):
            found.append(of_run(source, device))
            continue
        weights = source.identity.get("weights", source.key)
        if weights not in bare:
            name = source.identity.get("run") or source.path.stem.removesuffix(f"-{source.split}")
            bare[weights] = Subject(name=name, architecture=source.identity.get("model") or name, group=weights)
            found.append(bare[weights])
        one, key = bare[weights], (source.split, source.view)
        held, key = (one.caches, key) if source.kind == "features" else (one.others, (source.kind, *key))
        held.setdefault(key, source).check_compatible(source)
    return found


def open_source(path: str | Path) -> Run | FeatureCache:
    """A run directory or a feature cache."""
    if not isinstance(path, str | Path):
        raise KDScopeError(
            f"{type(path).__name__} is no run and no cache; of a model make one first: kdscope.extract(model, data=...)"
        )
    path = Path(path)
    if (path / "config.yaml").is_file():
        return Run(path)
    beside = path.with_name(f"{path.name}.kdcache")
    if (path / "manifest.json").is_file() or path.suffix == ".kdcache" or (not path.exists() and beside.exists()):
        return FeatureCache(path)
    raise KDScopeError(f"{path} is neither a run directory (config.yaml) nor a feature cache (manifest.json)")


def of_run(run: Run, device: str = "auto") -> Subject:
    """A finished run, with its teachers behind it."""
    config = run.config
    summary = run.summary
    return Subject(
        name=run.name,
        architecture=config.model.name,
        group=_group(run),
        method=config.method,
        seed=config.seed,
        teachers=tuple(_of_teacher(run, k, t, device) for k, t in enumerate(config.teachers)),
        ensemble=config.ensemble,
        summary=summary,
        dataset=run.dataset(),
        folder=run.path / "features",
        augment=config.data.augment,
        weights=summary.get("weights_hash"),
        recipe=_recipe(run),
        effort=run.effort,
        load=run.model,
        build=functools.partial(_untrained, run),
        attentions=functools.partial(_attentions, run) if config.terms.get("mhgd", {}).get("weight", 0) > 0 else None,
        device=device,
    )


def _attentions(run: Run) -> "list[Attention]":
    from kdscope.training.attention import attentions_of

    return attentions_of(run)


def _of_teacher(run: Run, k: int, teacher: TeacherSettings, device: str) -> Subject:
    """A teacher, asked about the student's data: its own caches serve when its data are the same."""
    dataset, folder, prefix = run.dataset(), run.path / "features", f"teacher-{k}-"
    load = functools.partial(load_teacher, teacher, dataset)
    if teacher.run is None:
        name = teacher.model if teacher.checkpoint is None else f"{teacher.model}@{teacher.checkpoint.name}"
        return Subject(
            name=name, architecture=teacher.model, group=name, dataset=dataset, folder=folder, prefix=prefix, load=load,
            weights=teacher.weights_hash, device=device,
        )  # fmt: skip
    own = Run(teacher.run)
    if own.dataset().fingerprint == dataset.fingerprint:
        # Under the name that the teacher's own caches have it by: the same images can have two (digits, digits:16).
        dataset, folder, prefix = own.dataset(), own.path / "features", ""
    weights = own.summary.get("weights_hash")
    return Subject(
        name=own.name,
        architecture=own.config.model.name,
        group=_group(own),
        method=own.config.method,
        seed=own.config.seed,
        summary=own.summary,
        dataset=dataset,
        folder=folder,
        prefix=prefix,
        augment=own.config.data.augment,
        # Where the teacher was trained anew since, loading it says so.
        weights=weights if weights == teacher.weights_hash else None,
        load=load,
        build=functools.partial(_untrained, own),
        device=device,
    )


def _recipe(run: Run) -> dict[str, Any]:
    """What a fair comparison of methods holds equal; the teachers by the hashes of their weights."""
    config = run.recipe
    found: dict[str, Any] = {"epochs": config.epochs, "precision": config.precision}
    for part in ("data", "optim"):
        aside = excluded(IDLE).get(part)
        found |= {f"{part}.{key}": value for key, value in getattr(config, part).model_dump(exclude=aside).items()}
    found["headline"] = run.summary["rule"]
    if config.teachers:
        found["teacher"] = ", ".join(t.weights_hash or str(t.run or t.model) for t in config.teachers)
    return found


def _group(run: Run) -> str:
    """The same for runs whose settings differ in the seed alone (their teachers' seeds may differ with it)."""
    settings = run.config.model_dump(mode="json", exclude=excluded(["seed", "devices", *IDLE, *PROBES]))
    settings["teachers"] = [_group(Run(t.run)) if t.run else t.model for t in run.config.teachers]
    return digest(json.loads(json.dumps(settings)))[:12]


def _untrained(run: Run) -> "nn.Module":
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed + 1_000_003)  # not the start of this run: that is partly what it ended as
        return run.model(trained=False)


def resolve_device(device: str) -> str:
    """ "auto" is the GPU where there is one."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
