"""What a report says, as plain data: gathered from a run or a study, and handed to the page.

Nothing here is markup. Every text is as it was found (names and labels of users may be hostile), and the page escapes
it. Arrays are base64 of their raw bytes, little endian, row by row: a page of 2,000 images stays small.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["text", "number", "percent", "state", "link"]
Role = Literal["teacher", "student", "alone"]


@dataclass
class Column:
    """A column of a table. "percent" holds a share in 0..1; "state" is done, failed, ...; "link" a relative path.

    `digits` is how many decimals the page shows; the value itself is exact, and the page sorts and exports that.
    """

    key: str
    label: str
    kind: Kind = "text"
    unit: str = ""
    card: str | None = None
    digits: int = 3


@dataclass
class Table:
    """Rows by column key. A value is a text, a finite number, or None where there is none.

    Of a row, `card` is the id of the card of its value, and `frames` says by column key how a number stands: its
    value, ci_low, ci_high, floor, ceiling, n, a, b, layer, split, seeds, as far as they are known.
    """

    columns: list[Column] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    caption: str = ""


@dataclass
class Chart:
    """A plotly figure ({"data": [...], "layout": {...}}), its numbers as a table, and `alt`, which says it in words."""

    id: str
    title: str
    caption: str
    alt: str
    figure: dict[str, Any]
    table: Table
    card: str | None = None


@dataclass
class AnalysisTable:
    """The tidy table of an analysis; where a row has one, row["card"] is the id of the card of its measure."""

    name: str
    label: str
    table: Table
    measures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Card:
    """The card of a measure: what it is, in which unit and range, which way is better, its null."""

    id: str
    name: str
    definition: str
    unit: str = ""
    range: str = ""
    direction: str = ""
    null: str = ""
    source: str = ""
    invariances: list[str] = field(default_factory=list)
    text: str = ""


@dataclass
class Claim:
    """A sentence that the numbers support, contradict, or leave open."""

    text: str
    verdict: str
    detail: str = ""


@dataclass
class MapSet:
    """Maps of all images: uint8 [count, height, width] in base64. All models have a kind of map on the same grid.

    An unsigned map is 0..255 for the least to the greatest value of its own image (a constant map is all 0).
    A signed one is 128 + 127 v / max|v| of its own image, so that 128 is zero.
    Either way the mask at a threshold t is b - min(b) > t (max(b) - min(b)) over the bytes b of an image, and the IoU
    of two models is that of their masks, or none where both are empty (`kdscope.measures.map_threshold`, at native
    resolution). `known` is uint8 [count], 1 where an image has a map; None: all have. `card` is that of the measure.
    """

    label: str
    height: int
    width: int
    data: str
    signed: bool = False
    known: str | None = None
    card: str | None = None


@dataclass
class ExplorerModel:
    """One network on the images of the explorer: `prediction` uint16, `confidence` uint8 (0..255 for 0..1), in base64.

    `top` is uint16 [count, 5] (or fewer classes), the best first, and `top_confidence` uint8 of the same shape.
    """

    name: str
    role: Role
    prediction: str
    confidence: str
    top: str | None = None
    top_confidence: str | None = None
    top_count: int = 0
    maps: dict[str, MapSet] = field(default_factory=dict)


@dataclass
class Pair:
    """A student, one of its teachers, and the same student without a teacher where there is one, by model name."""

    student: str
    teacher: str
    alone: str | None = None


@dataclass
class Explorer:
    """Images of one split as one sprite of `columns` tiles a row, and what each network says of them.

    `labels` are uint16 and `index` (the place in the split) int32, in base64. `map_kinds` are the keys of the maps in
    the order to show them; `cells` the names of the fidelity cells, in the order of their definition: both right,
    inherited error (same wrong class), own discovery (student right, teacher wrong), lost (teacher right, student
    wrong), different errors. `iou_thresholds` are those of the analysis; `note` says how images were drawn.
    """

    split: str
    view: str
    classes: list[str]
    count: int
    image_size: int
    columns: int
    sprite: str
    labels: str
    index: str
    models: list[ExplorerModel] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    map_kinds: list[str] = field(default_factory=list)
    iou_thresholds: list[float] = field(default_factory=list)
    note: str = ""


@dataclass
class BoxModel:
    """What one detector found in the images of the explorer, image by image; arrays in base64.

    `counts` is uint32 [count]; D detections of all images follow one another: `boxes` uint16 [D, 4] (x1, y1, x2, y2 in
    65535ths of the width and height of their own image), `scores` uint16 [D] (0..65535 for 0..1), `labels` uint16 [D]
    from 0. `score` is where the network's own F1 is largest, None where nothing that it finds is right; `least` is the
    score from which on everything that it found is here. `maps` are as those of `ExplorerModel`, over the whole tile.
    """

    name: str
    role: Role
    score: float | None
    least: float
    counts: str
    boxes: str
    scores: str
    labels: str
    maps: dict[str, MapSet] = field(default_factory=dict)


@dataclass
class BoxExplorer:
    """Images of one split as one sprite of `columns` tiles a row, the objects in them, and what each detector found.

    Objects are as the detections of `BoxModel`: `truth_counts`, `truth_boxes`, `truth_labels`; `truth_crowd` is uint8,
    1 for what is neither to be found nor to be missed. `places` is uint16 [count, 4], where in its tile an image lies
    (left, top, right, bottom in 65535ths). The page matches by COCO's rule at `iou`, with at most `cap` detections of a
    class in an image, and names mistakes as `kdscope.detection.error_types` does, with `background` as its t_b.
    """

    split: str
    view: str
    classes: list[str]
    count: int
    image_size: int
    columns: int
    sprite: str
    index: str
    places: str
    truth_counts: str
    truth_boxes: str
    truth_labels: str
    truth_crowd: str
    models: list[BoxModel] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    map_kinds: list[str] = field(default_factory=list)
    iou: float = 0.5
    background: float = 0.1
    cap: int = 100
    note: str = ""


@dataclass
class Payload:
    """A whole report. `source` is the name of the folder it was made from, never an absolute path."""

    title: str
    kind: Literal["run", "study"]
    source: str
    version: str
    about: str = ""
    citation: str = ""
    summary: Table = field(default_factory=Table)
    runs: Table = field(default_factory=Table)
    charts: list[Chart] = field(default_factory=list)
    tables: list[AnalysisTable] = field(default_factory=list)
    explorer: Explorer | None = None
    boxes: BoxExplorer | None = None
    cards: dict[str, Card] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plain(payload: Payload) -> dict[str, Any]:
    """The payload as nested dicts and lists, ready for JSON."""
    return asdict(payload)
