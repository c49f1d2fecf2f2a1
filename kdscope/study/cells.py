"""From a study to its runs: each with its complete settings, its teachers, and a key that says what it is.

The key is a hash of the complete config in which each teacher is replaced by its own key: whoever asks for the same
training, in whatever study, finds the run that is already there.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdscope import api
from kdscope.config import IDLE, Config, TeacherSettings, excluded, merge
from kdscope.errors import KDScopeError, unknown
from kdscope.files import digest
from kdscope.methods.method import known_terms
from kdscope.study.grid import check_rules, chosen, part, points, spell
from kdscope.study.schema import MOST, Arm, Fewer, Scale, Study
from kdscope.study.teaching import OWN, Draft, Taught, listed, ordered, teachers_of
from kdscope.training.tasks import task_of


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
    drafts: dict[str, list[Draft]] = {}
    for name in ordered(arms):
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
    settings = config.model_dump(mode="json", exclude=excluded([*IDLE, "teachers"]), exclude_defaults=True)
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


def _drafts(study: Study, name: str, arm: Arm, scale: Scale) -> Iterator[Draft]:
    own = scale.runs.get(name, Fewer())
    check_rules(arm.grid, arm.exclude)
    grid, include = dict(arm.grid), arm.include
    for axis, wanted in {**scale.grid, **own.grid}.items():
        if axis in grid:
            grid[axis] = chosen(axis, grid[axis], wanted)
            include = tuple(entry for entry in include if spell(entry.get(axis)) in grid[axis])
        elif axis in own.grid:
            raise unknown("axis", axis, grid, "the scale's run")
    layers = (study.settings, arm.settings, scale.settings, own.settings)
    base: dict[str, Any] = {}
    for layer in layers:
        base = merge(base, api.nested(_without_links(layer)))
    seeds = own.seeds or (scale.seeds if arm.seeds is None or scale.seeds is None else arm.seeds[: len(scale.seeds)])
    seeds = seeds or arm.seeds or study.seeds
    count = (math.prod(map(len, grid.values())) + len(include)) * len(seeds)
    if count > MOST:
        raise KDScopeError(f"its grid has {count} runs; a study has at most {MOST}")
    for point, further in points(grid, include, arm.exclude):
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
            yield Draft(f"{group_name}-seed{seed}", group_name, name, point, seed, complete, links)


def _without_links(settings: Mapping[str, Any], allowed: Sequence[str] = ()) -> dict[str, Any]:
    """The settings, without what an axis may give beside them."""
    for key in (*OWN, "seed"):
        if key in settings and key not in allowed:
            where = "seeds" if key == "seed" else key
            raise KDScopeError(f"{key!r} is no setting of a study's runs; write `{where}:` beside `settings:`")
    return {key: value for key, value in settings.items() if key not in OWN}


def _is_setting(axis: str) -> bool:
    return axis in OWN or axis in api.SHORT or axis.split(".")[0] in Config.model_fields


def _cell(draft: Draft, drafts: Mapping[str, list[Draft]], made: Mapping[str, Cell]) -> Cell:
    taught = [t for r in listed(draft.links["teachers"]) for t in teachers_of(r, draft, drafts)]
    starts = [t for r in listed(draft.links["start"]) for t in teachers_of(r, draft, drafts)]
    if len(starts) > 1 or any(not start.cell for start in starts):
        raise KDScopeError("`start` names one run, whose weights the network begins with")
    start = starts[0].cell if starts else None
    stand_ins = [
        TeacherSettings(run=Path("study") / t.cell, weight=t.weight) if t.cell else _elsewhere(t) for t in taught
    ]
    config = api.settings(teachers=stand_ins, **draft.settings)
    config = _complete(config)
    known = known_terms(task_of(config.data.name).methods)
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

    task_of(config.data.name).check_names(config)
    try:
        return written_out(complete(config))
    except KDScopeError as error:
        if "is not a run directory" in str(error):
            raise KDScopeError("name its assistants in its settings: the teacher is not trained yet") from None
        raise
