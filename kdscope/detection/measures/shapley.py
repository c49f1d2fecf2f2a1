"""How much of a loss does each part account for? Shapley's value, exact, over a handful of parts.

Shapley, "A Value for n-Person Games", 1953: phi_r is the mean, over the orders in which parts join, of what r adds when
its turn comes: the sum over sets S without r of |S|! (n - |S| - 1)! / n! (v(S + r) - v(S)). Where v(S) is the AP of the
teacher's own head on its maps with the regions S replaced by the student's, -phi_r are the points of AP lost in
region r; they add up to what is lost where all is replaced.
"""

import math
from collections.abc import Hashable, Mapping, Sequence

from kdscope.errors import KDScopeError


def shapley(parts: Sequence[Hashable], value: Mapping[frozenset, float]) -> dict[Hashable, float]:
    """Shapley's value of each part.

    Args:
        parts: different names. value: of every set of them, the empty one too.

    Returns:
        By part; their sum is value(all) - value(none).

    Raises:
        KDScopeError: a set without a value.

    >>> v = {frozenset(): 0.0, frozenset("a"): 1.0, frozenset("b"): 2.0, frozenset("ab"): 4.0}
    >>> shapley("ab", v)
    {'a': 1.5, 'b': 2.5}
    """
    n = len(parts)
    sets = subsets(parts)
    missing = [some for some in sets if some not in value]
    if missing:
        raise KDScopeError(f"no value of the set {{{', '.join(sorted(map(str, missing[0])))}}}; all 2^{n} are needed")
    found = dict.fromkeys(parts, 0.0)
    for some in sets:
        weight = math.factorial(len(some)) * math.factorial(max(n - len(some) - 1, 0)) / math.factorial(n)
        for part in parts:
            if part not in some:
                found[part] += weight * (value[some | {part}] - value[some])
    return found


def subsets(parts: Sequence[Hashable]) -> list[frozenset]:
    """All sets of the parts, the empty one first, in a fixed order.

    >>> [sorted(some) for some in subsets("ab")]
    [[], ['a'], ['b'], ['a', 'b']]
    """
    return [frozenset(part for k, part in enumerate(parts) if code >> k & 1) for code in range(2 ** len(parts))]
