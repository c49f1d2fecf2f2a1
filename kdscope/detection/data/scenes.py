"""Generated scenes: one to four circles, squares and triangles on noise, whose boxes are known to the pixel.

The embedded default of detection. At 128 px the shapes are 12 to 56 px wide, and at other sizes in proportion. Colours,
places and sizes say nothing of the class. Everything is a function of (seed, split, index), so the hundred training
images of `scenes:100` are the first hundred of `scenes`, and both have the same test images.
"""

import torch
from torch import Tensor

from kdscope.data.catalogue import Request, one_size, sizes
from kdscope.data.chance import Chance, bits
from kdscope.data.shapes import tight_boxes
from kdscope.data.split import moments
from kdscope.detection.data.catalogue import DETECTION_DATASETS
from kdscope.detection.data.record import DetectionDataset, DetectionSplit, Objects, box_area
from kdscope.errors import KDScopeError

CLASSES = ("circle", "square", "triangle")
MOST = 4  # objects in one scene
WIDTHS = (12 / 128, 56 / 128)  # of a shape, as part of the image's side
PLACES = 8  # that are tried for a shape: the one with the least overlap is taken
OVERLAP = 0.3  # of the smaller of two boxes; a shape that finds no better place is left out


@DETECTION_DATASETS.register("scenes")
def scenes(request: Request) -> DetectionDataset:
    """`scenes:COUNT:SIZE:TEST:SEED`, each part optional: 2,000 training images, 128 px, 200 test images, seed 0.

    128 to 1024 px; circles, squares and triangles, 1 to 4 an image.
    """
    count, size, test, seed = sizes(request, "COUNT", "SIZE", "TEST", "SEED")
    count, test = 2000 if count is None else count, 200 if test is None else test
    size = one_size(request, size, default=128)
    for what, value, low, high in (
        ("count", count, 1, 10**6),
        ("size", size, 128, 1024),
        ("test count", test, 1, 10**6),
    ):
        if not low <= value <= high:
            raise KDScopeError(f"dataset {request.name!r}: the {what} must be {low} to {high}, not {value}")
    parts = [generate(name, torch.arange(n), size, seed or 0) for name, n in (("train", count), ("test", test))]
    mean, std = moments(parts[0].stored)
    return DetectionDataset(request.name, *parts, CLASSES, tuple(range(1, len(CLASSES) + 1)), mean, std)


def generate(name: str, index: Tensor, size: int = 128, seed: int = 0) -> DetectionSplit:
    """The scenes at `index` (int64 [N]) of split `name`: any part of it gives the same images as the whole.

    >>> whole = generate("train", torch.arange(4))
    >>> part = generate("train", torch.tensor([2]))
    >>> whole.stored.shape, torch.equal(whole[2].image, part[0].image), torch.equal(whole[2].boxes, part[0].boxes)
    (torch.Size([4, 3, 128, 128]), True, True)
    """
    drawn = [_draw(name, some, size, seed) for some in index.split(max(1, 2**21 // size**2))]
    images, boxes, labels, there = (torch.cat(column) for column in zip(*drawn, strict=True))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)])
    boxes = boxes[there]
    crowd = torch.zeros(len(boxes), dtype=torch.bool)
    return DetectionSplit(name, images, Objects(offsets, boxes, labels[there], crowd, box_area(boxes)), index)


def covers(kind: Tensor, centre: Tensor, width: Tensor, size: int) -> Tensor:
    """The pixels of each shape, bool [B, size, size]: those whose centre lies in it.

    A row of any of the three shapes is one run of pixels around the shape's middle, so its half-width is all that has
    to be known: sqrt(r^2 - y^2) of a circle, r of a square, (r + y) / 2 of a triangle that stands on
    its base.

    Args:
        kind: int64 [B], position in CLASSES.
        centre: float [B, 2], (x, y) of the middle of its box, in pixels.
        width: float [B], of its box (which is square).

    >>> covers(torch.tensor([2]), torch.tensor([[2.0, 2.0]]), torch.tensor([4.0]), size=4)[0].int().tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1]]
    """
    radius = (width / 2)[:, None]
    ticks = torch.arange(size, dtype=centre.dtype) + 0.5
    x, y = (ticks - centre[:, axis, None] for axis in (0, 1))  # [B, size], from the middle
    halves = torch.stack([(radius.square() - y.square()).clamp(min=0).sqrt(), radius.expand_as(y), (radius + y) / 2])
    half = halves[kind, torch.arange(len(kind))].where(y.abs() <= radius, -1.0)
    return x.abs()[:, None, :] <= half[:, :, None]


def _draw(split: str, index: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, and of MOST objects in each: boxes [B, MOST, 4], labels [B, MOST], and whether they are there."""

    def uniform(stream: str, low: float, high: float, each: int) -> Tensor:
        counter = index[:, None] * each + torch.arange(each)
        return Chance(seed, 0, counter).uniform(f"scenes-{split}-{stream}", low, high)

    def noise_of(stream: str) -> Tensor:
        """Random bytes [B, 3, size, size]: eight from each word of chance."""
        words = -(-3 * size * size // 8)
        counter = index[:, None] * words + torch.arange(words)
        drawn = bits(seed, 0, counter, f"scenes-{split}-{stream}").view(torch.uint8)
        return drawn[:, : 3 * size * size].view(-1, 3, size, size)

    count = 1 + (uniform("count", 0, MOST, 1)[:, 0]).long()
    kinds = uniform("kind", 0, len(CLASSES), MOST).long()
    widths = uniform("width", *WIDTHS, MOST) * size
    tried = uniform("place", 0, 1, MOST * PLACES * 2).view(-1, MOST, PLACES, 2)
    colours = uniform("colour", 90, 224, MOST * 3).view(-1, MOST, 3)

    noise = noise_of("noise")
    images = (noise >> 1) + (uniform("tint", 0, 60, 3)[..., None, None]).to(torch.uint8)
    boxes, there = torch.full((len(index), MOST, 4), -1.0), torch.zeros(len(index), MOST, dtype=torch.bool)
    for number in range(MOST):
        width = widths[:, number]
        centres = width[:, None, None] / 2 + tried[:, number] * (size - width[:, None, None])
        overlap = _overlap(centres, width, boxes[:, :number], size)
        least, best = overlap.min(1)
        centre = centres[torch.arange(len(index)), best]
        cover = covers(kinds[:, number], centre, width, size)
        there[:, number] = (number < count) & (least <= OVERLAP)
        cover &= there[:, number, None, None]
        boxes[:, number] = tight_boxes(cover)
        colour = colours[:, number, :, None, None].to(torch.uint8) + (noise >> 3)
        images = torch.where(cover[:, None], colour, images)
    return images, boxes, kinds + 1, there


def _overlap(centres: Tensor, width: Tensor, boxes: Tensor, size: int) -> Tensor:
    """How much of the smaller box each place [B, P, 2] shares with the boxes that are there, at most: [B, P]."""
    if not boxes.shape[1]:
        return torch.zeros(centres.shape[:2], dtype=centres.dtype)
    half = width[:, None, None] / 2
    low = torch.maximum((centres - half)[:, :, None], boxes[:, None, :, :2])
    high = torch.minimum((centres + half)[:, :, None], boxes[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    smaller = torch.minimum(width.square()[:, None], box_area(boxes)).clamp(min=1)
    return (shared / smaller[:, None]).amax(-1)
