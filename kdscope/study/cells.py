"""From a study to its runs: each with its complete settings, its teachers, and a key that says what it is.

The key is a hash of the complete config in which each teacher is replaced by its own key: whoever asks for the same
training, in whatever study, finds the run that is already there.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdscope import api, models
from kdscope.config import Config, TeacherSettings, merge
from kdscope.data.catalogue import DATASETS
from kdscope.errors import KDScopeError, unknown
from kdscope.files import digest
from kdscope.methods.method import known_terms
from kdscope.study.grid import Point, chosen, named, part, points, spell
from kdscope.study.schema import Arm, Fewer, Scale, Study

# What changes nothing of what is learned; the same run serves with any of it.
IDLE = {
    "data": {"root", "download", "workers", "memory_budget"},
    **dict.fromkeys(("device", "tensorboard", "checkpoint_every", "teachers"), True),
}
LINKS = ("teachers", "start")  # axes that name other runs
OWN = (*LINKS, "seed_offset")  # what a group of settings on an axis may hold beside settings


@dataclass(frozen=True)
class Taught:
    """A teacher of a cell: another cell by its name, or weights from elsewhere (`NAME@CHECKPOINT`, torchvision:...)."""

    cell: str = ""
    elsewhere: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        name: such as "kd-temperature=4-seed0". group: the same without the seed. arm: its name in the file.
        point: name of its value on each axis. seed: as the file counts it (the config's has the offset added).
        config: complete but for the teachers. teachers, start: what it needs, cells by their names.
        key: 12 hexadecimal digits of the hash of all this.
    """

    name: str
    group: str
    arm: str
    point: Mapping[str, str]
    seed: int
    config: Config
    teachers: tuple[Taught, ...]
    start: str | None
    key: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the cells that must be trained before."""
        return tuple(t.cell for t in self.teachers if t.cell) + ((self.start,) if self.start else ())


@dataclass(frozen=True)
class _Draft:
    """A cell before its references are looked up."""

    name: str
    group: str
    arm: str
    point: Point
    seed: int
    settings: dict[str, Any]
    links: dict[str, Any]


def cells(study: Study, scale: str | None = None) -> list[Cell]:
    """The runs of a study at one of its scales, teachers before students.

    Raises:
        KDScopeError: an empty grid, runs that teach each other in a circle, a teacher that is not there or could be one
            of several, or settings that are not valid. All with the name of the run.

    >>> from kdscope.study.schema import load_study
    >>> [cell.name for cell in cells(load_study("quickstart"), "smoke")][-2:]
    ['at-seed0', 'ensemble-seed0']
    """
    _, smaller = study.scale(scale)
    _check_scale(study, smaller)
    arms = {name: arm for name, arm in study.runs.items() if name not in smaller.without}
    made: dict[str, Cell] = {}
    drafts: dict[str, list[_Draft]] = {}
    for name in _ordered(arms):
        try:
            drafts[name] = list(_drafts(study, name, arms[name], smaller))
            if not drafts[name]:
                raise KDScopeError("its grid is empty: everything is excluded, or an axis has no value")
            for draft in drafts[name]:
                if draft.name in made:
                    raise KDScopeError(f"two of its runs have the name {draft.name}; give the values of an axis names")
                made[draft.name] = _cell(draft, drafts, made)
        except KDScopeError as error:
            raise KDScopeError(f"study {study.name!r}, run {name!r}: {error}") from None
    if not made:
        raise KDScopeError(f"study {study.name!r} has no runs; its grid is empty")
    return list(made.values())


def key_of(config: Config, teachers: list[Any], start: str | None) -> str:
    """The key of a training: 12 hexadecimal digits.

    Args:
        config: complete. teachers: for each a key (or its origin) and its weight. start: key of the run whose weights
            it begins with, or None.
    """
    # Without what is as it is by default: a setting that a later version adds changes no key.
    settings = config.model_dump(mode="json", exclude=IDLE, exclude_defaults=True)
    if start is not None:
        settings.setdefault("model", {})["checkpoint"] = start
    settings = {name: value for name, value in settings.items() if value != {}}
    return digest(settings | {"teachers": teachers})[:12]


def _check_scale(study: Study, scale: Scale) -> None:
    known = [axis for arm in study.runs.values() for axis in arm.grid]
    labels = [question.label or question.name for question in study.analyses]
    for kind, given, there in (
        ("axis", scale.grid, known), ("run", scale.runs, study.runs), ("run", scale.without, study.runs),
        ("analysis", scale.analyses, labels),
    ):  # fmt: skip
        for name in given:
            if name not in there:
                raise unknown(kind, name, there, f"a scale of study {study.name!r}")


def _ordered(arms: Mapping[str, Arm]) -> list[str]:
    """Names of the runs, those that teach before those that learn from them, else as they stand in the file."""
    ordered: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise KDScopeError(f"runs learn from each other in a circle: {circle}")
        if name not in ordered:
            for other in _linked(arms[name]):
                if other in arms:
                    visit(other, (*path, name))
            ordered.append(name)

    for name in arms:
        visit(name, ())
    return ordered


def _linked(arm: Arm) -> Iterator[str]:
    """Names that the teachers and starts of a run mention, in its grid, too."""
    groups: list[Any] = [{"teachers": list(arm.teachers), "start": arm.start}, *arm.include]
    for axis, values in arm.grid.items():
        groups += [{axis: value} if axis in LINKS else value for value in values.values()]
    for group in groups:
        for link in LINKS:
            for reference in _listed(group.get(link) if isinstance(group, Mapping) else None):
                yield str(reference.get("run", "")) if isinstance(reference, Mapping) else reference


def _listed(references: Any) -> list[Any]:
    if references is None:
        return []
    return list(references) if isinstance(references, list | tuple) else [references]


def _drafts(study: Study, name: str, arm: Arm, scale: Scale) -> Iterator[_Draft]:
    own = scale.runs.get(name, Fewer())
    grid = dict(arm.grid)
    for axis, wanted in {**scale.grid, **own.grid}.items():
        if axis in grid:
            grid[axis] = chosen(axis, grid[axis], wanted)
        elif axis in own.grid:
            raise unknown("axis", axis, grid, "the scale's run")
    layers = (study.settings, arm.settings, scale.settings, own.settings)
    base: dict[str, Any] = {}
    for layer in layers:
        base = merge(base, api.nested(_without_links(layer)))
    seeds = own.seeds or (scale.seeds if arm.seeds is None or scale.seeds is None else arm.seeds[: len(scale.seeds)])
    seeds = seeds or arm.seeds or study.seeds
    for point, further in points(grid, arm.include, arm.exclude):
        settings, links = base, {name: getattr(arm, name) for name in OWN}
        for axis, (_, value) in point.items():
            group = {axis: value} if _is_setting(axis) else value
            if not isinstance(group, Mapping):
                raise unknown("setting", axis, [*Config.model_fields, *OWN], "the grid")
            settings = merge(settings, api.nested(_without_links(group, OWN)))
            links |= {k: v for k, v in group.items() if k in OWN}
        settings = merge(settings, api.nested(_without_links(further, OWN)))
        links |= {k: v for k, v in further.items() if k in OWN}
        group_name = "-".join([name, *filter(None, (part(axis, label) for axis, (label, _) in point.items()))])
        for seed in seeds:
            complete = merge(settings, {"seed": seed + links["seed_offset"]})
            yield _Draft(f"{group_name}-seed{seed}", group_name, name, point, seed, complete, links)


def _without_links(settings: Mapping[str, Any], allowed: Sequence[str] = ()) -> dict[str, Any]:
    """The settings, without what an axis may give beside them."""
    for key in (*OWN, "seed"):
        if key in settings and key not in allowed:
            where = "seeds" if key == "seed" else key
            raise KDScopeError(f"{key!r} is no setting of a study's runs; write `{where}:` beside `settings:`")
    return {key: value for key, value in settings.items() if key not in OWN}


def _is_setting(axis: str) -> bool:
    return axis in OWN or axis in api.SHORT or axis.split(".")[0] in Config.model_fields


def _cell(draft: _Draft, drafts: Mapping[str, list[_Draft]], made: Mapping[str, Cell]) -> Cell:
    taught = [t for r in _listed(draft.links["teachers"]) for t in _teachers(r, draft, drafts)]
    starts = [t for r in _listed(draft.links["start"]) for t in _teachers(r, draft, drafts)]
    if len(starts) > 1 or any(not start.cell for start in starts):
        raise KDScopeError("`start` names one run, whose weights the network begins with")
    start = starts[0].cell if starts else None
    stand_ins = [
        TeacherSettings(run=Path("study") / t.cell, weight=t.weight) if t.cell else _elsewhere(t) for t in taught
    ]
    config = api.settings(teachers=stand_ins, **draft.settings)
    config = _complete(config)
    known = known_terms()
    if taught and not any(known[term].reads in ("logits", "features") for term in config.terms):
        taught = []  # one arm of a grid of methods that learns without a teacher
        config = config.model_copy(update={"teachers": ()})
    origins = [[made[t.cell].key if t.cell else t.elsewhere, t.weight] for t in taught]
    key = key_of(config, origins, made[start].key if start else None)
    point = {axis: label for axis, (label, _) in draft.point.items()}
    return Cell(draft.name, draft.group, draft.arm, point, draft.seed, config, tuple(taught), start, key)


def _elsewhere(taught: Taught) -> TeacherSettings:
    return TeacherSettings.parse(taught.elsewhere).model_copy(update={"weight": taught.weight})


def _complete(config: Config) -> Config:
    """The config as the run will write it, save the hashes of teachers; names that no data is needed to check."""
    from kdscope.training.chain import complete
    from kdscope.training.prepare import written_out

    kind = config.data.name.partition(":")[0]
    if kind not in DATASETS:
        raise unknown("dataset", kind, DATASETS)
    for network in (config.model, *config.peers, *config.assistants):
        if ":" not in network.name and network.name not in models.names():
            raise unknown("model", network.name, models.names())
    try:
        return written_out(complete(config))
    except KDScopeError as error:
        if "is not a run directory" in str(error):
            raise KDScopeError("name its assistants in its settings: the teacher is not trained yet") from None
        raise


def _teachers(reference: Any, draft: _Draft, drafts: Mapping[str, list[_Draft]]) -> Iterator[Taught]:
    """The teachers that a reference stands for: one for each combination of the values that it lists."""
    if isinstance(reference, str):
        reference = {"run": reference}
    if not isinstance(reference, Mapping) or "run" not in reference:
        raise KDScopeError(f"a teacher is a run's name, or {{run: NAME, AXIS: value}}, not {reference!r}")
    run, weight = str(reference["run"]), reference.get("weight", 1.0)
    rule = {key: value for key, value in reference.items() if key not in ("run", "weight")}
    if run not in drafts:
        if ":" not in run and "@" not in run:
            raise unknown("run", run, [*drafts], "its teachers (or NAME@CHECKPOINT, torchvision:NAME)")
        there = TeacherSettings.parse(run)
        yield Taught(elsewhere=f"{there.model}@{there.checkpoint}" if there.checkpoint else run, weight=weight)
        return
    for values in itertools.product(*(_listed(value) or [None] for value in rule.values())):
        one = dict(zip(rule, values, strict=True))
        yield Taught(cell=_match(run, one, draft, drafts[run]), weight=weight)


def _match(run: str, rule: dict[str, Any], draft: _Draft, candidates: list[_Draft]) -> str:
    """The one cell of `run` with the values of `rule`, and else with those of the cell that learns."""
    axes = candidates[0].point
    for axis, value in rule.items():
        if axis != "seed":
            if axis not in axes:
                raise unknown("axis", axis, [*axes, "seed"], f"teacher {run!r}")
            named({c.point[axis][0]: None for c in candidates}, value, f"teacher {run!r}, axis {axis!r}")
    wanted = {axis: spell(rule[axis]) for axis in axes if axis in rule}
    wanted |= {axis: draft.point[axis][0] for axis in axes if axis not in rule and axis in draft.point}
    found = [c for c in candidates if all(c.point[axis][0] == name for axis, name in wanted.items())]
    seeds = {c.seed for c in candidates}
    seed = rule.get("seed", draft.seed if len(seeds) > 1 else next(iter(seeds)))
    if seed not in seeds:
        raise KDScopeError(f"teacher {run!r} has no seed {seed}; it has {', '.join(map(str, sorted(seeds)))}")
    found = [c for c in found if c.seed == seed]
    if len(found) > 1:
        open_axis = next(axis for axis in axes if axis not in wanted)
        raise KDScopeError(
            f"teacher {run!r} could be any of {len(found)} runs; say which: {{run: {run}, {open_axis}: "
            f"{found[0].point[open_axis][0]}}}"
        )
    if not found:
        raise KDScopeError(f"teacher {run!r} has no run with {', '.join(f'{a}={v}' for a, v in wanted.items())}")
    return found[0].name
