"""Options that several analyses have: names as one text with commas, and which definitions of a measure are shown."""

from collections.abc import Iterable, Sequence

from kdscope.errors import unknown
from kdscope.measures import MEASURES


def texts(given: Sequence[str] | str) -> list[str]:
    """Names from a list or from one text with commas, each once.

    >>> texts("train, test,train")
    ['train', 'test']
    """
    parts = given.split(",") if isinstance(given, str) else given
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def chosen(given: Sequence[str] | str, known: Iterable[str], name: str) -> list[str]:
    """The definitions that are asked for, each once, of those that analysis `name` knows.

    Raises:
        KDScopeError: one that it does not know, with the nearest.

    >>> chosen("fitted,kdscope,fitted", ("kdscope", "fitted"), "detection-patch-in")
    ['fitted', 'kdscope']
    """
    asked, known = texts(given), tuple(known)
    for definition in asked:
        if definition not in known:
            raise unknown("definition", definition, known, f"analysis {name!r}")
    return asked


def definitions(given: Sequence[str] | str, measures: Iterable[str], name: str) -> list[str]:
    """The sound definition first, then those that are asked for and that some of the measures of analysis `name` know.

    Raises:
        KDScopeError: a definition that none of them knows, with the nearest.

    >>> definitions("guo2024-code", ["ece"], "calibration")
    ['kdscope', 'guo2024-code']
    """
    known = {definition for measure in measures for definition in MEASURES[measure].definitions}
    return list(dict.fromkeys(["kdscope", *chosen(given, known, name)]))
