"""Checks of the numbers that terms take as settings: each returns the number, or says in one line what was wrong."""

from typing import Any

from kdscope.errors import KDScopeError


def positive(term: str, setting: str, value: Any) -> float:
    """`value` as a float where it is a finite number above 0.

    >>> positive("kd", "temperature", 4)
    4.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise KDScopeError(f"term {term!r}: {setting} must be a number above 0, not {value!r}")
    return float(value)


def weight(term: str, setting: str, value: Any) -> float:
    """`value` as a float where it is a finite number of at least 0; that of a part of a loss within a term."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise KDScopeError(f"term {term!r}: {setting} must be a number of at least 0, not {value!r}")
    return float(value)


def weights(term: str, **values: Any) -> tuple[float, ...]:
    """Weights of the parts of a loss within a term, each checked by `weight`, of which one at least is above 0.

    >>> weights("dkd", alpha=1, beta=0)
    (1.0, 0.0)
    """
    checked = tuple(weight(term, setting, value) for setting, value in values.items())
    if not any(checked):
        which = f"{' and '.join(values)} are {'both' if len(values) == 2 else 'all'} 0"
        raise KDScopeError(f"term {term!r}: {which}, which leaves nothing; give one of them")
    return checked


def flag(term: str, setting: str, value: Any) -> bool:
    """`value` where it is true or false."""
    if not isinstance(value, bool):
        raise KDScopeError(f"term {term!r}: {setting} must be true or false, not {value!r}")
    return value
