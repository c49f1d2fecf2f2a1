"""The report as a file: one page that needs nothing else, whole or not at all."""

from pathlib import Path
from typing import Any

from kdscope.files import write_text
from kdscope.run import Run


def write_report(source: str | Path | Run, out: str | Path | None = None, **options: Any) -> Path:
    """Write the report of a run or a study; the same input gives the same bytes.

    Args:
        source: a run directory, or the folder of a study.
        out: the file; by default `report.html` in that folder.
        options: of `kdscope.report.gather.gather`.

    Returns:
        The file.

    Raises:
        KDScopeError: neither a run nor a study, or a file that cannot be written.
    """
    from kdscope.report.gather import gather
    from kdscope.report.page import render

    path = source.path if isinstance(source, Run) else Path(source)
    out = path / "report.html" if out is None else Path(out)
    write_text(out, render(gather(source, **options)))
    return out
