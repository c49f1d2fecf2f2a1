"""What a student detector starts from: a whole detector's weights, or those of a classifier for its backbone's body."""

from pathlib import Path

from torch import nn

from kdscope.errors import KDScopeError
from kdscope.models.weights import differences, load_weights, read_weights

COUNTERS = ("num_batches_tracked",)  # which frozen batch norm has not


def load_start(student: nn.Module, path: str | Path) -> None:
    """Read the weights in `path` into a detector, or where they are a classifier's, into the body of its backbone.

    A body takes all that it has, and of the file only a last linear layer (`fc`, `classifier`, `head`) may be left
    over: a backbone that is initialised in part, in silence, is where most failures of distilled detectors come from.

    Raises:
        KDScopeError: a file that is neither, with the first names at fault.
    """
    body = getattr(getattr(student, "backbone", None), "body", None)
    if body is None or not differences(student, path):
        load_weights(student, path)
        return
    state, ours = read_weights(path), body.state_dict()
    counted = {name for name in ours if not name.endswith(COUNTERS)}
    missing = sorted(name for name in counted if name not in state)
    misshapen = sorted(name for name in counted - set(missing) if state[name].shape != ours[name].shape)
    known = ("fc.", "classifier.", "head.")
    left = sorted(
        name for name in state if name not in ours and not name.startswith(known) and not name.endswith(COUNTERS)
    )
    if missing or misshapen or left:
        faults = ((missing, "are missing"), (misshapen, "have other shapes"), (left, "are not known"))
        said = [f"{len(names)} {what} ({names[0]}, ...)" for names, what in faults if names]
        raise KDScopeError(
            f"{path} holds neither this {type(student).__name__} nor the body of its backbone: "
            f"of that, {'; '.join(said)}"
        )
    body.load_state_dict({name: state[name] for name in ours if name in state}, strict=False)
