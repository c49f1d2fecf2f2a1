"""What a student's features cost the teacher's head: parts of the teacher's maps are replaced by the student's.

A cache of kind "patched-regions" or "patched-levels". The head of the teacher looks at F_T with the parts Q replaced by
f(F_S), for every set Q of the parts, so that Shapley's values (`kdscope.detection.measures.shapley`) say how many
points of AP are lost in which part. Parts are regions of the image (fg: cells of objects; ring: around them; far: the
rest) or the strides of the pyramid. On the frame of the student; N images, M places:

    detections/SET/boxes, .../scores, .../labels   as of kind "detection" (`kdscope.detection.extract`); SET is "none",
                                                   or its parts in their order, joined by "+", such as fg+far
    truth/*, frame/*, labels, index                as there
    logits             float32 [N, C]              of the teacher's own maps: largest score of a detection of each class

The identity says `parts`, the `frame`, and the `teacher` and the `adapters` by their weights,
or how they were fitted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdscope.detection.adapter import POOLED, adapt
from kdscope.detection.data import DetectionDataset, DetectionSplit
from kdscope.detection.evaluate import MOST, SCORE, limited
from kdscope.detection.extract import about, detections_as_arrays
from kdscope.detection.fitted_adapters import told_of
from kdscope.detection.frames import Framed, original_sizes
from kdscope.detection.measures.feature_error import REGIONS
from kdscope.detection.measures.regions import regions
from kdscope.detection.measures.shapley import subsets
from kdscope.detection.pair import extract_beside
from kdscope.errors import KDScopeError, unknown
from kdscope.features.cache import FeatureCache
from kdscope.features.plan import Plan
from kdscope.features.produce import Producer
from kdscope.models import weights_hash

PARTS = ("fg", "ring", "far")
KINDS = ("regions", "levels")


class PatchProducer(Producer):
    """Detections of the teacher's head for every set of replaced parts.

    Args:
        student, teacher: detectors, in eval mode when it is called.
        adapters: f of each stride, where the widths differ.
        classes: how many there are. places: objects in the fullest image of the split.
        by: "regions" or "levels".
        score, most: of detections.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        adapters: Mapping[int, nn.Module],
        classes: int,
        places: int,
        by: str = "regions",
        score: float = SCORE,
        most: int = MOST,
    ):
        if by not in KINDS:
            raise unknown("kind of parts", by, KINDS)
        self.student, self._teacher = adapt(student), adapt(teacher)
        self._adapters, self._classes, self._places, self._by = adapters, classes, max(1, places), by
        self._score, self._most = score, most
        self.kind = f"patched-{by}"
        self._parts: tuple[str, ...] = ()

    def __enter__(self) -> "PatchProducer":
        self._limit = limited(self._teacher.detector, self._score, self._most)
        self._limit.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._limit.__exit__(*error)

    def __call__(self, batch: Framed) -> dict[str, Tensor]:
        features, ours = self._teacher.features(batch.frame), self._adapted(batch)
        strides = self._teacher.strides_of(features)
        both = [stride for key, stride in strides.items() if self._fits(ours, features[key], stride)]
        if not both:
            raise KDScopeError(
                "no map of the student fits in the place of one of the teacher's, and there is no adapter"
            )
        self._parts = PARTS if self._by == "regions" else tuple(map(str, both))
        made: dict[str, Tensor] = {}
        for some in subsets(self._parts):
            patched = dict(features)
            for key, stride in strides.items():
                if stride in both:
                    where = self._where(some, stride, features[key], batch)
                    patched[key] = torch.where(where, ours[stride].to(features[key]), features[key])
            if POOLED in patched:
                last = list(strides)[-1]
                patched[POOLED] = F.max_pool2d(patched[last], kernel_size=1, stride=2)
            found = self._teacher.detections(patched, batch.frame, original_sizes(batch))
            arrays = detections_as_arrays(found, self._classes, self._most)
            if not some:
                made["logits"] = arrays["logits"]
            name = named(some, self._parts)
            made |= {f"detections/{name}/{key}": arrays[f"detections/{key}"] for key in ("boxes", "scores", "labels")}
        return made | about(batch, self._places)

    def identity(self, first: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "layers": [named(some, self._parts) for some in subsets(self._parts)], "reduction": "",
            "parts": list(self._parts), "score": self._score, "most": self._most,
            "teacher": weights_hash(self._teacher.detector), "adapters": told_of(self._adapters),
        }  # fmt: skip

    def _adapted(self, batch: Framed) -> dict[int, Tensor]:
        maps = self.student.look(batch.frame).maps
        return {s: self._adapters[s](value) if s in self._adapters else value for s, value in maps.items()}

    def _fits(self, ours: Mapping[int, Tensor], theirs: Tensor, stride: int) -> bool:
        return stride in ours and ours[stride].shape == theirs.shape

    def _where(self, some: frozenset, stride: int, like: Tensor, batch: Framed) -> Tensor:
        """The cells that are replaced, bool [N, 1, h, w] or one for all; padding and crowds never are, by regions."""
        if self._by == "levels":
            return torch.tensor(str(stride) in some, device=like.device)
        boxes = [each.cpu().numpy() for each in batch.frame.boxes]
        frame, grid = tuple(batch.frame.images.shape[2:]), tuple(like.shape[2:])
        ignored = [each.numpy() for each in batch.ignored]
        region = regions(boxes, batch.frame.sizes, frame, grid, (0.2, 0.5), ignored)
        region = torch.from_numpy(region).to(like.device)
        names = [part for part in REGIONS[-2:] if part in some]
        chosen = torch.isin(region, torch.tensor([REGIONS.index(name) for name in names], device=like.device))
        if "fg" in some:
            chosen |= (region >= 0) & (region < REGIONS.index("ring"))
        return chosen[:, None]


def named(some: frozenset, parts: Sequence[str]) -> str:
    """The name of a set of parts.

    >>> named(frozenset(("far", "fg")), PARTS), named(frozenset(), PARTS)
    ('fg+far', 'none')
    """
    return "+".join(part for part in parts if part in some) or "none"


def extract_patched(
    student: nn.Module,
    teacher: nn.Module,
    dataset: DetectionDataset,
    split: str | DetectionSplit,
    out: str | Path,
    *,
    adapters: Mapping[int, nn.Module] | None = None,
    by: str = "regions",
    score: float = SCORE,
    most: int = MOST,
    **options: Any,
) -> FeatureCache | Plan:
    """Write what the teacher's head finds in its maps, with every set of parts replaced by the student's, to a cache.

    Args and errors as of `kdscope.detection.pair.extract_pair`, and:
        by: "regions" (8 sets) or "levels" (2 to the number of strides).
        score, most: of detections, as in `kdscope.detection.evaluate.detect`.
    """
    part = dataset.split(split) if isinstance(split, str) else split
    adapters = adapters or {}
    places = int(part.objects.counts.max())
    producer = PatchProducer(student, teacher, adapters, dataset.num_classes, places, by, score, most)
    return extract_beside(student, [teacher, *adapters.values()], dataset, part, out, producer, options)
