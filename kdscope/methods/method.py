"""A method is a named preset of weighted terms, so any two methods compose: `kd+at`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdscope.errors import KDScopeError, unknown
from kdscope.methods.term import Term
from kdscope.registry import Registry


@dataclass(frozen=True)
class Method:
    """Terms with their weights, and where the method comes from."""

    terms: Mapping[type[Term], float]
    title: str
    citation: str


METHODS: Registry[Method] = Registry("method", package="kdscope.methods", group="kdscope.methods")


def known_terms() -> dict[str, type[Term]]:
    """Every term that some method uses, by name."""
    return {term.name: term for name in METHODS for term in METHODS[name].terms}


def resolve(method: str, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """The complete settings of each term of `method` ("kd", "kd+at", or "custom" for `overrides` alone).

    A term that several methods share is taken once, with the smallest of their weights: a method that lowers the
    cross-entropy has put that share elsewhere (AT + KD of Zagoruyko & Komodakis is 0.1 CE + 0.9 KD + 1000 AT).
    `overrides` gives weights and settings by term, and may add terms.

    Raises:
        KDScopeError: an unknown method, term or setting (with the nearest), a bad weight, or no weight left.

    >>> {name: settings["weight"] for name, settings in resolve("kd+at").items()}
    {'cross-entropy': 0.1, 'kd': 0.9, 'at': 1000.0}
    """
    weights: dict[type[Term], float] = {}
    parts = [] if method == "custom" else [part.strip().lower() for part in method.split("+")]
    if "" in parts or len(set(parts)) < len(parts):
        raise KDScopeError(f"method {method!r}: a sum names each method once, such as kd+at")
    for part in parts:
        for term, weight in METHODS[part].terms.items():
            weights[term] = min(weight, weights.get(term, weight))
    resolved = {term.name: term.settings() | {"weight": weight} for term, weight in weights.items()}

    terms = known_terms()
    for name, settings in (overrides or {}).items():
        if name not in terms:
            raise unknown("term", name, terms)
        terms[name].check_settings(settings)
        resolved[name] = {"weight": 1.0} | terms[name].settings() | resolved.get(name, {}) | dict(settings)
    for name, settings in resolved.items():
        if not isinstance(settings["weight"], int | float) or not 0 <= settings["weight"] < float("inf"):
            raise KDScopeError(f"term {name!r}: weight must be a number >= 0, not {settings['weight']!r}")
    if not any(settings["weight"] > 0 for settings in resolved.values()):
        raise KDScopeError(f"method {method!r} has no term with a weight above 0")
    return resolved
