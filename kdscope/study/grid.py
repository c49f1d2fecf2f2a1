"""The points of a grid: the product of its axes, with further points and without some.

An axis is a mapping from short names, which end up in the names of runs, to values.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdscope.errors import KDScopeError, unknown

Axis = Mapping[str, Any]
Point = dict[str, tuple[str, Any]]  # axis: (name of the value, value)


def as_axis(name: str, values: Any) -> dict[str, Any]:
    """The values of an axis by their names: those of a mapping, or the values themselves as text.

    >>> as_axis("terms.kd.temperature", [1, 4])
    {'1': 1, '4': 4}
    """
    if isinstance(values, Mapping):
        return {str(key): value for key, value in values.items()}
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(f"axis {name!r} needs a list of values, or {{NAME: value}}")
    if any(isinstance(value, Mapping | list) for value in values):
        raise ValueError(f"the values of axis {name!r} are too long for names of runs; write {{NAME: value}}")
    axis = {spell(value): value for value in values}
    if len(axis) < len(values):
        raise ValueError(f"axis {name!r} has a value twice")
    return axis


def points(
    grid: Mapping[str, Axis], include: Sequence[Mapping[str, Any]] = (), exclude: Sequence[Mapping[str, Any]] = ()
) -> Iterator[tuple[Point, dict[str, Any]]]:
    """Each point of the grid, with the settings that it has beside its axes (those of `include` alone have some).

    Raises:
        KDScopeError: a point of `include` that lacks an axis.

    >>> grid = {"m": as_axis("m", ["kd", "at"]), "t": as_axis("t", [1, 4])}
    >>> [[name for name, _ in p.values()] for p, _ in points(grid, [{"m": "kd", "t": 9}], [{"m": "at", "t": 4}])]
    [['kd', '1'], ['kd', '4'], ['at', '1'], ['kd', '9']]
    """
    for values in itertools.product(*(axis.items() for axis in grid.values())):
        point = dict(zip(grid, values, strict=True))
        if not any(fits(point, rule) for rule in exclude):
            yield point, {}
    for entry in include:
        missing = [axis for axis in grid if axis not in entry]
        if missing:
            raise KDScopeError(f"include needs a value of axis {missing[0]!r} in {json.dumps(entry, default=str)}")
        point = {axis: (spell(entry[axis]), grid[axis].get(spell(entry[axis]), entry[axis])) for axis in grid}
        yield point, {key: value for key, value in entry.items() if key not in grid}


def check_rules(grid: Mapping[str, Axis], exclude: Sequence[Mapping[str, Any]]) -> None:
    """Raise for an axis, or a value of it, that is excluded and is not there."""
    for rule in exclude:
        for axis, value in rule.items():
            if axis not in grid:
                raise unknown("axis", axis, grid, "exclude")
            for one in value if isinstance(value, list) else [value]:
                named(grid[axis], one, f"exclude, axis {axis!r}")


def fits(point: Point, rule: Mapping[str, Any]) -> bool:
    """Whether a point has all the values of a rule; a list in the rule stands for any of its values."""
    for axis, value in rule.items():
        if point[axis][0] not in [spell(v) for v in (value if isinstance(value, list) else [value])]:
            return False
    return True


def chosen(name: str, axis: Axis, wanted: Any) -> dict[str, Any]:
    """The axis as a scale has it: some of its values by their names, or (where values are their own names) others.

    >>> chosen("t", {"cold": 1, "hot": 16}, ["hot"]), chosen("t", {"1": 1, "4": 4}, [4, 8])
    ({'hot': 16}, {'4': 4, '8': 8})
    """
    if isinstance(wanted, Mapping):
        return as_axis(name, wanted)
    if not isinstance(wanted, list):
        raise KDScopeError(f"a scale gives axis {name!r} as a list of its values, not {wanted!r}")
    free = all(key == spell(value) for key, value in axis.items() if not isinstance(value, Mapping | list))
    free = free and not any(isinstance(value, Mapping | list) for value in axis.values())
    kept = {}
    for value in wanted:
        key = spell(value) if free else named(axis, value, f"axis {name!r}")
        kept[key] = axis.get(key, value)
    return kept


def named(axis: Axis, value: Any, where: str) -> str:
    """The name of one of an axis's values, which is given by name or as it is."""
    if spell(value) not in axis:
        raise unknown("value", spell(value), axis, where)
    return spell(value)


def spell(value: Any) -> str:
    """A value as it stands in names: true, none, 0.5, kd+at."""
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value)


def part(axis: str, name: str) -> str:
    """What a point's value adds to the name of its run: a word alone, a number with its setting.

    >>> part("method", "kd"), part("terms.kd.temperature", "4"), part("data", "cifar100-lt:10")
    ('kd', 'temperature=4', 'cifar100-lt_10')
    """
    text = name if re.match(r"[A-Za-z]", name) and name not in ("true", "false", "none") else None
    text = text or (f"{axis.split('.')[-1]}={name}" if axis != "method" else name)
    return re.sub(r"[^A-Za-z0-9_.=+-]+", "_", text)
