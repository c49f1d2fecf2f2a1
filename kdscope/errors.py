"""The one error that kdscope raises for bad input: what was wrong, where, and the nearest right thing, in one line."""

import difflib
from collections.abc import Iterable


class KDScopeError(ValueError):
    """Bad input. The message is one line; the command line prints it on standard error and exits with status 2."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The names in `known` closest to `name`, best first; the first few of all when none is close.

    >>> nearest("resnet21", ["resnet20", "resnet56", "vgg8"])
    ['resnet20', 'resnet56']
    """
    known = sorted(known)
    return difflib.get_close_matches(name, known, n=count, cutoff=0.55) or known[:count]


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> KDScopeError:
    """The error for a name that is not known, with the nearest that are.

    >>> str(unknown("method", "kdd", ["kd", "at", "none"]))
    "unknown method 'kdd'; nearest: kd"
    """
    known = list(known)
    place = f" in {where}" if where else ""
    hint = f"nearest: {', '.join(nearest(name, known))}" if known else f"no {kind} is known here"
    return KDScopeError(f"unknown {kind} {name!r}{place}; {hint}")
