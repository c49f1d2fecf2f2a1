"""A tidy table in, interactive charts out: plotly figures as plain dictionaries, each with its numbers and its words.

`CHARTS` finds who draws each analysis by itself, in this package and under the entry-point group `kdscope.charts`; a
chart maker is a function of an `Asked` table that yields charts. An analysis that nobody draws gets `intervals`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdscope.registry import Registry

if TYPE_CHECKING:
    from kdscope.report.found import Found
    from kdscope.report.payload import Chart

CHARTS: Registry = Registry("chart", "kdscope.report.charts", "kdscope.charts")

__all__ = ["CHARTS", "charts_of"]


def charts_of(found: "Found") -> "list[Chart]":
    """All charts of a run or a study: of its runs, of each analysis, and of measures against accuracy."""
    return [*_charts(found)]


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
                chart.id = f"{asked.label}-{chart.id}"
            yield chart
    yield from against_accuracy(found)
