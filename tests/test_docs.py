"""docs/methods.md is what the methods say of themselves."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_methods_has_not_drifted():
    page = runpy.run_path(str(DOCS / "generate.py"))["page"]()
    assert page == (DOCS / "methods.md").read_text(), "run: python docs/generate.py"
