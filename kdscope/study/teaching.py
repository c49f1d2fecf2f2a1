"""Who learns from whom: the teachers that a study's runs name, looked up among its cells.

A reference is the name of a run, or {run: NAME, AXIS: value, seed: S, weight: W}. What it leaves open is as in the cell
that learns: its seed, and its values of the axes that both have.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdscope.config import TeacherSettings
from kdscope.errors import KDScopeError, unknown
from kdscope.study.grid import Point, named, spell
from kdscope.study.schema import Arm

LINKS = ("teachers", "start")  # axes that name other runs
OWN = (*LINKS, "seed_offset")  # what a group of settings on an axis may hold beside settings


@dataclass(frozen=True)
class Taught:
    """A teacher of a cell: another cell by its name, or weights from elsewhere (`NAME@CHECKPOINT`, torchvision:...)."""

    cell: str = ""
    elsewhere: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Draft:
    """A cell before its references are looked up."""

    name: str
    group: str
    arm: str
    point: Point
    seed: int
    settings: dict[str, Any]
    links: dict[str, Any]


def ordered(arms: Mapping[str, Arm]) -> list[str]:
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
            for reference in listed(group.get(link) if isinstance(group, Mapping) else None):
                yield str(reference.get("run", "")) if isinstance(reference, Mapping) else reference


def listed(references: Any) -> list[Any]:
    if references is None:
        return []
    return list(references) if isinstance(references, list | tuple) else [references]


def teachers_of(reference: Any, draft: Draft, drafts: Mapping[str, list[Draft]]) -> Iterator[Taught]:
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
    for values in itertools.product(*(listed(value) or [None] for value in rule.values())):
        one = dict(zip(rule, values, strict=True))
        yield Taught(cell=_match(run, one, draft, drafts[run]), weight=weight)


def _match(run: str, rule: dict[str, Any], draft: Draft, candidates: list[Draft]) -> str:
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
