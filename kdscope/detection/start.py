"""What a student detector starts from: a whole detector's weights, or those of a classifier for its backbone's body.

A detector of other classes gives all but the layers that have a number for each class, as fine-tuning wants it; what
stays as it was drawn is said. Nothing else may be left over or missing: a backbone that is initialised in part, in
silence, is where most failures of distilled detectors come from.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from kdscope.errors import KDScopeError
from kdscope.models.weights import load_weights, read_weights

COUNTERS = ("num_batches_tracked",)  # which frozen batch norm has not
CLASSIFIER = ("fc.", "classifier.", "head.")  # last layers of classifiers, of no use to a detector
BY_CLASS = (  # layers of torchvision's detectors with a number for each class, or a box for each
    "roi_heads.box_predictor.",
    "head.classification_head.cls_logits.",
    "head.classification_head.module_list.",
)


@dataclass(frozen=True)
class Start:
    """What a detector takes from a file: tensors by its own names, and the layers by class that stay as drawn."""

    taken: Mapping[str, Tensor]
    drawn: tuple[str, ...]
    what: str

    def __str__(self) -> str:
        left = f"; as drawn stay those of other classes ({_first(self.drawn)})" if self.drawn else ""
        return f"{self.what}, {len(self.taken)} tensors{left}"


def planned(student: nn.Module, path: str | Path) -> Start:
    """What `student` takes from `path`; nothing is changed.

    Raises:
        KDScopeError: a file that is neither a detector of its architecture nor a classifier of its backbone's body,
            with the first names at fault.
    """
    state, kind = read_weights(path), type(student).__name__
    ours = student.state_dict()
    missing, misshapen, unknown = _faults(ours, state)
    drawn = [name for name in misshapen if _by_class(name, ours[name], state[name])]
    if not (missing or unknown) and drawn == misshapen:
        taken = {name: state[name] for name in ours if name in state and name not in drawn}
        return Start(taken, tuple(drawn), "all that it has" if not drawn else "all but its layers by class")
    body = getattr(getattr(student, "backbone", None), "body", None)
    if body is None or len(missing) < len(ours) / 2:  # most names are its own
        raise KDScopeError(f"{path} holds another detector than this {kind}: {_told(missing, misshapen, unknown)}")
    ours = body.state_dict()
    missing, misshapen, unknown = _faults(ours, state)
    unknown = [name for name in unknown if not name.startswith(CLASSIFIER)]
    if missing or misshapen or unknown:
        raise KDScopeError(
            f"{path} holds neither this {kind} nor the body of its backbone: of that, "
            f"{_told(missing, misshapen, unknown)}"
        )
    taken = {f"backbone.body.{name}": state[name] for name in ours if name in state}
    return Start(taken, (), "the body of its backbone")


def load_start(student: nn.Module, path: str | Path) -> Start:
    """Read the weights in `path` into a detector, in place: what `planned` says, which is given back.

    Raises:
        KDScopeError: as `planned`; the detector is as it was.
    """
    start = planned(student, path)
    student.load_state_dict(dict(start.taken), strict=False)
    return start


def load_detector(network: nn.Module, path: str | Path, dataset: str) -> None:
    """Read a teacher's weights: all of them, or none. `dataset` is what it is to teach, for the message.

    Raises:
        KDScopeError: as `kdscope.models.load_weights`; where the number of classes alone differs, both are told.
    """
    ours, state = network.state_dict(), read_weights(path)
    missing, misshapen, unknown = _faults(ours, state)
    if misshapen and not (missing or unknown) and all(_by_class(name, ours[name], state[name]) for name in misshapen):
        name = misshapen[0]
        remedy = coco_ids(dataset) if len(state[name]) % 91 == 0 else ""  # 90 classes and the background, per anchor
        raise KDScopeError(
            f"{path} knows other classes than {dataset!r}: {name} is {list(state[name].shape)} and should be "
            f"{list(ours[name].shape)}{remedy}"
        )
    load_weights(network, path)


def coco_ids(dataset: str) -> str:
    """What to do about COCO's two ways of counting its classes, where a dataset's name says that it may matter.

    >>> coco_ids("coco:/data/coco"), coco_ids("scenes")
    ("; for torchvision's COCO weights take coco-ids:/data/coco", '')
    """
    kind, _, folder = dataset.partition(":")
    return f"; for torchvision's COCO weights take coco-ids:{folder}" if kind == "coco" else ""


def _faults(ours: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Names that a file lacks, that have another shape there, and that it alone has; counters of batches apart."""
    missing = [name for name in ours if name not in state and not name.endswith(COUNTERS)]
    misshapen = [name for name in ours if name in state and state[name].shape != ours[name].shape]
    return missing, misshapen, sorted(name for name in state if name not in ours and not name.endswith(COUNTERS))


def _by_class(name: str, ours: Tensor, theirs: Tensor) -> bool:
    """Whether a tensor differs by the number of classes alone, which its first dimension counts."""
    return name.startswith(BY_CLASS) and ours.shape[1:] == theirs.shape[1:]


def _told(missing: Iterable[str], misshapen: Iterable[str], unknown: Iterable[str]) -> str:
    faults = ((sorted(missing), "missing"), (sorted(misshapen), "of other shapes"), (sorted(unknown), "not known"))
    return "; ".join(f"{len(names)} {what} ({_first(names)})" for names, what in faults if names)


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return names[0] + ", ..." * (len(names) > 1)
