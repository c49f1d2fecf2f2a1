"""Detectors over the epochs of their training, where runs kept probes: a figure of `kdscope.figures.detection`."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdscope.figures.detection_rows import labels_of, one_each
from kdscope.figures.fidelity_rows import ALONE
from kdscope.figures.style import DASHES, TWO_COLUMNS, colours, legend_below, panels

TITLES = {
    "ap": "AP (%)",
    "ap50": "AP50 (%)",
    "agree-f1": "Agree-F1 with the teacher",
    "row-agreement": "Same answer, rows with an object",
    "row-kl": "KL(teacher || student), such rows (nats)",
    "worse-boxes": "Box worse than the teacher's (share)",
}
PERCENT = ("ap", "ap50")
ACROSS = 3
HEADS = ("-", ":", "-.")  # of the heads of a detector, where it has several
CAPTION = (
    "The probe images while the students learned, with intervals; dashed: students without a teacher; grey: the "
    "teacher as it is. Of rows with an object, those where the student's box is farther from the target than the "
    "teacher's are the ones on which the bounded loss of Chen et al. is active."
)


def of_epochs(probes: pd.DataFrame) -> pd.DataFrame:
    """The rows that are shown: over all objects, classes and rows with an object, all seeds together."""
    whole = (probes["measure"].isin(PERCENT) & (probes["area"] == "all") & (probes["class"] == "all")) | (
        (probes["measure"] == "agree-f1") & (probes["iou"] == "0.5")
    )
    shown = probes[whole | (probes["measure"].isin(TITLES) & (probes["part"] == "foreground"))]
    return one_each(shown)


def over_epochs(rows: pd.DataFrame) -> Figure:
    """A panel for each measure, a line for each way of training."""
    lone = (rows["pair"] == ALONE) | (rows["role"] == "independent-student")
    rows = rows.assign(epoch=rows["epoch"].astype(float), dash=lone.map({True: DASHES[1], False: DASHES[0]}))
    heads = sorted(rows["head"].dropna().unique())
    if len(heads) > 1:
        rows["dash"] = rows["head"].map(dict(zip(heads, HEADS, strict=False))).fillna(rows["dash"])
    shown = [measure for measure in TITLES if (rows["measure"] == measure).any()]
    names = list(dict.fromkeys(rows["group"]))
    colour, texts = colours(names), labels_of(names)
    down, across = math.ceil(len(shown) / ACROSS), min(ACROSS, len(shown))
    width = TWO_COLUMNS * max(across, 2) / ACROSS
    figure, grid = panels(down, across, width, 2.05 * down + 0.25 + 0.16 * math.ceil(len(names) / 4), sharex=True)
    cells = [axes for line in grid for axes in line]
    for axes, measure in zip(cells, shown, strict=False):
        own = rows[rows["measure"] == measure]
        for (name, dash, _), line in own.groupby(["group", "dash", "b"], sort=False):
            _line(axes, line.sort_values("epoch"), 100 if measure in PERCENT else 1, dash, colour[name])
        for value in own["ceiling"].dropna().unique() if measure in PERCENT else ():
            axes.axhline(100 * value, color="0.45", linewidth=0.9, zorder=1)
        axes.set_title(TITLES[measure], loc="left", fontsize=7.5)
        axes.set_ylim(0, 1.05 * max(axes.dataLim.y1, 1e-6))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in cells[len(shown) :]:
        axes.set_axis_off()
    for axes in cells[max(0, len(shown) - across) : len(shown)]:
        axes.set_xlabel("Epoch")
        axes.tick_params(labelbottom=True)
    legend_below(figure, _handles(rows, names, texts, colour, heads))
    return figure


def _line(axes: Axes, line: pd.DataFrame, scale: float, dash: str, colour: tuple) -> None:
    value, low, high = (scale * line[name] for name in ("value", "ci_low", "ci_high"))
    axes.plot(line["epoch"], value, dash, color=colour, marker=".", markersize=4)
    axes.fill_between(line["epoch"], low, high, color=colour, alpha=0.15, linewidth=0)


def _handles(rows: pd.DataFrame, names: list[str], texts: dict, colour: dict, heads: list[str]) -> list[Line2D]:
    alone = set(rows.loc[(rows["pair"] == ALONE) | (rows["role"] == "independent-student"), "group"])
    made = [Line2D([], [], color=colour[n], linestyle=DASHES[n in alone], label=texts[n]) for n in names]
    if rows.loc[rows["measure"].isin(PERCENT), "ceiling"].notna().any():
        made.append(Line2D([], [], color="0.45", linewidth=0.9, label="teacher"))
    if len(heads) > 1:
        made += [
            Line2D([], [], color="0.2", linestyle=dash, label=f"rows of {head}")
            for head, dash in zip(heads, HEADS, strict=False)
        ]
    return made
