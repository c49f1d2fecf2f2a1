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


def definitions(given: Sequence[str] | str, measures: Iterable[str], name: str) -> list[str]:
    """The sound definition first, then those that are asked for and that some of the measures of analysis `name` know.

    Raises:
        KDScopeError: a definition that none of them knows, with the nearest.

    >>> definitions("guo2024-code", ["ece"], "calibration")
    ['kdscope', 'guo2024-code']
    """
    known = {definition for measure in measures for definition in MEASURES[measure].definitions}
    for definition in texts(given):
        if definition not in known:
            raise unknown("definition", definition, known, f"analysis {name!r}")
    return list(dict.fromkeys(["kdscope", *texts(given)]))
