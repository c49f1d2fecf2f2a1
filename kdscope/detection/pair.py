"""A student beside its teacher on the images of a split, kept on disk: what analyses of a pair need of both networks.

A cache of kind "pair", on the student's frame; N images, maps of each stride that both have, R rows of each head:

    error/S            float32 [N, h, w]  sum over channels of (F_T - f(F_S))^2: f the adapter that the run trained, or
                                          the identity, where the widths are equal; or the fitted one
    energy/S           float32 [N, h, w]  sum over channels of F_T^2
    rows/HEAD/labels   int64 [N, R]       of rows that both heads were asked about: a class from 1, 0 background, -1 no
                                          row. First those with an object, evenly spread if they are more than R
                                          places; then background, evenly spread
    rows/HEAD/student, rows/HEAD/teacher                float32 [N, R, K] logits
    rows/HEAD/student_deltas, rows/HEAD/teacher_deltas  float32 [N, R, 4] regression; of the row's own class
    rows/HEAD/targets                                   float32 [N, R, 4] what a perfect regression would say
    truth/*, frame/*, labels, index                     as of kind "detection" (`kdscope.detection.extract`)
    logits             float32 [N, 1]     the error over the energy, both summed over all strides

HEAD is "dense" of one-stage detectors, "rpn" and "roi" of two-stage ones; those whose anchors or classes differ are
left out. The identity says `frame` (height, width), `strides`, `heads` (of each, "softmax" or "sigmoid"), `coders` (of
each, the weights of its box coder, or None where it regresses distances), and the `teacher` and the `adapters` by their
weights, or how they were fitted (`kdscope.detection.fitted_adapters`). Two-stage detectors sample proposals by chance:
here from a generator that the image's position in the split seeds, so that what is kept of an image is its own affair.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.detection.adapter import Adapter, adapt
from kdscope.detection.data import DetectionDataset, DetectionSplit
from kdscope.detection.extract import about, checked, strides_in, told
from kdscope.detection.fitted_adapters import told_of
from kdscope.detection.frames import Framed, Frames, frame_of
from kdscope.detection.methods.rows import class_deltas
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.plan import Plan
from kdscope.features.produce import Producer, extract_arrays
from kdscope.models import weights_hash
from kdscope.models.watch import evaluating

ROWS = 256  # of an image and a head


class NothingShared(KDScopeError):
    """Two detectors of which no map can be compared."""


class PairProducer(Producer):
    """Errors of maps, and what both heads say of the same rows.

    Args:
        student, teacher: detectors, in eval mode when it is called.
        adapters: f of each stride where the widths differ; others are left out.
        places: objects in the fullest image of the split.
        rows: R; 0 leaves the heads out.
    """

    kind = "pair"

    def __init__(
        self, student: nn.Module, teacher: nn.Module, adapters: Mapping[int, nn.Module], places: int, rows: int = ROWS
    ):
        self.student, self._teacher = adapt(student), adapt(teacher)
        self._adapters, self._places, self._rows = adapters, max(1, places), rows
        self._heads: dict[str, str] = {}
        self._coders: dict[str, list[float] | None] = {}

    def __call__(self, batch: Framed) -> dict[str, Tensor]:
        if not self._rows:
            maps = self.student.look(batch.frame).maps, self._teacher.look(batch.frame).maps
            return self._errors(*maps) | about(batch, self._places)
        with drawn_by_image(self.student.detector, batch.index.tolist()):
            step = self.student.learn(batch.frame)
        both = [head for head in self.student.heads if head in self._teacher.heads]
        theirs = self._teacher.look(step.batch, both, step.proposals)
        made = self._errors(step.features.maps, theirs.maps)
        count = len(batch.frame.sizes)
        for head in both:
            ours, other = step.features.rows[head], theirs.rows[head]
            if ours.logits.shape != other.logits.shape or not _same_anchors(head, self.student, self._teacher, batch):
                continue
            goals = step.batch.targets[head]
            lengths = [len(each) for each in step.proposals] if head == "roi" else [len(goals.labels) // count] * count
            self._heads[head] = goals.scores
            self._coders[head] = None if goals.delta_weights is None else list(goals.delta_weights)
            columns = {"student": ours.logits, "teacher": other.logits, "targets": goals.deltas}
            columns |= {
                f"{who}_deltas": class_deltas(rows, goals.labels)
                for who, rows in (("student", ours), ("teacher", other))
            }
            kept = chosen_rows(goals.labels, lengths, self._rows)
            labels = torch.where(kept >= 0, goals.labels[kept], -1)
            made[f"rows/{head}/labels"] = labels
            for name, value in columns.items():
                made[f"rows/{head}/{name}"] = torch.where((kept >= 0)[..., None], value[kept], 0)
        return made | about(batch, self._places)

    def identity(self, first: Mapping[str, Tensor]) -> dict[str, Any]:
        strides = strides_in(first, "error/")
        return {
            "layers": [f"error/{stride}" for stride in strides], "reduction": "map", "strides": strides,
            "heads": self._heads, "coders": self._coders, "rows": self._rows,
            "teacher": weights_hash(self._teacher.detector), "adapters": told_of(self._adapters),
        }  # fmt: skip

    def _errors(self, ours: dict[int, Tensor], theirs: dict[int, Tensor]) -> dict[str, Tensor]:
        errors, energies = {}, {}
        for stride in sorted(ours.keys() & theirs.keys()):
            student, teacher = ours[stride], theirs[stride]
            if stride in self._adapters:
                student = self._adapters[stride](student)
            if student.shape == teacher.shape:
                errors[stride] = (teacher - student).square().sum(1)
                energies[stride] = teacher.square().sum(1)
        if not errors:
            raise NothingShared(
                "no map of the student can be compared with the teacher's: other strides or widths, and no adapter; "
                "a run of fgd, mimicry or chen2017 has one"
            )
        total, whole = (sum(value.sum((1, 2)) for value in part.values()) for part in (errors, energies))
        made = {"logits": (total / whole.clamp(min=1e-12))[:, None]}
        made |= {f"error/{stride}": value for stride, value in errors.items()}
        return made | {f"energy/{stride}": value for stride, value in energies.items()}


def chosen_rows(labels: Tensor, lengths: list[int], most: int) -> Tensor:
    """Which rows of each image are kept, int64 [B, most]; -1 where there are no more.

    Rows with an object come first, in their order; background is spread evenly over what there is of it, and so are
    rows with an object where there are more of them than places: the first alone would be those of the finest level.

    Args:
        labels: int64 [R], image by image, `lengths` rows each.

    >>> chosen_rows(torch.tensor([0, 0, 2, -1, 0, 0]), [6], 3).tolist()
    [[2, 0, 4]]
    >>> chosen_rows(torch.tensor([1, 1, 2, 0, 3, 3]), [6], 2).tolist()
    [[0, 2]]
    """
    kept = labels.new_full((len(lengths), most), -1)
    start = 0
    for row, length in zip(kept, lengths, strict=True):
        mine = labels[start : start + length]
        objects = _spread(torch.where(mine > 0)[0], most)
        chosen = torch.cat([objects, _spread(torch.where(mine == 0)[0], most - len(objects))])
        row[: len(chosen)] = chosen + start
        start += length
    return kept


def _spread(values: Tensor, most: int) -> Tensor:
    """As many of the values [n] as may be, evenly spread."""
    count = min(most, len(values))
    return values[torch.arange(count, device=values.device) * len(values) // max(1, count)]


@contextlib.contextmanager
def drawn_by_image(detector: nn.Module, index: Sequence[int]) -> Iterator[None]:
    """While it lasts, a two-stage detector samples rows of each image from a generator of its own, seeded by `index`.

    No generator of the process moves, and the draws are the same on every device.
    """
    owners = [part for part in (getattr(detector, name, None) for name in ("rpn", "roi_heads")) if part is not None]
    known = [owner.fg_bg_sampler for owner in owners]

    def of_each(sampler: Callable[..., Any], labels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        drawn: list[Any] = []
        for seed, own in zip(index, labels, strict=True):
            torch.default_generator.manual_seed(seed)
            drawn.append(tuple(part.to(own.device) for (part,) in sampler([own.cpu()])))
        return [positive for positive, _ in drawn], [negative for _, negative in drawn]

    with torch.random.fork_rng(devices=[]):
        try:
            for owner, sampler in zip(owners, known, strict=True):
                owner.fg_bg_sampler = partial(of_each, sampler)
            yield
        finally:
            for owner, sampler in zip(owners, known, strict=True):
                owner.fg_bg_sampler = sampler


def _same_anchors(head: str, ours: Adapter, theirs: Adapter, batch: Framed) -> bool:
    return head == "roi" or torch.equal(ours.anchors(batch.frame), theirs.anchors(batch.frame))


def extract_pair(
    student: nn.Module,
    teacher: nn.Module,
    dataset: DetectionDataset,
    split: str | DetectionSplit,
    out: str | Path,
    *,
    adapters: Mapping[int, nn.Module] | None = None,
    rows: int = ROWS,
    **options: Any,
) -> FeatureCache | Plan:
    """Write a student beside its teacher to a cache of kind "pair", or go on with one that was stopped.

    Args:
        student, teacher: detectors; the frame is the student's.
        dataset, split: whose images.
        out: the cache's directory.
        adapters: by stride, from the student's width to the teacher's, as a run trained them, or fitted.
        rows: of each head and image that are kept; 0 leaves the heads out.
        options: of `kdscope.features.produce.Job`.

    Raises:
        KDScopeError: no map that can be compared; and as `kdscope.features.extract.extract_features`.
    """
    part = dataset.split(split) if isinstance(split, str) else split
    adapters = adapters or {}
    producer = PairProducer(student, teacher, adapters, int(part.objects.counts.max()), rows)
    return extract_beside(student, [teacher, *adapters.values()], dataset, part, out, producer, options)


def extract_beside(
    student: nn.Module,
    others: Sequence[nn.Module],
    dataset: DetectionDataset,
    part: DetectionSplit,
    out: str | Path,
    producer: Producer,
    options: Mapping[str, Any],
) -> FeatureCache | Plan:
    """Run `producer` over a split in the student's frame, with the other networks on the device for as long."""
    adapter = adapt(student)
    with evaluating(student):
        frame = frame_of(student.transform, part.sizes)
    job = checked({**options, "identity": {**(options.get("identity") or {}), "frame": list(frame)}})
    origins = [next((p.device for p in network.parameters()), None) for network in others]
    for network in others:
        network.to(job.device).eval()

    def make(some: DetectionSplit) -> Frames:
        return Frames(some, adapter, frame, job.device)

    try:
        return extract_arrays(student, dataset, part, out, producer, job, make, told)
    finally:
        for network, origin in zip(others, origins, strict=True):
            network.to(origin)
