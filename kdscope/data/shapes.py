"""Generated pictures whose foreground is known: what attention should find can be scored against truth.

Each picture has a textured background and one to three shapes. The label is the outline of the *largest* shape (with
more than twelve classes: its outline and its pattern), which is drawn last and so is never covered; the others, at most
half as wide, are distractors of other classes. Colours, patterns, textures, places, sizes and rotations are drawn at
random and say nothing of the label. Everything is a function of (seed, split, index).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdscope.data.catalogue import DATASETS, Request, one_size, sizes
from kdscope.data.chance import Chance
from kdscope.data.split import Dataset, Split, moments
from kdscope.errors import KDScopeError

# Outlines in polar form: corners (at radius 1), the radius half-way between two of them (the cosine of half their angle
# makes a polygon, less makes a star), and how large a hole of the same form is.
OUTLINES = {
    "disc": (0, 1.0, 0.0),
    "triangle": (3, math.cos(math.pi / 3), 0.0),
    "square": (4, math.cos(math.pi / 4), 0.0),
    "star": (5, 0.42, 0.0),
    "ring": (0, 1.0, 0.55),
    "cross": (4, 0.36, 0.0),
    "hexagon": (6, math.cos(math.pi / 6), 0.0),
    "trefoil": (3, 0.3, 0.0),
    "frame": (4, math.cos(math.pi / 4), 0.5),
    "gear": (8, 0.6, 0.0),
    "nut": (6, math.cos(math.pi / 6), 0.5),
    "blade": (2, 0.35, 0.0),
}
PATTERNS = ("plain", "striped", "checked", "spotted")
NAMES = tuple(OUTLINES)
MOST = len(OUTLINES) * len(PATTERNS)
SHAPES = 3  # at most, in one picture


@DATASETS.register("shapes")
def shapes(request: Request) -> Dataset:
    """`shapes:SIZE:CLASSES:COUNT:SEED`, each part optional: 32 px, 8 classes, 4,000 training images, seed 0.

    16 to 256 px, 2 to 48 classes; a quarter as many test images. Up to 12 classes are outlines, and patterns say
    nothing; more are outlines with patterns ("striped star"). Has masks and boxes (row 0 is the labelled shape).
    """
    size, classes, count, seed = sizes(request, "SIZE", "CLASSES", "COUNT", "SEED")
    size, classes, count = one_size(request, size, default=32), classes or 8, count or 4000
    for what, value, low, high in (
        ("size", size, 16, 256),
        ("class count", classes, 2, MOST),
        ("count", count, 8, 10**6),
    ):
        if not low <= value <= high:
            raise KDScopeError(f"dataset {request.name!r}: the {what} must be {low} to {high}, not {value}")
    train = generate("train", torch.arange(count), size, classes, seed or 0)
    test = generate("test", torch.arange(count // 4), size, classes, seed or 0)
    return Dataset(request.name, train, test, None, class_names(classes), *moments(train.images))


def class_names(classes: int) -> tuple[str, ...]:
    """Names of the first `classes` classes.

    >>> class_names(14)[0], class_names(14)[12:], class_names(3)
    ('plain disc', ('striped disc', 'striped triangle'), ('disc', 'triangle', 'square'))
    """
    if classes <= len(NAMES):
        return NAMES[:classes]
    return tuple(f"{PATTERNS[label // len(NAMES)]} {NAMES[label % len(NAMES)]}" for label in range(classes))


def generate(name: str, index: Tensor, size: int, classes: int, seed: int) -> Split:
    """The pictures at `index` (int64 [N]) of split `name`: any part of it gives the same pictures as the whole.

    >>> whole = generate("train", torch.arange(4), size=32, classes=3, seed=0)
    >>> part = generate("train", torch.tensor([2]), size=32, classes=3, seed=0)
    >>> whole.masks.shape, torch.equal(whole.images[2], part.images[0])
    (torch.Size([4, 32, 32]), True)
    """
    step = max(1, 2**19 // size**2)
    parts = [_Pictures(name, part, size, classes, seed).draw() for part in index.split(step)]
    return Split(name, *(torch.cat(column) for column in zip(*parts, strict=True)))


def outline(kind: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """How far inside its outline each point lies, at most 1, 0 on the edge, negative outside: of the shape of `x`.

    Args:
        kind: int64 [B], positions in NAMES.
        x, y: float [B, H, W] in units of the shape's radius, its centre at 0.

    >>> outline(torch.tensor([0]), torch.tensor([[[0.0, 1.0, 2.0]]]), torch.zeros(1, 1, 3)).tolist()
    [[[1.0, 0.0, -1.0]]]
    """
    table = torch.tensor([OUTLINES[name] for name in NAMES], dtype=x.dtype)[kind]
    corners, depth, hole = table[..., None, None].unbind(1)
    radius = (x.square() + y.square()).sqrt()
    # Within a corner's sector the edge is the straight line from the corner (radius 1) to the middle (radius `depth`).
    half = math.pi / corners.clamp(min=2)
    turn = torch.remainder(torch.atan2(y, x), 2 * half)
    turn = torch.minimum(turn, 2 * half - turn)
    side = depth * half.sin() / (depth * (half - turn).sin() + turn.sin())
    edge = torch.where(corners > 0, side, 1.0)
    return torch.minimum(edge - radius, torch.where(hole > 0, radius - hole * edge, 1.0))


def tight_boxes(masks: Tensor) -> Tensor:
    """(x0, y0, x1, y1) around each mask, x1 and y1 exclusive: float32 [..., 4] of bool [..., H, W]; -1 for an empty
    one.

    >>> tight_boxes(torch.tensor([[[False, True, True], [False, False, False]]])).tolist()
    [[1.0, 0.0, 3.0, 1.0]]
    """
    sides = []
    for axis in (-2, -1):  # columns, then rows
        some = masks.any(axis).byte()
        sides.append((some.argmax(-1), some.shape[-1] - some.flip(-1).argmax(-1)))
    (x0, x1), (y0, y1) = sides
    boxes = torch.stack([x0, y0, x1, y1], dim=-1).float()
    return boxes.where(masks.flatten(-2).any(-1)[..., None], -1.0)


class _Pictures:
    """The pictures of one part of a split, in float64, so that how many are drawn at once cannot move a level."""

    def __init__(self, split: str, index: Tensor, size: int, classes: int, seed: int):
        self.split, self.index, self.size, self.classes, self.seed = split, index, size, classes, seed
        centre = torch.arange(size, dtype=torch.float64) + 0.5
        self.x, self.y = centre.expand(1, size, size), centre[:, None].expand(1, size, size)

    def uniform(self, stream: str, low: float = 0.0, high: float = 1.0, each: int = 1) -> Tensor:
        """`each` numbers for each picture: float64 [B, each]."""
        counter = self.index[:, None] * each + torch.arange(each)
        return Chance(self.seed, 0, counter).uniform(f"shapes-{self.split}-{stream}", low, high)

    def integers(self, stream: str, count: int) -> Tensor:
        """int64 [B] in 0 .. count - 1."""
        return Chance(self.seed, 0, self.index).integers(f"shapes-{self.split}-{stream}", count)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images, labels, masks of the labelled shape, and boxes of all."""
        labels = self.integers("label", self.classes)
        count = 1 + self.integers("count", SHAPES)
        radius = self.uniform("radius", 0.25, 0.4) * self.size
        place = [radius + self.uniform(axis) * (self.size - 2 * radius) for axis in "xy"]
        tint = self.uniform("tint", each=3)
        picture = self.background(tint)
        covers, kinds = [], []
        for number in (2, 1):
            kind = (labels + 1 + self.integers(f"kind-{number}", self.classes - 1)) % self.classes
            small = radius * self.uniform(f"radius-{number}", 0.3, 0.5)
            away = self.far_from(place, small, number)
            picture, cover = self.paint(picture, tint, number, kind, small, away, number < count)
            covers, kinds = [cover, *(earlier & ~cover for earlier in covers)], [kind, *kinds]
        picture, cover = self.paint(picture, tint, 0, labels, radius, place, count > 0)
        masks = torch.stack([cover, *(earlier & ~cover for earlier in covers)], dim=1)
        boxes = tight_boxes(masks)
        kinds = torch.stack([labels, *kinds], dim=1)[..., None]
        rows = torch.cat([kinds.float(), boxes], dim=-1).where(boxes[..., :1] >= 0, -1.0)
        grain = self.uniform("grain", -0.05, 0.05, each=3 * self.size**2).view(picture.shape)
        images = (255 * (picture + grain)).round().clamp(0, 255).to(torch.uint8)
        return images, labels, masks[:, 0], rows

    def background(self, tint: Tensor) -> Tensor:
        """Blotches and a grating around a tint: float64 [B, 3, H, W], about 0.15 to 0.85."""
        blotches = self.uniform("blotches", -0.15, 0.15, each=3 * 25).view(-1, 3, 5, 5)
        blotches = F.interpolate(blotches, (self.size, self.size), mode="bicubic", align_corners=True)
        angle, period, phase = (self.uniform(f"grating-{what}")[..., None] for what in ("angle", "period", "phase"))
        along = self.x * (math.pi * angle).cos() + self.y * (math.pi * angle).sin()
        grating = (2 * math.pi * (along * (4 + 4 * period) / self.size + phase)).sin()
        return 0.2 + 0.6 * tint[..., None, None] + blotches + 0.08 * grating[:, None]

    def far_from(self, place: list[Tensor], radius: Tensor, number: int) -> list[Tensor]:
        """A centre for a small shape: of six that lie inside the picture, the one farthest from `place`."""
        x, y = (radius + self.uniform(f"{axis}-{number}", each=6) * (self.size - 2 * radius) for axis in "xy")
        best = ((x - place[0]).square() + (y - place[1]).square()).argmax(1, keepdim=True)
        return [x.gather(1, best), y.gather(1, best)]

    def paint(
        self,
        picture: Tensor,
        tint: Tensor,
        number: int,
        kind: Tensor,
        radius: Tensor,
        place: list[Tensor],
        there: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """`picture` with one shape on top where `there`, and the pixels that it covers, bool [B, H, W]."""
        angle = 2 * math.pi * self.uniform(f"turn-{number}")[..., None]
        right, down = self.x - place[0][..., None], self.y - place[1][..., None]
        x = (right * angle.cos() + down * angle.sin()) / radius[..., None]
        y = (down * angle.cos() - right * angle.sin()) / radius[..., None]
        inside = outline(kind % len(NAMES), x, y) * radius[..., None]  # in pixels
        cover = (inside >= 0) & there[:, None, None]
        opaque = (inside + 0.5).clamp(0, 1) * there[:, None, None]
        # Every channel of both colours is at least 0.25 (of a circle of 1) from the background's tint, and 0.16 from
        # the other.
        near = (tint + self.uniform(f"ink-{number}", 0.25, 0.42, each=3)) % 1
        far = (tint + self.uniform(f"paper-{number}", 0.58, 0.75, each=3)) % 1
        second = self.pattern(kind, number, x, y)[:, None]
        colour = near[..., None, None] * (1 - second) + far[..., None, None] * second
        return picture + opaque[:, None] * (colour - picture), cover

    def pattern(self, kind: Tensor, number: int, x: Tensor, y: Tensor) -> Tensor:
        """Which of its two colours a point of a shape has, 0 or 1, [B, H, W]: by class, or else by chance."""
        chosen = self.integers(f"pattern-{number}", len(PATTERNS))
        chosen = kind // len(NAMES) if self.classes > len(NAMES) else chosen
        across, down = (3 * math.pi * x).sin(), (3 * math.pi * y).sin()
        plain = self.uniform(f"plain-{number}")[..., None].round().expand_as(x)
        all_kinds = torch.stack(
            [plain, (across > 0).double(), (across * down > 0).double(), (across + down > 0.8).double()]
        )
        return all_kinds[chosen, torch.arange(len(chosen))]
