"""What a chain of trainings consists of where the settings leave it open (`kdscope.links` has the chain itself)."""

import math
import re

import torch

from kdscope import models
from kdscope.config import Config, NetworkSettings
from kdscope.errors import KDScopeError
from kdscope.methods.method import one_of
from kdscope.models import MODELS
from kdscope.run import Run
from kdscope.training.tasks import task_of


def complete(config: Config) -> Config:
    """The config with its chain written out: which kind, and which assistants where none were named."""
    return task_of(config.data.name).complete(config)


def complete_chain(config: Config) -> Config:
    """The chain of a classifier."""
    given = "assistants" if config.assistants else "generations" if config.generations > 1 else "none"
    kind = config.chain or one_of(config.method, "chain", "") or given
    if kind != "assistants" and config.assistants:
        raise KDScopeError(f"assistants are given, but the chain is {kind!r}; leave out one of the two")
    if kind != "generations" and config.generations > 1:
        raise KDScopeError(f"generations are given, but the chain is {kind!r}; --method born-again has generations")
    if kind == "assistants" and not config.teachers:
        raise KDScopeError("assistants stand between a teacher and the student; add --teacher RUN")
    if kind == "assistants" and not config.assistants:
        config = config.model_copy(update={"assistants": (NetworkSettings(name=_between(config)),)})
    return config.model_copy(update={"chain": kind})


def _between(config: Config) -> str:
    """The network of the teacher's or the student's family whose size is nearest the geometric mean of the two."""
    teacher = config.teachers[0]
    large = Run(teacher.run).config.model.name if teacher.run is not None else teacher.model
    small = config.model.name
    if ":" in large + small:
        raise KDScopeError(f"no assistant is known between {large} and {small}; name one: --assistant NAME")
    families = {_family(name) for name in (large, small)}
    sizes = {name: _size(name) for name in models.names() if _family(name) in families}
    wanted = math.sqrt(_size(large) * _size(small))
    least, most = sorted((_size(large), _size(small)))
    between = [name for name, size in sizes.items() if least < size < most]
    if not between:
        raise KDScopeError(f"no network of their families lies between {large} and {small}; name one: --assistant NAME")
    return min(between, key=lambda name: abs(math.log(sizes[name] / wanted)))


def _family(name: str) -> str:
    return MODELS[name].__module__ if name in MODELS else re.sub(r"\d+", "#", name)


def _size(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in models.build(name, 10).parameters())
