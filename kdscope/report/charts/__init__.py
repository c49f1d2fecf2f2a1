"""A tidy table in, interactive charts out: plotly figures as plain dictionaries, each with its numbers and its words.

`CHARTS` finds who draws each analysis by itself, in this package and under the entry-point group `kdscope.charts`; a
chart maker is a function of an `Asked` table that yields charts. An analysis that nobody draws gets `intervals`.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdscope.registry import Registry

if TYPE_CHECKING:
    from kdscope.report.found import Found
    from kdscope.report.payload import Chart, Table

MOST_NUMBERS = 150  # rows of the table under a chart

CHARTS: Registry = Registry("chart", "kdscope.report.charts", "kdscope.charts")

__all__ = ["CHARTS", "charts_of"]


def charts_of(found: "Found") -> "list[Chart]":
    """All charts of a run or a study: of its runs, of each analysis, and of measures against accuracy."""
    made = [*_charts(found)]
    for k, chart in enumerate(made):  # names of layers and folders have letters that an id must not have
        chart.id = f"{re.sub('[^a-z0-9]+', '-', chart.id.lower()).strip('-')}-{k}"
        _cut(chart.table)
    return made


def _cut(table: "Table") -> None:
    """Leave as many rows as a page has room for, and say so: every k-th, so that a curve keeps its course."""
    step = -(-len(table.rows) // MOST_NUMBERS)
    if step > 1:
        told = f"every {step}. row of the {len(table.rows)} drawn"
        table.rows, table.caption = table.rows[::step], f"{table.caption}; {told}" if table.caption else told


def _charts(found: "Found") -> "Iterator[Chart]":
    from kdscope.report.charts.accuracy import accuracy_by_group, learning_curves
    from kdscope.report.charts.common import intervals
    from kdscope.report.charts.scatter import against_accuracy

    yield from accuracy_by_group(found)
    yield from learning_curves(found)
    for asked in found.analyses:
        maker = CHARTS[asked.name] if asked.name in CHARTS else intervals  # noqa: SIM401 (a registry is no dict)
        for chart in maker(asked):
            if asked.label != asked.name:
                chart.title = f"{chart.title} ({asked.label})"
            yield chart
    yield from against_accuracy(found)
