"""The attention heads of a finished run of MHGD, as its checkpoint has them: one set for each of its teachers."""

import functools

import torch
from safetensors import SafetensorError, safe_open

from kdscope import models
from kdscope.errors import KDScopeError
from kdscope.features.graph import Attention, Seen
from kdscope.methods.mhgd import MultiHeadGraph
from kdscope.run import Run
from kdscope.training.prepare import prepare

TERM = MultiHeadGraph.name


def attentions_of(run: Run) -> list[Attention]:
    """The heads of each teacher of `run`, in their order.

    They are those of the end of the training, for the heads are frozen while the student learns; so are adapters, where
    the widths of student and teacher differ, and these learn.

    Raises:
        KDScopeError: a run without that term, or whose checkpoint cannot be read.
    """
    if TERM not in run.config.terms or not run.config.terms[TERM]["weight"] > 0:
        raise KDScopeError(f"{run.name} has no graphs: it was trained by {run.config.method}, not by mhgd")
    path = run.path / "checkpoints" / "last.safetensors"
    start = f"objective.terms.{TERM}."
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(start)]  # noqa: SIM118 (it is no mapping)
            state = {name.removeprefix(start): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise KDScopeError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    found = []
    for k in range(len(run.config.teachers)):
        own = {name.removeprefix(f"{k}."): value for name, value in state.items() if name.startswith(f"{k}.")}
        key = f"{models.weights_hash(own)[:16]}-{(run.config.teachers[k].weights_hash or '')[:16]}"
        found.append(Attention(key, functools.partial(_load, run, k, own)))
    return found


def _load(run: Run, k: int, state: dict[str, torch.Tensor]) -> Seen:
    with torch.random.fork_rng(devices=[]):  # preparing a run seeds the generator
        learner = prepare(run.config, begun=True)[2]
    term = learner.objective.terms[TERM][k]
    term.load_state_dict(state)
    ours, theirs = learner.objective.pairs[TERM][k]
    return Seen(term.eval(), learner.teachers[k], ours, theirs)
