"""The figures of `kdscope analyze calibration`: functions of its table.

- calibration-reliability: reliability diagrams of teachers and students, at T = 1 and at the best temperature.
- calibration-error: each calibration error with its interval, beside that of calibrated models of its confidences.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kdscope.figures import FIGURES
from kdscope.figures.sheet import drawn, endings
from kdscope.figures.style import BAND, ROW, TWO_COLUMNS, colours, interval, legend_below, panels, short_names, styled

ERRORS = {
    "ece": "ECE, 15 bins (share)",
    "ece-debiased": "Debiased L2 error (share)",
    "smooth-ece": "SmoothECE (share)",
}
TEMPERATURES = {"1": "T = 1", "best": "best T"}
MOST = 4  # students whose diagrams fit a page
CAPTIONS = {
    "reliability": "Accuracy against confidence by bins, at temperature 1 and at the best temperature, with the "
    "expected calibration error (ECE) and that of a calibrated model of the same confidences. Bars: share of "
    "images in a bin.",
    "error": "Calibration errors at temperature 1 and at the best temperature; of several seeds the mean, with a tick "
    "for each. Grey: calibrated models of the same confidences.",
}


@FIGURES.register("calibration")
def calibration(table: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Each figure for each split, by its file's name."""
    known = table[table["definition"] == "kdscope"].assign(temperature=table["temperature"].astype(str))
    with styled():
        for split, end in endings(known).items():
            rows = known[known["split"] == split]
            bins = rows[rows["measure"].isin(("reliability", "ece")) & (rows["seed"] != "all")]
            found = rows[rows["measure"].isin(ERRORS) & (rows["role"] != "random-init")]
            yield drawn(table, f"calibration-reliability{end}", bins, partial(diagrams, bins), CAPTIONS["reliability"])
            yield drawn(table, f"calibration-error{end}", found, partial(errors, found), CAPTIONS["error"])


def diagrams(rows: pd.DataFrame) -> Figure:
    """Accuracy against confidence by bins, at either temperature: of each kind of student one seed, after its teacher.

    Two networks a line, each once, however many students a teacher has.
    """
    bins, eces = rows[rows["measure"] == "reliability"], rows[rows["measure"] == "ece"]
    students = bins[bins["role"] == "student"].drop_duplicates("group").head(MOST)
    known = dict(zip(bins["b"], bins["role"], strict=True))
    networks = list(dict.fromkeys(name for s in students.itertuples() for name in (s.a, s.b) if name in known))
    networks.sort(key=lambda name: known[name] == "student")
    names, colour = short_names(networks, 22), colours(["teacher", "student"])
    down = math.ceil(len(networks) / 2)
    figure, grid = panels(down, 4, TWO_COLUMNS, 0.5 + 2.1 * down, sharex=True, sharey=True)
    panel = [axes for line in grid for axes in line]
    shown = [(name, temperature) for name in networks for temperature in TEMPERATURES]
    for axes, (name, temperature) in zip(panel, shown, strict=False):
        own = (bins["b"] == name) & (bins["temperature"] == temperature)
        _diagram(axes, bins[own], colour["student" if known[name] == "student" else "teacher"])
        ece = eces[(eces["b"] == name) & (eces["temperature"] == temperature)].iloc[0]
        text = f"ECE {ece.value:.3f} [{ece.ci_low:.3f}, {ece.ci_high:.3f}]\n(calibrated {ece.null:.3f})"
        axes.set_title(f"{names[name]}, {TEMPERATURES[temperature]}\n{text}", fontsize=6.5)
    for axes in panel[len(shown) :]:
        axes.set_axis_off()
    for line in grid:
        line[0].set_ylabel("Accuracy (share)")
    for k, axes in enumerate(panel[: len(shown)]):
        if k + 4 >= len(shown):
            axes.set_xlabel("Confidence (share)")
            axes.tick_params(labelbottom=True)  # also where the line below is not full
    handles = [
        Line2D([], [], color=shade, marker="o", markersize=3, label=f"{role}, {_sure(rows)} interval")
        for role, shade in colour.items()
    ]
    handles += [
        Line2D([], [], color="0.4", linestyle="--", label="calibrated"),
        Patch(color=BAND, label="share of images in the bin"),
    ]
    legend_below(figure, handles)
    return figure


def _diagram(axes: Axes, bins: pd.DataFrame, colour: tuple) -> None:
    width = bins["bin_high"] - bins["bin_low"]
    axes.bar(bins["bin_low"], bins["n"] / bins["n"].sum(), width, align="edge", color=BAND, linewidth=0, zorder=1)
    axes.plot([0, 1], [0, 1], "--", color="0.4", linewidth=0.7, zorder=2)
    axes.plot(bins["bin_confidence"], bins["value"], color=colour, linewidth=0.8, zorder=3)
    for row in bins.itertuples():
        interval(axes, row, row.bin_confidence, upright=True, color=colour, markersize=2.5, elinewidth=0.8, zorder=4)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])


def errors(rows: pd.DataFrame) -> Figure:
    """Each network's errors at either temperature; the grey band is what calibrated models of its confidences get.

    Several seeds of a network are one row, with a tick for each.
    """
    several = rows.groupby(["role", "group"])["seed"].transform(lambda seeds: (seeds == "all").any()).astype(bool)
    rows = rows.assign(label=rows["b"].where(~several, rows["group"]))
    main, alone = rows[~several | (rows["seed"] == "all")], rows[several & (rows["seed"] != "all")]
    order = list(dict.fromkeys(rows["label"]))[::-1]
    names, colour = short_names(order, 26), colours(list(TEMPERATURES))
    figure, grid = panels(1, len(ERRORS), TWO_COLUMNS, 1.15 + 1.3 * ROW * max(2, len(order)), sharey=True)
    for axes, (measure, label) in zip(grid[0], ERRORS.items(), strict=True):
        for row in main[main["measure"] == measure].itertuples():
            at = _line(order, row)
            axes.barh(at, row.null_high - row.null_low, 0.26, row.null_low, color=BAND, linewidth=0, zorder=1)
            axes.plot([row.null] * 2, [at - 0.13, at + 0.13], color="0.5", linewidth=1, zorder=2)
            interval(axes, row, at, color=colour[row.temperature], zorder=3)
        for row in alone[alone["measure"] == measure].itertuples():
            axes.plot(row.value, _line(order, row), "|", color=colour[row.temperature], markersize=6, alpha=0.6)
        axes.set_yticks(range(len(order)), [names[name] for name in order])
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(left=-0.02 * axes.get_xlim()[1])  # else a dot at 0 is cut in half
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_xlabel(label)
    sure = _sure(rows)
    handles = [
        Line2D([], [], color=colour[t], marker="o", markersize=4, label=f"{title}, {sure} interval")
        for t, title in TEMPERATURES.items()
    ]
    if len(alone):
        handles.append(Line2D([], [], color="0.3", marker="|", linestyle="", alpha=0.6, label="one seed"))
    handles.append(Patch(color=BAND, label=f"calibrated models of the same confidences ({sure})"))
    legend_below(figure, handles)
    return figure


def _line(order: list[str], row: Any) -> float:
    return order.index(row.label) + (0.17 if row.temperature == "1" else -0.17)


def _sure(rows: pd.DataFrame) -> str:
    return f"{rows['confidence'].iloc[0]:.0%}"
