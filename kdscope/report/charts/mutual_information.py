"""Mutual information of the answers of teacher and student, between floor and ceiling, and by each estimator."""

from collections.abc import Iterator

from kdscope.figures.mutual_information import ESTIMATORS
from kdscope.report.cards import title
from kdscope.report.charts import CHARTS
from kdscope.report.charts.common import TAUGHT, all_seeds, finals, frame, labelled
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
    main = labelled(main)
    together = all_seeds(main)
    for measure in MEASURES:
        own = together[together["measure"] == measure]
        if len(own):
            single = main[(main["measure"] == measure) & (main["seed"].astype(str) != "all")]
            yield frame(f"information-{measure}", title(measure), own, measure, _few(own), seeds=single)
    every = asked.table[(asked.table["measure"] == MEASURES[0]) & asked.table["pair"].isin(TAUGHT)]
    every = all_seeds(labelled(every[every["split"] == main["split"].iloc[0]]))
    if every["definition"].nunique() > 1:
        every = every.assign(estimator=every["definition"].map(ESTIMATORS).fillna(every["definition"]))
        caption = "The plug-in is biased upwards where images are few; the floors say by how much."
        name = "Estimators of mutual information"
        yield frame("information-estimators", name, every, MEASURES[0], caption, series="estimator")


def _few(rows) -> str:
    known = rows[rows["flag"].notna()] if "flag" in rows else rows[:0]
    return f"Few images: {known['per_cell'].min():.2g} for each pair of classes that occurs." if len(known) else ""
