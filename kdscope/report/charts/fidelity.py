"""How closely students follow: agreement and divergence between floor and ceiling, and what the teacher changed."""

from collections.abc import Iterator

from kdscope.measures.decomposition import ORIGINS
from kdscope.report.cards import title
from kdscope.report.charts import CHARTS
from kdscope.report.charts.common import (
    TAUGHT,
    all_seeds,
    axis,
    categories,
    colours,
    finals,
    frame,
    labelled,
    layout,
    lines,
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
    for measure in FRAME:
        main = together[together["measure"] == measure]
        if len(main):
            single = rows[(rows["measure"] == measure) & (rows["seed"].astype(str) != "all")]
            caption = f"On {split}. Floor: a student that never met the teacher; ceiling: two seeds of the student."
            yield frame(f"fidelity-{measure}", title(measure), main, measure, caption, seeds=single)
    origins = together[together["measure"].isin(ORIGINS)]
    if len(origins):
        yield _origins(origins, split)


def _origins(rows, split: str) -> Chart:
    colour = colours(ORIGINS)
    data = [
        {
            "type": "bar", "orientation": "h", "name": text(title(measure)), "marker": {"color": colour[measure]},
            "x": values(own), "y": [lines(label) for label in own["label"]],
            "hovertemplate": "%{x:.4f} of the images<extra>" + text(title(measure)) + "</extra>",
        }
        for measure, own in rows.groupby("measure", sort=False)
    ]  # fmt: skip
    order = list(dict.fromkeys(rows["label"]))
    shape = layout(
        40 * max(3, len(order)) + 130, barmode="stack", xaxis=axis("Share of images"), yaxis=categories(order)
    )
    name = "What the teacher changed"
    numbers = of_frame(rows, ["measure", "b", "a", "split", "seed", *NUMBERS])
    caption = f"Against a student trained without the teacher, on {split}: its errors and truths, taken over or not."
    return Chart(
        "fidelity-origins", name, caption, words(name, rows), {"data": data, "layout": shape}, numbers, ORIGINS[0]
    )
