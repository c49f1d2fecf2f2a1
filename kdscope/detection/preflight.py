"""What must be right before a detector is distilled: the causes of most reports of a method that does not work.

A student whose backbone was silently not initialised, a teacher that finds nothing, other anchors, other classes or
another normalisation all train without an error, and end below the student alone. Each is looked for by itself.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import detection as zoo
from torchvision.ops import FrozenBatchNorm2d

from kdscope.detection.adapter import Adapter, adapt
from kdscope.detection.batch import PROPOSED, DetectionBatch, DetectionFeatures
from kdscope.detection.data import DetectionDataset
from kdscope.detection.data.batches import DetectionBatches
from kdscope.detection.evaluate import detect, scored
from kdscope.errors import KDScopeError
from kdscope.models.weights import differences

IMAGES = 32  # that the teacher is tried on
LEAST = 0.05  # AP50 of a teacher that is worth learning from
NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: its name, whether it is as it should be, and what was found."""

    name: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{self.name}: {self.found}"


def preflight(
    student: nn.Module,
    teacher: nn.Module,
    data: DetectionDataset | None = None,
    *,
    heads: Iterable[str] | None = None,
    scratch: bool = False,
    files: Mapping[str, Path] | None = None,
    device: str | torch.device = "cpu",
    images: int = IMAGES,
    least: float = LEAST,
) -> list[Check]:
    """Every check, in the order in which they are worth mending.

    Args:
        student, teacher: detectors; a user's own with `features` alone are not asked for what they do not have.
        data: what they are for; without it, the teacher is not tried and classes are compared between the two.
        heads: whose rows will be compared, so that anchors must be equal; None: all that both have.
        scratch: the student is meant to start from random weights.
        files: of "student" and "teacher", weights that they should hold.
        device: where the teacher is tried.
        images: of train, evenly spread, that it is tried on; 0 does not try it. least: the AP50 that it must reach.
    """
    ours, theirs = adapt(student), adapt(teacher)
    both = [head for head in ours.heads if head in theirs.heads]
    checks = [
        check
        for role, network in (("teacher", teacher), ("student", student))
        if role in (files or {})
        for check in [_keys(role, network, files[role])]
    ]
    checks += [_trained(teacher), *_initialised(student, scratch), _normalisation(student, teacher)]
    with torch.random.fork_rng(devices=[]):  # a transform may draw the size
        frame = ours.frame(torch.zeros(1, 3, 128, 128), [_nothing()], torch.zeros(1, dtype=torch.int64))
    first, second = (_looked(adapter, frame) for adapter in (ours, theirs))
    classes = {"the student": _count(ours, first), "the teacher": _count(theirs, second)}
    checks += [_strides(first, second), *_classes(classes, data)]
    anchored = [head for head in (both if heads is None else heads) if head not in ("roi", PROPOSED)]
    checks += [_anchors(head, ours, theirs, frame) for head in anchored]
    if data is not None and images:
        checks.append(_ability(teacher, data, device, images, least))
    return checks


def stop_at_failed(checks: Iterable[Check], stop: bool = True) -> None:
    """Raise with all that failed, each by its name; or only say so."""
    failed = [str(check) for check in checks if not check.passed]
    if failed and stop:
        raise KDScopeError(f"preflight: {'; '.join(failed)} (--set preflight=warn goes on all the same)")
    for each in failed:
        logging.getLogger("kdscope").warning(f"preflight: {each}")


def _nothing() -> dict[str, Tensor]:
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


@torch.no_grad()
def _looked(adapter: Adapter, frame: DetectionBatch) -> DetectionFeatures:
    mode = adapter.detector.training
    adapter.detector.eval()
    box = frame.images.new_tensor([[0.0, 0.0, 32.0, 32.0]])
    said = adapter.look(frame, adapter.heads, [box])
    adapter.detector.train(mode)
    return said


def _keys(role: str, network: nn.Module, path: Path) -> Check:
    faults = differences(network, path)
    return Check(f"weights of the {role}", not faults, "; ".join(faults) or f"{path} has all of them, and no others")


def _untouched(network: nn.Module) -> tuple[int, int]:
    """How many normalisations there are, and how many are as they were made: 0 and 1, and no image seen."""
    norms = [module for module in network.modules() if isinstance(module, NORMS) and module.running_mean is not None]
    new = [bool((m.running_mean == 0).all() and (m.running_var == 1).all()) for m in norms]
    return len(norms), sum(new)


def _trained(teacher: nn.Module) -> Check:
    norms, new = _untouched(teacher)
    if norms and new == norms:
        return Check("teacher", False, "its normalisations have seen no image: untrained, or nothing was loaded")
    return Check("teacher", True, "is trained" if norms else "has no normalisation, which would tell if it is trained")


def _initialised(student: nn.Module, scratch: bool) -> list[Check]:
    name, (norms, new) = "start of the student", _untouched(getattr(student, "backbone", student))
    new_all = norms > 0 and norms == new
    frozen = any(isinstance(module, FrozenBatchNorm2d) for module in student.modules())
    checks = []
    if new_all and frozen:
        checks.append(Check(name, False, "random, with frozen batch norm, which so normalises nothing"))
    elif new_all and not scratch:
        found = "its backbone is random; give it --set model.pretrained=true or model.checkpoint=FILE"
        checks.append(Check(name, False, found))
    else:
        checks.append(Check(name, True, "random, as it is meant" if new_all else "its backbone holds trained weights"))
    if new_all and isinstance(student, zoo.RetinaNet):
        plain = not any(isinstance(module, (nn.GroupNorm, *NORMS)) for module in student.head.modules())
        found = "without a normalisation it does not learn from scratch" if plain else "is normalised"
        checks.append(Check("head of the student", not plain, found))
    return checks


def _normalisation(student: nn.Module, teacher: nn.Module) -> Check:
    shown = [_moments(network) for network in (student, teacher)]
    if None in shown or shown[0] == shown[1]:
        return Check("normalisation", True, "the same")
    ours, theirs = (f"mean {list(mean)}, deviation {list(std)}" for mean, std in shown)
    return Check("normalisation", False, f"the student has {ours}, and the teacher {theirs}; both see one image")


def _moments(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    transform = getattr(network, "transform", None)
    return None if transform is None else (tuple(transform.image_mean), tuple(transform.image_std))


def _strides(student: DetectionFeatures, teacher: DetectionFeatures) -> Check:
    ours, theirs = ({stride: tuple(m.shape[2:]) for stride, m in said.maps.items()} for said in (student, teacher))
    shared = sorted(set(ours) & set(theirs))
    unlike = [stride for stride in shared if ours[stride] != theirs[stride]]
    if unlike:
        grids = " and ".join(f"{h} x {w}" for h, w in (ours[unlike[0]], theirs[unlike[0]]))
        return Check("strides", False, f"of stride {unlike[0]} the maps of student and teacher are {grids}")
    if not shared:
        return Check("strides", False, f"the student has {list(ours)} and the teacher {list(theirs)}: none in common")
    return Check("strides", True, f"{', '.join(map(str, shared))} in common")


def _classes(told: Mapping[str, int | None], data: DetectionDataset | None) -> list[Check]:
    """As many classes as the data have, or the other network has; of heads that tell classes."""
    known = dict(told)
    known |= {} if data is None else {f"dataset {data.name!r}": data.num_classes}
    known = {who: count for who, count in known.items() if count is not None}
    if len(known) < 2:
        return []
    same = len(set(known.values())) == 1
    found = ", ".join(f"{who} {count}" for who, count in known.items())
    return [Check("classes", same, f"{next(iter(known.values()))}" if same else f"{found}: other label maps")]


def _count(adapter: Adapter, said: DetectionFeatures) -> int | None:
    """Classes of objects that a detector tells apart; a softmax has a column for the background."""
    for head in ("dense", "roi"):
        if head in said.rows:
            softmax = head == "roi" or isinstance(adapter.detector, zoo.ssd.SSD)
            return said.rows[head].logits.shape[1] - softmax
    return None


def _anchors(head: str, ours: Adapter, theirs: Adapter, frame: DetectionBatch) -> Check:
    first, second = (adapter.anchors(frame) for adapter in (ours, theirs))
    if first.shape != second.shape:
        found = f"{len(first)} of the student and {len(second)} of the teacher on an image of 128 pixels"
        return Check(f"anchors of {head}", False, found)
    away = (first - second).abs().max().item()
    return Check(f"anchors of {head}", away == 0, "equal" if away == 0 else f"up to {away:g} pixels apart")


def _ability(
    teacher: nn.Module, data: DetectionDataset, device: str | torch.device, images: int, least: float
) -> Check:
    if type(teacher).forward is nn.Module.forward:
        return Check("ability of the teacher", True, "not tried: it gives features alone")
    count = min(images, len(data.train))
    split = data.train.subset(torch.arange(count) * len(data.train) // count)
    place = next(teacher.parameters()).device
    teacher.to(device)
    found = detect(teacher, DetectionBatches(split, batch_size=8, device=device))[1]
    teacher.to(place)
    ap = scored(found, split, data.num_classes)["ap50"]
    said = f"AP50 {ap:.3f} on {count} training images"
    return Check("ability of the teacher", ap >= least, said if ap >= least else f"{said}, less than {least:g}")
