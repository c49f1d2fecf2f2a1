"""The fields of the records of a JSON file, checked: what is wrong is said with the file and the record."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from kdscope.errors import KDScopeError, nearest


def called(kind: str, records: list, row: int) -> str:
    """The record at `row`, for a message: by its id, or where it stands."""
    record = records[row]
    number = record.get("id") if isinstance(record, dict) else None
    return f"{kind} number {row + 1} in the file" if number is None else f"{kind} {number}"


def column(path: Path, kind: str, records: list, field: str) -> list:
    """That field of all records."""
    try:
        return [record[field] for record in records]
    except (KeyError, TypeError):
        row = next(i for i, record in enumerate(records) if not isinstance(record, dict) or field not in record)
        raise KDScopeError(f"{path}: {called(kind, records, row)} has no {field!r}") from None


def whole(path: Path, kind: str, records: list, field: str, least: int = -(2**62)) -> np.ndarray:
    """That field of all records, whole numbers: int64."""
    values = column(path, kind, records, field)
    array = _array(values)
    if array.dtype.kind == "i" and array.ndim == 1 and array.min(initial=least) >= least:
        return array.astype(np.int64)
    for row, value in enumerate(values):
        if type(value) is not int or not least <= value < 2**62:
            wanted = "a whole number" if least < 0 else f"a whole number of at least {least}"
            raise KDScopeError(f"{path}: {called(kind, records, row)} has {field} {value!r}, not {wanted}")
    return np.array(values, dtype=np.int64)


def position(path: Path, kind: str, records: list, field: str, known: np.ndarray) -> np.ndarray:
    """Where in `known` (ids, not none of them) each record's `field` is: int64."""
    wanted = whole(path, kind, records, field)
    order = known.argsort(kind="stable")
    place = order[np.searchsorted(known[order], wanted).clip(max=len(known) - 1)]
    lost = np.flatnonzero(known[place] != wanted)
    if len(lost):
        hint = ", ".join(nearest(str(wanted[lost[0]]), map(str, known.tolist()[:1000])))
        raise KDScopeError(
            f"{path}: {called(kind, records, lost[0])} has {field} {wanted[lost[0]]}, "
            f"and there is no such {field.removesuffix('_id')}; nearest: {hint}"
        )
    return place


def edges(path: Path, kind: str, records: list) -> np.ndarray:
    """(x1, y1, x2, y2) of each record's bbox [x, y, width, height]: float64 [M, 4]."""
    values = column(path, kind, records, "bbox")
    boxes = _array(values)
    if not (boxes.dtype.kind in "if" and boxes.shape == (len(values), 4) and np.isfinite(boxes).all()):
        for row, box in enumerate(values):
            if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
                told = f"{called(kind, records, row)} of image {records[row].get('image_id')}"
                raise KDScopeError(f"{path}: {told} has bbox {box!r}, not four numbers [x, y, width, height]")
    boxes = np.array(values, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def is_number(value: Any) -> bool:
    """Whether JSON's value is a finite number (true and false are none)."""
    return type(value) in (int, float) and math.isfinite(value)


def _array(values: list) -> np.ndarray:
    """As an array of whatever type they have: looking at each in turn takes seconds for a million."""
    try:
        return np.array(values)
    except ValueError:  # lists of several lengths
        return np.array(None)
