"""The linear maps that bring one detector's features nearest to another's: f of a student that trained none.

Maps of two networks that were trained apart have no channels in common: their squared error says that, and nothing of
what they know. Here f is the 1x1 convolution with a bias that least squares finds at each stride, by ridge regression
(Hoerl & Kennard, Technometrics 1970) over the cells of some training images, whatever the widths. The same is done for
a student that was distilled, so that both stand alike.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.detection.adapter import adapt
from kdscope.detection.data import DetectionDataset
from kdscope.detection.frames import Frames, frame_of
from kdscope.detection.measures.regions import valid_cells
from kdscope.detection.trained_adapters import hash_of
from kdscope.errors import KDScopeError
from kdscope.models.watch import evaluating

RIDGE = 1e-4  # times the mean variance of the student's channels
FIT_IMAGES = 200  # of the training part, evenly spread, at the most
AT_ONCE = 4  # images, for their cells are taken in float64


class Fitted(dict[int, nn.Module]):
    """Adapters by stride that were fitted; `recipe` says how, which with both networks is what they are."""

    def __init__(self, adapters: dict[int, nn.Module], recipe: str):
        super().__init__(adapters)
        self.recipe = recipe


@dataclass
class Moments:
    """Sums over cells, in float64: what a regression with a bias needs, whatever their number.

    Attributes:
        count: of cells. total: [S + T], of the student's channels and then the teacher's. products: [S + T, S + T].
    """

    count: int = 0
    total: Tensor | float = 0.0
    products: Tensor | float = 0.0

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """More cells, [n, S] and [n, T]."""
        both = torch.cat([student, teacher], 1)
        both = (both.cpu() if both.device.type == "mps" else both).double()
        self.count += len(both)
        self.total = self.total + both.sum(0).cpu()
        self.products = self.products + (both.mT @ both).cpu()

    def solve(self, width: int, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """W [T, S] and b [T] that make the mean of |t - W s - b|^2 plus `ridge` v |W|^2 the least.

        Args:
            width: S. ridge: not negative; v is the mean variance of the student's channels, so that it has no unit.

        Raises:
            KDScopeError: no cells.

        >>> some = Moments()
        >>> some.update(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [3.0], [5.0]]))
        >>> [round(part.item(), 9) for part in some.solve(1, ridge=0)]
        [2.0, 1.0]
        """
        if not self.count:
            raise KDScopeError("no cells to fit an adapter on: the training part has no images")
        mean = self.total / self.count
        covariance = self.products / self.count - torch.outer(mean, mean)
        own, cross = covariance[:width, :width], covariance[:width, width:]
        strength = ridge * own.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        # Channels that never move have a row of zeros without a ridge: then the smallest of all solutions.
        left = own + strength * torch.eye(width, dtype=torch.float64)
        weight = torch.linalg.lstsq(left, cross, driver="gelsd").solution.mT
        return weight, mean[width:] - weight @ mean[:width]


def recipe_of(dataset: DetectionDataset) -> str:
    """How adapters are fitted, in words that tell two fits of the same networks apart; no network is asked."""
    train = dataset.split("train")
    return f"ridge {RIDGE:g} on {min(FIT_IMAGES, len(train))} images of {train.fingerprint}"


def told_of(adapters: Mapping[int, nn.Module]) -> str:
    """What the identity of a cache says of adapters: how they were fitted, or the hash of their weights."""
    return adapters.recipe if isinstance(adapters, Fitted) else hash_of(adapters)


def fitted_adapters(
    student: nn.Module, teacher: nn.Module, dataset: DetectionDataset, device: str | torch.device = "cpu"
) -> Fitted:
    """Adapters from the student's maps to the teacher's at each stride that both have.

    It costs one pass of both networks over at most 200 training images, without augmentation, in the student's frame;
    cells of the padding are left out. Both networks end on `device`.

    Args:
        student, teacher: detectors. dataset: whose training part.

    Raises:
        KDScopeError: no stride in common, grids of one stride that differ.
    """
    moments: dict[int, Moments] = {}
    widths: dict[int, tuple[int, int]] = {}
    for stride, ours, theirs in _cells(student, teacher, dataset, device):
        moments.setdefault(stride, Moments()).update(ours, theirs)
        widths[stride] = ours.shape[1], theirs.shape[1]
    if not moments:
        raise KDScopeError("no map of the student can be fitted to one of the teacher's: they have no stride in common")
    made: dict[int, nn.Module] = {}
    for stride, (narrow, wide) in widths.items():
        weight, bias = moments[stride].solve(narrow)
        made[stride] = nn.utils.skip_init(nn.Conv2d, narrow, wide, 1).eval()  # draws no random numbers
        made[stride].load_state_dict({"weight": weight[..., None, None].float(), "bias": bias.float()})
    return Fitted(made, recipe_of(dataset))


@torch.inference_mode()  # of this generator alone: a `with` would be on in its caller, too
def _cells(student: nn.Module, teacher: nn.Module, dataset: DetectionDataset, device: Any) -> Iterator[tuple]:
    """A stride and the cells of both networks there, [n, S] and [n, T], some images at a time."""
    part, ours, theirs = dataset.split("train"), adapt(student.to(device)), adapt(teacher.to(device))
    with evaluating(student), evaluating(teacher):
        frame = frame_of(student.transform, part.sizes)
        frames = Frames(part, ours, frame, device)
        count = min(FIT_IMAGES, len(part))
        for index in (torch.arange(count) * len(part) // max(1, count)).split(AT_ONCE):
            batch = frames.batch(index)
            pairs = ours.look(batch.frame).maps, theirs.look(batch.frame).maps
            for stride in sorted(pairs[0].keys() & pairs[1].keys()):
                mine, other = pairs[0][stride], pairs[1][stride]
                if mine.shape[2:] != other.shape[2:]:
                    grids = " and ".join(f"{list(value.shape[2:])}" for value in (mine, other))
                    raise KDScopeError(f"maps at stride {stride} have grids of {grids}: nothing can be fitted")
                there = torch.from_numpy(valid_cells(batch.frame.sizes, frame, tuple(mine.shape[2:]))).to(mine.device)
                yield stride, mine.movedim(1, 3)[there], other.movedim(1, 3)[there]
