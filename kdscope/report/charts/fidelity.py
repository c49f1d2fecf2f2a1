"""How closely students follow: agreement and divergence between floor and ceiling, and what the teacher changed."""

from collections.abc import Iterator

from kdscope.measures.decomposition import ORIGINS
from kdscope.report.cards import title
from kdscope.report.charts import CHARTS
from kdscope.report.charts.common import (
    TAUGHT,
    all_seeds,
    axis,
    colours,
    finals,
    framed,
    labelled,
    layout,
    text,
    values,
    words,
)
from kdscope.report.found import Asked
from kdscope.report.payload import Chart
from kdscope.report.tables import NUMBERS, of_frame

FRAME = ("agreement", "kl-teacher-student", "agreement-teacher-right", "agreement-teacher-wrong")


@CHARTS.register("fidelity")
def fidelity(asked: Asked) -> Iterator[Chart]:
    """The frame of each student, and the shares of images on which its teacher made a difference."""
    rows = finals(asked)
    rows = labelled(rows[rows["pair"].isin(TAUGHT)])
    together, split = all_seeds(rows), rows["split"].iloc[0] if len(rows) else ""
    main = together[together["measure"].isin(FRAME)]
    if len(main):
        panels = [(title(m), main[main["measure"] == m]) for m in FRAME if (main["measure"] == m).any()]
        caption = (
            f"On {split}. The floor is what students reach that never met the teacher, the ceiling two seeds of one."
        )
        yield framed("fidelity-frame", "Fidelity between floor and ceiling", main, panels, "agreement", caption)
    origins = together[together["measure"].isin(ORIGINS)]
    if len(origins):
        yield _origins(origins, split)


def _origins(rows, split: str) -> Chart:
    colour = colours(ORIGINS)
    data = [
        {
            "type": "bar", "orientation": "h", "name": text(title(measure)), "marker": {"color": colour[measure]},
            "x": values(own), "y": [text(label) for label in own["label"]],
            "hovertemplate": "%{y}<br>%{x:.4f} of the images<extra>" + text(title(measure)) + "</extra>",
        }
        for measure, own in rows.groupby("measure", sort=False)
    ]  # fmt: skip
    order = list(dict.fromkeys(rows["label"]))[::-1]
    side = {"type": "category", "categoryorder": "array", "categoryarray": [text(n) for n in order], "automargin": True}
    shape = layout(30 * max(3, len(order)) + 140, barmode="stack", xaxis=axis("Share of images"), yaxis=side)
    name = "What the teacher changed"
    numbers = of_frame(rows, ["measure", "b", "a", "split", "seed", *NUMBERS])
    caption = f"Against a student trained without the teacher, on {split}: its errors and truths, taken over or not."
    return Chart(
        "fidelity-origins", name, caption, words(name, rows), {"data": data, "layout": shape}, numbers, ORIGINS[0]
    )
