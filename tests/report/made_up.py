"""Reports that no training made: as large as asked for, with the names that a hostile or careless user might give."""

import base64
import io

import numpy as np
from PIL import Image

from kdscope.report.payload import (
    AnalysisTable,
    Card,
    Chart,
    Claim,
    Column,
    Explorer,
    ExplorerModel,
    MapSet,
    Pair,
    Payload,
    Table,
)

HOSTILE = (
    "</script><img src=x onerror=\"alert('name')\">",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(2)>' onmouseover='alert(3)",
    "{{7*7}} {% raw %} ${alert(4)} <!-- <script>alert(5)</script>",
    "\u202egnihtemos\u202c \u2066مرحبا\u2069 \u200f",
    "javascript:alert(6)",
    "</style></title></textarea></template></noscript>",
    "line\u2028break & &lt;b&gt; \\u003c",
    "a-very-long-name-" + "of-a-student-" * 18,
    "=cmd|' /C calc'!A0",
)
CELLS = ["both right", "inherited error", "own discovery", "lost", "different errors"]
METHODS = ("kd", "at", "crd", "rkd", "none")


def text(array: np.ndarray) -> str:
    """An array as the payload holds it."""
    return base64.b64encode(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def payload(runs: int = 12, images: int = 200, charts: int = 4, rows: int = 30, hostile: bool = False, seed: int = 0):
    """A report of a study. `hostile` puts names out of `HOSTILE` wherever a user could have put one."""
    rng = np.random.default_rng(seed)
    names = [f"{METHODS[k % len(METHODS)]}-resnet{8 + 6 * (k % 4)}-seed{k // 5}" for k in range(runs)]
    classes = ["aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    if hostile:
        names = [HOSTILE[k % len(HOSTILE)] + (f" {k}" if k >= len(HOSTILE) else "") for k in range(runs)]
        classes = list(HOSTILE)
    cards = _cards(hostile)
    return Payload(
        title=HOSTILE[0] if hostile else "What is transferred, and does it matter?",
        kind="study",
        source=HOSTILE[1] if hostile else "quickstart",
        version="0.1.0",
        about=HOSTILE[2] if hostile else "Five methods, one recipe: what a student takes over, and what it is worth.",
        citation=HOSTILE[6] if hostile else "@article{made2026,\n  title = {A made-up study},\n  year = {2026}\n}",
        summary=_summary(rng, names[:5]),
        runs=_runs(rng, names),
        charts=[_chart(rng, k, names[:4], hostile) for k in range(charts)],
        tables=[_analysis(rng, k, names, rows, hostile) for k in range(3)],
        explorer=explorer(rng, names, classes, images) if images else None,
        cards=cards,
        claims=[
            Claim("Students look where their teachers look", "supported", "0.31 above chance [0.27, 0.35], floor 0.12"),
            Claim(HOSTILE[1] if hostile else "More overlap, better student", "contradicted", "rho = −0.04, n = 60"),
            Claim("Fidelity explains the gain", "left open", "partial correlation 0.21 [−0.02, 0.43]"),
        ],
        notes=[HOSTILE[3]] if hostile else [],
    )


def _cards(hostile: bool) -> dict[str, Card]:
    found = {
        "accuracy": Card("accuracy", "Accuracy", "Share of images whose most probable class is the label.", "share",
                         "0 to 1", "higher is better", "1 / number of classes", "", ["temperature"]),
        "attention-iou": Card("attention-iou", "Attention IoU above chance",
                              "Overlap of the most attended cells at equal area, less what unrelated maps share.",
                              "share", "up to 1", "higher is more alike", "0", "after Guo et al., 2024",
                              ["any increasing change of either map"], "At every area from 2 % to 50 %."),
        "agreement": Card("agreement", "Agreement", "Share of images with the same answer.", "share", "0 to 1",
                          "higher is more faithful", "shuffled images", "Stanton et al., NeurIPS 2021"),
        "threshold-iou": Card("threshold-iou", "IoU of cut maps", "Overlap of what is above a share of the range."),
    }  # fmt: skip
    if hostile:
        found["agreement"] = Card("agreement", HOSTILE[0], HOSTILE[1], HOSTILE[2], source=HOSTILE[3], text=HOSTILE[4])
    return found


def _summary(rng: np.random.Generator, names: list[str]) -> Table:
    columns = [
        Column("method", "Method"),
        Column("accuracy", "Accuracy", "percent", card="accuracy", digits=1),
        Column("gain", "Gain", "number", "points", card="accuracy", digits=2),
        Column("agreement", "Agreement", "percent", card="agreement", digits=1),
        Column("overlap", "Overlap", "number", card="attention-iou"),
        Column("n", "Seeds", "number"),
    ]
    rows = [
        {"method": name, "accuracy": float(rng.uniform(0.8, 0.95)), "gain": float(rng.normal()),
         "agreement": float(rng.uniform(0.7, 0.9)), "overlap": float(rng.normal(0.2, 0.1)), "n": 3}
        for name in names
    ]  # fmt: skip
    return Table(columns, rows, "Means over seeds; the same recipe for all.")


def _runs(rng: np.random.Generator, names: list[str]) -> Table:
    columns = [
        Column("run", "Run", "link"),
        Column("method", "Method"),
        Column("model", "Student"),
        Column("state", "State", "state"),
        Column("accuracy", "Accuracy", "percent", card="accuracy", digits=2),
        Column("best", "Train accuracy", "percent", card="accuracy", digits=2),
        Column("loss", "Loss", "number", digits=4),
        Column("lr", "Learning rate", "number", digits=3),
        Column("epochs", "Epochs", "number"),
        Column("seed", "Seed", "number"),
        Column("parameters", "Parameters", "number"),
        Column("seconds", "Time", "number", "s", digits=1),
    ]
    rows = []
    for k, name in enumerate(names):
        done = k % 9 != 7
        rows.append({
            "run": name, "method": METHODS[k % len(METHODS)], "model": f"resnet{8 + 6 * (k % 4)}",
            "state": "done" if done else "failed", "accuracy": float(rng.uniform(0.6, 0.95)) if done else None,
            "best": float(rng.uniform(0.9, 1)) if done else None, "loss": float(rng.uniform(0.1, 2)) if done else None,
            "lr": float(10.0 ** -rng.integers(1, 6)), "epochs": 240, "seed": k // 5,
            "parameters": int(rng.integers(50_000, 2_000_000)), "seconds": float(rng.uniform(100, 9000)),
        })  # fmt: skip
    return Table(columns, rows)


def _chart(rng: np.random.Generator, k: int, names: list[str], hostile: bool) -> Chart:
    steps = np.arange(1, 61)
    title = HOSTILE[k % len(HOSTILE)] if hostile else f"Accuracy over epochs {k + 1}"
    layout = {"xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": names[0] if hostile else "accuracy"}}}
    if k % 4 == 1:
        data = [
            {"type": "heatmap", "z": rng.uniform(0.2, 1, (8, 8)).round(3).tolist(), "colorscale": "Viridis", "zmin": 0,
             "zmax": 1, "hovertemplate": "%{x} ~ %{y}: %{z}<extra></extra>", "visible": k == 0}
            for k in range(2)
        ]  # fmt: skip
        menus = [[True, False], [False, True]]
        buttons = [
            {"label": names[k], "method": "restyle", "args": [{"visible": seen}]} for k, seen in enumerate(menus)
        ]
        layout["updatemenus"] = [{"buttons": buttons, "active": 0}]
    else:
        data = [
            {"type": "scatter", "mode": "lines", "name": name, "x": steps.tolist(),
             "y": (0.9 - 0.6 * np.exp(-steps / rng.uniform(8, 20)) + rng.normal(0, 0.008, 60)).round(4).tolist()}
            for name in names
        ]  # fmt: skip
    table = Table(
        [Column("name", "Run"), Column("epoch", "Epoch", "number"), Column("value", "Accuracy", "number")],
        [{"name": name, "epoch": int(step), "value": float(rng.uniform())} for name in names for step in steps[::10]],
    )
    caption = "Mean over three seeds; each line is a method."
    alt = f"Lines of accuracy for {', '.join(names)}: all rise to about 0.9."
    return Chart(f"chart{k}", title, caption, alt, {"data": data, "layout": layout}, table, "accuracy")


def _analysis(rng: np.random.Generator, k: int, names: list[str], rows: int, hostile: bool) -> AnalysisTable:
    columns = [
        Column("measure", "Measure"), Column("a", "Teacher"), Column("b", "Student"), Column("layer", "Layer"),
        Column("value", "Value", "number"), Column("ci_low", "from", "number"), Column("ci_high", "to", "number"),
        Column("floor", "Floor", "number"), Column("ceiling", "Ceiling", "number"), Column("n", "n", "number"),
    ]  # fmt: skip
    measures = ("agreement", "attention-iou", "accuracy")
    found = []
    for row in range(rows):
        value = float(rng.uniform(0.2, 0.9))
        found.append({
            "measure": measures[row % 3], "a": "teacher", "b": names[row % len(names)], "layer": f"layer{row % 4}",
            "value": value, "ci_low": value - 0.04, "ci_high": value + 0.05,
            "floor": float(rng.uniform(0, 0.2)) if row % 5 else None, "ceiling": 0.95, "n": 2000,
            "card": measures[row % 3],
        })  # fmt: skip
    label = ("Fidelity", "Attention overlap", "Representation similarity")[k]
    notes = [HOSTILE[k]] if hostile else ["The floor is a student that never met the teacher."]
    return AnalysisTable(
        ("fidelity", "attention-iou", "similarity")[k], label, Table(columns, found), list(measures), notes
    )


def explorer(rng: np.random.Generator, names: list[str], classes: list[str], images: int, tile: int = 32) -> Explorer:
    """Blobs on colours: where the blob is, the networks look, each in its own way."""
    labels = rng.integers(0, len(classes), images).astype(np.uint16)
    spots = rng.uniform(0.2, 0.8, (images, 2))
    teacher = ExplorerModel("teacher-resnet56", "teacher", *_answers(rng, labels, len(classes), 0.93))
    student = ExplorerModel(names[0], "student", *_answers(rng, labels, len(classes), 0.85))
    alone = ExplorerModel(f"{names[0]} alone", "alone", *_answers(rng, labels, len(classes), 0.8))
    for model, blur, grid in ((teacher, 0.03, 7), (student, 0.08, 7), (alone, 0.2, 7)):
        top, sure = _top(rng, model, len(classes))
        model.top, model.top_confidence, model.top_count = top, sure, 5
        model.maps = {
            "activation": _maps(rng, spots, blur, grid, "Activation map", False),
            "causal": _maps(rng, spots, blur, grid, "Causal map", True),
        }
    alone.maps["causal"].known = text((np.arange(images) % 10 != 3).astype(np.uint8))
    columns = int(np.ceil(np.sqrt(images)))
    return Explorer(
        split="test", view="none", classes=classes, count=images, image_size=tile, columns=columns,
        sprite=_sprite(rng, spots, labels, columns, tile), labels=text(labels),
        index=text(np.sort(rng.choice(10 * images, images, replace=False)).astype(np.int32)),
        models=[teacher, student, alone], pairs=[Pair(student.name, teacher.name, alone.name)], cells=CELLS,
        map_kinds=["activation", "causal"], iou_thresholds=[0.4, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9],
        note="A draw of 2,000 of 10,000, the same number of each class (seed 0)." if images == 2000 else "",
    )  # fmt: skip


def _answers(rng: np.random.Generator, labels: np.ndarray, classes: int, accuracy: float) -> tuple[str, str]:
    wrong = rng.uniform(size=len(labels)) > accuracy
    answers = np.where(wrong, (labels + rng.integers(1, 3, len(labels))) % classes, labels).astype(np.uint16)
    sure = np.where(wrong, rng.uniform(0.3, 0.8, len(labels)), rng.beta(8, 1, len(labels)))
    return text(answers), text((255 * sure).astype(np.uint8))


def _top(rng: np.random.Generator, model: ExplorerModel, classes: int) -> tuple[str, str]:
    first = np.frombuffer(base64.b64decode(model.prediction), "<u2")
    sure = np.frombuffer(base64.b64decode(model.confidence), "u1")
    top = (first[:, None] + np.arange(5)) % classes
    rest = np.minimum(sure[:, None], 255 - sure[:, None]) * np.array([0.5, 0.2, 0.1, 0.05])
    return text(top.astype(np.uint16)), text(np.column_stack([sure, rest]).astype(np.uint8))


def _maps(rng: np.random.Generator, spots: np.ndarray, blur: float, grid: int, label: str, signed: bool) -> MapSet:
    at = (np.arange(grid) + 0.5) / grid
    centre = spots + rng.normal(0, blur, spots.shape)
    away = (at[None, :, None] - centre[:, 0, None, None]) ** 2 + (at[None, None, :] - centre[:, 1, None, None]) ** 2
    maps = np.exp(-away / 0.05) + rng.normal(0, 0.05, away.shape)
    if signed:
        maps -= 0.3
        coded = 128 + 127 * maps / np.abs(maps).max(axis=(1, 2), keepdims=True)
    else:
        low, high = (end(maps, axis=(1, 2), keepdims=True) for end in (np.min, np.max))
        coded = 255 * (maps - low) / (high - low)
    return MapSet(label, grid, grid, text(np.round(coded).astype(np.uint8)), signed, card="attention-iou")


def _sprite(rng: np.random.Generator, spots: np.ndarray, labels: np.ndarray, columns: int, tile: int) -> str:
    rows = -(-len(labels) // columns)
    whole = np.zeros((rows * tile, columns * tile, 3), np.uint8)
    at = (np.arange(tile) + 0.5) / tile
    hues = rng.uniform(60, 255, (int(labels.max()) + 1, 3))
    for k, (y, x) in enumerate(spots):
        blob = np.exp(-((at[:, None] - y) ** 2 + (at[None] - x) ** 2) / 0.02)[..., None]
        ground = rng.uniform(30, 110, 3) + rng.normal(0, 6, (tile, tile, 1))
        row, column = divmod(k, columns)
        picture = ground * (1 - blob) + hues[labels[k]] * blob
        whole[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile] = np.clip(picture, 0, 255)
    file = io.BytesIO()
    Image.fromarray(whole).save(file, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
