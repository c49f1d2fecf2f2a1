"""Mutual information of the answers of teacher and student, between floor and ceiling, and by each estimator."""

from collections.abc import Iterator

from kdscope.report.cards import card_id, title
from kdscope.report.charts import CHARTS
from kdscope.report.charts.common import TAUGHT, all_seeds, finals, framed, labelled
from kdscope.report.found import Asked
from kdscope.report.payload import Chart

MEASURES = (
    "mutual-information",
    "soft-mutual-information",
    "uncertainty-coefficient",
    "adjusted-mutual-information",
)


@CHARTS.register("mutual-information")
def mutual_information(asked: Asked) -> Iterator[Chart]:
    """The frame of each student for each form, and what other estimators say of the same answers."""
    rows = finals(asked)
    main = rows[rows["pair"].isin(TAUGHT) & rows["measure"].isin(MEASURES)]
    if not len(main):
        return
    main = all_seeds(labelled(main))
    units = {"mutual-information": " (nats)", "soft-mutual-information": " (nats)"}
    panels = [
        (title(m) + units.get(m, ""), main[main["measure"] == m]) for m in MEASURES if (main["measure"] == m).any()
    ]
    yield framed("mutual-information-frame", "Mutual information", main, panels, MEASURES[0], _few(main))
    every = asked.table[(asked.table["measure"] == MEASURES[0]) & asked.table["pair"].isin(TAUGHT)]
    every = all_seeds(labelled(every[every["split"] == main["split"].iloc[0]]))
    if every["definition"].nunique() > 1:
        panels = [(title(card_id(MEASURES[0], d)), own) for d, own in every.groupby("definition", sort=False)]
        caption = "The plug-in is biased upwards where images are few; the floor beside it says by how much."
        yield framed(
            "mutual-information-estimators", "Estimators of mutual information", every, panels, MEASURES[0], caption
        )


def _few(rows) -> str:
    known = rows[rows["flag"].notna()] if "flag" in rows else rows[:0]
    return f"Few images: {known['per_cell'].min():.2g} for each pair of classes that occurs." if len(known) else ""
