"""Which maps of two detectors are compared, and in which units: matched by stride, adapted in width, normalised."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kdscope.detection.batch import DetectionFeatures
from kdscope.errors import KDScopeError, unknown
from kdscope.methods.shapes import exact

ADAPTERS = ("needed", "always")
REDUCTIONS = ("sum", "mean")
LEAST = 1e-6  # root mean square of a map that is one: divided by less, a student's map would leave float32


def pairs(
    term: str, student: Mapping[int, Tensor], teacher: Mapping[int, Tensor], strides: Sequence[int] = ()
) -> dict[int, tuple[Tensor, Tensor]]:
    """The maps of student and teacher [N, C, H, W] by stride, finest first; all levels where `strides` names none.

    Raises:
        KDScopeError: a stride that one of the two lacks, or grids of one stride that are not the same. Maps are never
            interpolated: a grid that differs means that the two detectors see their images at different sizes.

    >>> maps = {8: torch.zeros(1, 2, 4, 4), 16: torch.zeros(1, 2, 2, 2)}
    >>> list(pairs("fgd", maps, maps, strides=[16]))
    [16]
    """
    if not student and not teacher:
        raise KDScopeError(f"term {term!r} compares feature maps, and neither detector gives any")
    for role, maps in (("student", student), ("teacher", teacher)):
        lacking = sorted((set(strides) or {*student, *teacher}) - set(maps))
        if lacking:
            common = sorted(set(student) & set(teacher))
            named = str(common).replace(" ", "")
            hint = f"take --set terms.{term}.strides={named}" if common else "take another teacher"
            raise KDScopeError(
                f"term {term!r}: the {role} has no map of stride {lacking[0]}, only {_listed(maps)}; {hint}"
            )
    chosen = {stride: (student[stride], teacher[stride]) for stride in sorted(strides or student)}
    for stride, (s, t) in chosen.items():
        if (s.shape[0], *s.shape[2:]) != (t.shape[0], *t.shape[2:]):
            raise KDScopeError(
                f"term {term!r}: at stride {stride} the student's map is {_shape(s)} and the teacher's {_shape(t)} "
                "(N x H x W); maps are compared on one grid, so take a teacher with the same image size and strides"
            )
    return chosen


def _listed(maps: Mapping[int, Tensor]) -> str:
    return ", ".join(map(str, sorted(maps))) or "none"


def _shape(feature_map: Tensor) -> str:
    n, _, h, w = feature_map.shape
    return f"{n} x {h} x {w}"


def check_strides(term: str, strides: Sequence[int]) -> tuple[int, ...]:
    """`strides` as a tuple, where it is a sequence of whole numbers above 0.

    >>> check_strides("fgd", [8, 16])
    (8, 16)
    """
    whole = isinstance(strides, list | tuple) and all(type(stride) is int and stride > 0 for stride in strides)
    if not whole or len(set(strides)) < len(strides):
        raise KDScopeError(f"term {term!r}: strides takes different whole numbers such as [8,16,32], not {strides!r}")
    return tuple(strides)


class Levels(nn.Module):
    """The pairs of maps of a term, in float32: the student's adapted to the teacher's width, both in the same units.

    Args:
        term: whose they are, for messages.
        strides: of the levels; none is all.
        normalize: divide both maps of a level by the root mean square of the teacher's, of the images that `observe`
            was shown. Paper weights belong to networks with ImageNet weights; without, raw maps of any scale appear.
        adapter: "needed" is a 1x1 convolution where the widths differ (FGD), "always" one on every level.
    """

    def __init__(self, term: str, strides: Sequence[int] = (), normalize: bool = False, adapter: str = "needed"):
        super().__init__()
        if adapter not in ADAPTERS:
            raise unknown("adapter", str(adapter), ADAPTERS, f"term {term!r}")
        self.term, self.adapter, self.normalize = term, adapter, normalize
        self.strides = check_strides(term, strides)
        self.adapters = nn.ModuleDict()
        self._ready = not normalize

    def build(self, student: DetectionFeatures, teacher: DetectionFeatures) -> None:
        """Make the adapters; raise where the levels cannot be paired."""
        chosen = pairs(self.term, student.maps, teacher.maps, self.strides)
        self.strides = tuple(chosen)
        for stride, (s, t) in chosen.items():
            if self.adapter == "always" or s.shape[1] != t.shape[1]:
                self.adapters[str(stride)] = nn.Conv2d(s.shape[1], t.shape[1], 1)
        if self.normalize:  # sum of squares and number of elements, which add up over batches; saved with the run
            self.register_buffer("energy", torch.zeros(len(chosen), 2, dtype=torch.float64))

    @torch.no_grad()
    def observe(self, teacher: DetectionFeatures) -> None:
        """Add the energy of the teacher's maps of a batch."""
        for row, stride in zip(self.energy, self.strides, strict=True):
            feature_map = teacher.maps[stride]
            row += torch.stack([feature_map.double().square().sum(), row.new_tensor(feature_map.numel())])
        self._ready = False

    def forward(self, student: DetectionFeatures, teacher: DetectionFeatures) -> dict[int, tuple[Tensor, Tensor]]:
        """By stride, the student's map f(F^S) and the teacher's F^T, both [N, C_t, H, W]."""
        chosen = pairs(self.term, student.maps, teacher.maps, self.strides)
        self._check()
        units = (self.energy[:, 0] / self.energy[:, 1]).sqrt() if self.normalize else None
        given = {}
        for i, (stride, (s, t)) in enumerate(chosen.items()):
            s, t = exact(s), exact(t)
            s = self.adapters[str(stride)](s) if str(stride) in self.adapters else s
            given[stride] = (s, t) if units is None else (s / units[i].to(s.dtype), t / units[i].to(t.dtype))
        return given

    def _check(self) -> None:
        """Raise, once, where a level has no unit: `energy` is read from the device in the first step alone."""
        if self._ready:
            return
        for stride, (squares, count) in zip(self.strides, self.energy.tolist(), strict=True):
            if not count:
                raise KDScopeError(
                    f"term {self.term!r}: normalize=true needs a look at training images first (observe)"
                )
            if not LEAST**2 < squares / count < float("inf"):
                what = "as good as zero" if squares / count <= LEAST**2 else "not finite"
                raise KDScopeError(
                    f"term {self.term!r}: the teacher's map of stride {stride} is {what}, so it has no scale; is it "
                    "trained?"
                )
        self._ready = True


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """sum (S - T)^2 / N of two maps [N, C, H, W], one scalar; >= 0.

    >>> float(squared_difference(torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2)))
    2.0
    """
    return (student - teacher).square().sum() / len(student)


def check_reduction(term: str, reduction: str) -> str:
    """`reduction` where it is one of REDUCTIONS."""
    if reduction not in REDUCTIONS:
        raise unknown("reduction", str(reduction), REDUCTIONS, f"term {term!r}")
    return reduction
