"""docs/methods.md is what the methods say of themselves, docs/studies/NAME.md what the study files say."""

import runpy
from pathlib import Path

import pytest
import yaml

from kdscope.study.schema import names

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_methods_has_not_drifted():
    page = runpy.run_path(str(DOCS / "generate.py"))["page"]()
    assert page == (DOCS / "methods.md").read_text(), "run: python docs/generate.py"


def test_the_measures_of_detectors_have_not_drifted():
    page = runpy.run_path(str(DOCS / "generate_measures.py"))["page"]
    there = (DOCS / "measures.md").read_text()
    assert page(there) == there, "run: python docs/generate_measures.py"


@pytest.mark.parametrize("study", names())
def test_the_page_of_a_study_has_not_drifted(study):
    page = runpy.run_path(str(DOCS / "generate_studies.py"))["page"](study)
    assert page == (DOCS / "studies" / f"{study}.md").read_text(), "run: python docs/generate_studies.py"


def test_every_study_is_in_the_contents():
    contents = yaml.load((DOCS.parent / "mkdocs.yml").read_text(), yaml.SafeLoader)["nav"]
    pages = next(entry["Studies"] for entry in contents if "Studies" in entry)
    assert set(pages) == {"studies/index.md"} | {f"studies/{name}.md" for name in names()}
