"""From a run or a study to what its report says: the payload, which `kdscope.report.page` makes a page of."""

from collections.abc import Sequence
from pathlib import Path

import kdscope
from kdscope.report.cards import card_id, cards
from kdscope.report.charts import charts_of
from kdscope.report.found import Asked, Found, find
from kdscope.report.payload import BoxExplorer, Card, Chart, Claim, Explorer, Payload, Table
from kdscope.report.summary import of_groups, of_run, run_rows, settings
from kdscope.report.tables import MOST_OF_ALL, MOST_ROWS, homeless, of_analysis, plain
from kdscope.run import Run


def gather(source: str | Path | Run, *, extract: bool = True, device: str = "auto", explorer: bool = True) -> Payload:
    """All that a report says of a run or a study. The same folder gives the same payload.

    Args:
        source: a run directory, or the folder of a study (STUDY-SCALE).
        extract: whether maps that no cache holds are extracted now, for the explorer; else it does without them.
        device: where they are extracted.
        explorer: whether images are shown at all.

    Raises:
        KDScopeError: a folder that is neither a run nor a study.
    """
    found = find(source.path if isinstance(source, Run) else source)
    summary = of_run(found.run) if found.run else of_groups(found)
    most = min(MOST_ROWS, MOST_OF_ALL // max(1, len(found.analyses)))
    tables = [of_analysis(each.name, each.label, each.table, each.notes, each.file, most) for each in found.analyses]
    if found.run:
        tables.append(settings(found.run))
    shown, notes = _explorer(found, extract, device) if explorer else (None, [])
    classified = None if isinstance(shown, BoxExplorer) else shown
    drawn = charts_of(found)
    plan = found.plan
    return Payload(
        title=str(plan.get("title") or plan.get("study") or found.path.name),
        kind=found.kind,
        source=found.path.name,
        version=kdscope.__version__,
        about=str(plan.get("about") or ""),
        citation=str(plan.get("citation") or ""),
        summary=summary,
        runs=run_rows(found),
        charts=drawn,
        tables=tables,
        explorer=classified,
        boxes=shown if isinstance(shown, BoxExplorer) else None,
        cards=_cards(found.analyses, summary, drawn, classified),
        claims=_claims(found),
        notes=[homeless(note, found.path.parent) for note in (*found.notes, *notes)],
    )


def _explorer(found: Found, extract: bool, device: str) -> tuple[Explorer | BoxExplorer | None, list[str]]:
    from kdscope.config import detects
    from kdscope.errors import KDScopeError
    from kdscope.report.explorer import explore

    try:
        if found.runs and all(detects(run.config.data.name) for run in found.runs.values()):
            from kdscope.report.boxes import explore_boxes

            return explore_boxes(found.runs, extract=extract, device=device)
        return explore(found.runs, extract=extract, device=device)
    except KDScopeError as error:
        return None, [f"no image is shown: {error}"]


def _claims(found: Found) -> list[Claim]:
    """What became of each claim of a paper, where the study says it; else the claims alone."""
    told = [
        Claim(row["claim"], row["verdict"], ", ".join(filter(None, map(row.get, ("place", "definition", "detail")))))
        for row in found.claims
    ]
    return told or [Claim(str(claim), "claimed") for claim in found.plan.get("claims") or ()]


def _cards(
    analyses: Sequence[Asked], summary: Table, charts: Sequence[Chart], explorer: Explorer | None
) -> dict[str, Card]:
    """The cards of all that is named, the analyses' in their order."""
    from kdscope.analyses import ANALYSES

    found: dict[str, Card] = {}
    for each in analyses:
        columns = [name for name in ("measure", "definition") if name in each.table]
        ids = [card_id(*map(plain, row)) for row in each.table[columns].drop_duplicates().itertuples(index=False)]
        found = cards(ids, ANALYSES[each.name].citation if each.name in ANALYSES else "") | found
    more = ["accuracy", *(column.card for column in summary.columns), *(chart.card for chart in charts)]
    more += [column.card for chart in charts for column in chart.table.columns]
    maps = [each.card for model in (explorer.models if explorer else ()) for each in model.maps.values()]
    more += [*maps, "threshold-iou"] if maps else []
    return cards(more) | found
