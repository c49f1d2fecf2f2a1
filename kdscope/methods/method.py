"""A method is a named preset of weighted terms, so any two methods compose: `kd+at`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdscope.errors import KDScopeError, unknown
from kdscope.methods.term import COMMON, Term
from kdscope.registry import Registry

FAMILIES = ("baseline", "logits", "features", "relations", "schedule")


@dataclass(frozen=True)
class Method:
    """Terms with their weights, and all that `kdscope list`, `kdscope explain` and the table of methods tell of them.

    Attributes:
        terms: weight of each term.
        title, citation: what it is called and whose it is.
        family: one of FAMILIES.
        transfers: what goes from teacher to student, in a few words.
        equation: the loss on one line of plain text.
        settings: by the term's name, settings in which this preset differs from the term's defaults.
        reference: published numbers that a user would compare with, in one sentence.
        departures: where kdscope departs from the paper or from popular code, and why.
        cost: why it is slower than twice `kd`, where it is.
        gradients: how the terms' gradients are combined (`kdscope.training.gradients`).
        chain: "assistants" (teachers between teacher and student) or "generations" (of the student itself), or "".
        peers: networks that learn together with the student where the config names none.
    """

    terms: Mapping[type[Term], float]
    title: str
    citation: str
    family: str = "features"
    transfers: str = ""
    equation: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reference: str = ""
    departures: str = ""
    cost: str = ""
    gradients: str = "sum"
    chain: str = ""
    peers: int = 0


METHODS: Registry[Method] = Registry("method", package="kdscope.methods", group="kdscope.methods")


def known_terms(methods: Registry[Method] = METHODS) -> dict[str, type[Term]]:
    """Every term that some method uses, by name."""
    return {term.name: term for name in methods for term in methods[name].terms}


def parts(method: str, methods: Registry[Method] = METHODS) -> dict[str, Method]:
    """The presets that a method's name adds up, by name; "custom" is none.

    >>> [part.title for part in parts("kd+at").values()]
    ['Knowledge distillation of logits', 'Attention transfer']
    """
    names = [] if method == "custom" else [part.strip().lower() for part in method.split("+")]
    if "" in names or len(set(names)) < len(names):
        raise KDScopeError(f"method {method!r}: a sum names each method once, such as kd+at")
    return {name: methods[name] for name in names}


def one_of(method: str, attribute: str, default: Any) -> Any:
    """The one value other than `default` that the parts of `method` have of `attribute`; two are an error.

    >>> one_of("kd+at", "gradients", "sum")
    'sum'
    """
    values = {getattr(part, attribute) for part in parts(method).values()} - {default}
    if len(values) > 1:
        raise KDScopeError(f"method {method!r}: its parts want different {attribute}: {', '.join(sorted(values))}")
    return values.pop() if values else default


def resolve(
    method: str, overrides: Mapping[str, Mapping[str, Any]] | None = None, methods: Registry[Method] = METHODS
) -> dict[str, dict[str, Any]]:
    """The complete settings of each term of `method` ("kd", "kd+at", or "custom" for `overrides` alone).

    A term that several methods share is taken once, with the smallest of their weights: a method that lowers the
    cross-entropy has put that share elsewhere (AT + KD of Zagoruyko & Komodakis is 0.1 CE + 0.9 KD + 1000 AT).
    `overrides` gives weights and settings by term, and may add terms; `methods` are those of classifiers or detectors.

    Raises:
        KDScopeError: an unknown method, term or setting (with the nearest), a bad weight, or no weight left.

    >>> {name: settings["weight"] for name, settings in resolve("kd+at").items()}
    {'cross-entropy': 0.1, 'kd': 0.9, 'at': 1000.0}
    """
    weights: dict[type[Term], float] = {}
    preset: dict[str, dict[str, Any]] = {}
    for name, part in parts(method, methods).items():
        for term, weight in part.terms.items():
            own = dict(part.settings.get(term.name, {}))
            _check_shared(method, name, term, own, preset.get(term.name))
            weights[term] = min(weight, weights.get(term, weight))
            preset[term.name] = preset.get(term.name, {}) | own
    resolved = {term.name: _defaults(term) | preset[term.name] | {"weight": weight} for term, weight in weights.items()}

    terms = known_terms(methods)
    for name, settings in (overrides or {}).items():
        if name not in terms:
            raise unknown("term", name, terms)
        terms[name].check_settings(settings)
        resolved[name] = {"weight": 1.0} | _defaults(terms[name]) | resolved.get(name, {}) | dict(settings)
    for name, settings in resolved.items():
        _check_common(name, settings)
    if not any(settings["weight"] > 0 for settings in resolved.values()):
        raise KDScopeError(f"method {method!r} has no term with a weight above 0")
    return resolved


def _check_shared(
    method: str, part: str, term: type[Term], own: Mapping[str, Any], before: Mapping[str, Any] | None
) -> None:
    """Raise where an earlier part of a sum has the same term in another form: it could be neither of the two.

    Cross-entropy and terms of logits give way where one part leaves a setting at its default, as in at+label-smoothing.
    """
    if before is None or before == own:
        return
    keys = before.keys() | own.keys() if term.reads == "features" else before.keys() & own.keys()
    if any(before.get(key) != own.get(key) for key in keys):
        raise KDScopeError(
            f"method {method!r}: {part!r} and a part before it have the term {term.name!r} in different forms; "
            f"take one of them, and --set terms.{term.name}.SETTING=VALUE"
        )


def _defaults(term: type[Term]) -> dict[str, Any]:
    return term.settings() | ({"warmup": term.warmup} if term.warmup else {})


def _check_common(name: str, settings: Mapping[str, Any]) -> None:
    """Raise for a weight, warm-up or annealing that is none; they are the same for all terms."""
    weight, warmup, anneal = (settings.get(key, default) for key, default in COMMON.items())
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise KDScopeError(f"term {name!r}: weight must be a number >= 0, not {weight!r}")
    if isinstance(warmup, bool) or not isinstance(warmup, int | float) or not 0 <= warmup <= 1:
        raise KDScopeError(f"term {name!r}: warmup is a share of all epochs in [0, 1], not {warmup!r}")
    if anneal not in ("none", "linear", "cosine"):
        raise unknown("anneal", str(anneal), ("none", "linear", "cosine"), f"term {name!r}")
