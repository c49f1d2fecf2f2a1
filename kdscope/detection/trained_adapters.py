"""The convolutions that bring a student's maps to its teacher's width, as a run trained them, for who comes after.

They belong to the objective and not to the student: the weights of a run are a plain detector, and its checkpoint has
them. Where a run's weights are those of an epoch that validation chose, that epoch's adapters lie beside them.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kdscope.errors import KDScopeError
from kdscope.models import save_weights, weights_hash
from kdscope.run import Run

WHERE = ".levels.adapters."  # in the names of an objective's weights: of whose levels, and then of which stride
OF_BEST = "best-adapters.safetensors"


def adapters_in(state: Mapping[str, Tensor]) -> dict[int, nn.Module]:
    """The adapters among the weights of an objective, by stride; their weights are copies.

    Of several terms with adapters the first by its name has the say; none where no term compares maps, or where all
    widths are equal.

    Args:
        state: names such as "terms.hint.levels.adapters.8.weight".

    >>> import torch
    >>> state = {"terms.hint.levels.adapters.8.weight": torch.ones(4, 2, 1, 1),
    ...     "terms.hint.levels.adapters.8.bias": torch.zeros(4)}
    >>> adapters_in(state)
    {8: Conv2d(2, 4, kernel_size=(1, 1), stride=(1, 1))}
    """
    first = min((name.partition(WHERE)[0] for name in state if WHERE in name), default="")
    start = f"{first}{WHERE}"
    return _layers({name.removeprefix(start): value for name, value in state.items() if name.startswith(start)})


def keep_adapters(objective: nn.Module, folder: Path) -> None:
    """Write the adapters of an objective beside the weights of the best epoch so far; nothing where it has none."""
    adapters = adapters_in(objective.state_dict())
    if adapters:
        save_weights(folder / OF_BEST, nn.ModuleDict({str(stride): layer for stride, layer in adapters.items()}))


def adapters_of(run: Run) -> dict[int, nn.Module]:
    """The adapters of the epoch that the weights of a run are of, by stride.

    Raises:
        KDScopeError: a checkpoint that cannot be read; a run whose epoch was chosen by validation, and which did not
            keep that epoch's adapters.
    """
    last = run.path / "checkpoints" / "last.safetensors"
    found = adapters_in(_read(last))
    if not found or not run.finished or run.summary["rule"] != "best on validation":
        return found
    best = last.with_name(OF_BEST)
    if best.is_file():
        return _layers(_read(best))
    if run.summary["epoch"] == run.config.epochs:
        return found
    raise KDScopeError(
        f"{run.path} kept the weights of epoch {run.summary['epoch']}, which validation chose, and not the adapters of "
        "that epoch: train it again, which keeps both"
    )


def hash_of(adapters: Mapping[int, nn.Module]) -> str:
    """The hash of the weights of all adapters."""
    return weights_hash({f"{s}.{key}": value for s, f in adapters.items() for key, value in f.state_dict().items()})


def _layers(state: Mapping[str, Tensor]) -> dict[int, nn.Module]:
    """Convolutions from weights named "8.weight" and "8.bias"."""
    made: dict[int, nn.Module] = {}
    for stride in sorted(int(name.removesuffix(".weight")) for name in state if name.endswith(".weight")):
        own = {part: state[f"{stride}.{part}"] for part in ("weight", "bias")}
        wide, narrow = own["weight"].shape[:2]
        made[stride] = nn.utils.skip_init(nn.Conv2d, narrow, wide, 1).eval()  # draws no random numbers
        made[stride].load_state_dict(own)
    return made


def _read(path: Path) -> dict[str, Tensor]:
    """The weights of adapters in a file, and no others."""
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if WHERE in name or path.name == OF_BEST]  # noqa: SIM118 (no mapping)
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise KDScopeError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
