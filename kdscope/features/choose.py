"""Layers by words that mean something in every network, beside the patterns of select.py.

| word             | what it chooses                                                                            |
|------------------|--------------------------------------------------------------------------------------------|
| `stages`         | the stage maps (`kdscope.models.stages`)                                                   |
| `preactivations` | the stage maps before the last ReLU of each stage (`kdscope.models.preactivations`)        |
| `blocks`         | the outputs of the residual blocks, or whatever the stages are made of (`kdscope.models.blocks`) |
| `entries`        | the first block of each stage (`kdscope.models.entries`)                                   |
| `final-map`      | the last map before it is pooled (`kdscope.models.final_map`)                              |
| `penultimate`    | the vector that enters the classifier                                                      |

An index counts within what a word gives, as in Python: `stages:-1` is the deepest stage.
"""

from collections.abc import Sequence

from torch import nn

from kdscope import models
from kdscope.errors import KDScopeError
from kdscope.features.select import PENULTIMATE, select

WORDS = ("stages", "preactivations", "blocks", "entries", "final-map")


def choose(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The layers of `model` that `patterns` name: words in the order given, then patterns in the order of modules.

    Raises:
        KDScopeError: a pattern that matches nothing, an index beyond what there is, or a network without stage maps.

    >>> choose(models.build("resnet8", num_classes=10), ["stages:-1", "penultimate"])
    ['layer3', 'penultimate']
    """
    chosen: list[str] = []
    others = [pattern for pattern in patterns if not is_word(pattern)]
    for pattern in patterns:
        if is_word(pattern):
            chosen += _expand(model, pattern)
    if others:
        chosen += select(model, others)
    return list(dict.fromkeys(chosen))


def is_word(pattern: str) -> bool:
    """Whether `pattern` is a word of the table above, with or without an index."""
    return pattern == PENULTIMATE or pattern.partition(":")[0] in WORDS


def _expand(model: nn.Module, pattern: str) -> list[str]:
    if pattern == PENULTIMATE:
        return [PENULTIMATE]
    word, colon, index = pattern.partition(":")
    found = list(getattr(models, word.replace("-", "_"))(model))
    if not colon:
        return found
    try:
        return [found[int(index)]]
    except (ValueError, IndexError):
        raise KDScopeError(
            f"{pattern!r} names none of the {len(found)} {word} of {type(model).__name__}: {', '.join(found)}; "
            f"count from {word}:0 or, from the deep end, {word}:-1"
        ) from None
