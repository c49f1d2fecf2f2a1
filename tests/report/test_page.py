import base64
import configparser
import fnmatch
import hashlib
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope.report.page import ASSETS, MODULES, card_of, harmless, island, modules, plotly, relative, render, shown
from kdscope.report.payload import Card, Column, Payload

HERE = Path(__file__).parent
VALUES = st.recursive(
    st.text() | st.integers() | st.none(), lambda each: st.lists(each) | st.dictionaries(st.text(), each)
)


class Reader(HTMLParser):
    """Elements and attributes of a page, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.inside = Counter(), [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag == "script":
            self.inside = True
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


VALUES = st.recursive(
    st.text() | st.integers() | st.none(), lambda each: st.lists(each) | st.dictionaries(st.text(), each)
)


@settings(max_examples=50)
@given(VALUES)
def test_an_island_holds_any_text_and_lets_no_markup_begin(value):
    text = str(island(value))
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_an_island_has_nothing_for_what_is_not_finite():
    assert str(island([float("nan"), float("inf"), 1.5])) == "[null,null,1.5]"


def test_hostile_names_make_no_element_and_no_handler(written):
    options = {"runs": 12, "images": 30, "charts": 4, "rows": 12}
    calm, hostile = (Reader(written(**options, hostile=each)[1].read_text(encoding="utf-8")) for each in (False, True))
    # What the hostile page lacks are links that lead out of its folder; what it has more is a note.
    assert hostile.tags - calm.tags == Counter({"p": 1})
    assert set(calm.tags - hostile.tags) <= {"a"}
    assert not [each for each in hostile.attributes if each[1].startswith("on")]
    links = [value for tag, name, value in hostile.attributes if name in ("href", "src")]
    assert links
    assert not [link for link in links if not re.match(r"#|data:image/|[\w.%~-][\w./%~-]*$", link)]


def test_the_policy_lists_the_scripts_that_run_and_no_other(written):
    reader = Reader(written(runs=12, images=30, charts=4, rows=12, hostile=True)[1].read_text(encoding="utf-8"))
    policy = next(value for _, name, value in reader.attributes if name == "content" and "default-src" in value)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in reader.scripts]
    listed = re.findall(r"'sha256-([^']*)'", policy)
    assert set(listed) == set(hashes[-2:])  # plotly's, kept as text, and the module
    assert "script-src 'sha256-" in policy
    assert "connect-src 'none'" in policy
    assert "default-src 'none'" in policy


def test_a_page_without_charts_is_small():
    page = render(Payload(title="t", kind="run", source="s", version="1"))
    assert len(page) < 120_000
    assert 'id="plotly"' not in page


def test_a_page_is_the_same_each_time(made_up):
    one, other = (render(made_up.payload(runs=3, images=5, charts=2, rows=4)) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    ("link", "href"),
    [
        ("runs/kd-seed0", "runs/kd-seed0"),
        ("a b/ü.html#x", "a%20b/%C3%BC.html#x"),
        ("../other", "../other"),
        ("javascript:alert(1)", None),
        ("java\tscript:alert(1)", None),
        ("data:text/html,x", None),
        ("/etc/passwd", None),
        ("//host/x", None),
        ("\\\\host\\x", None),
        ("", None),
    ],
)
def test_links_stay_beside_the_page(link, href):
    assert relative(link) == href


@pytest.mark.parametrize(
    ("value", "kind", "digits", "text"),
    [
        (None, "number", 3, "–"),
        (float("nan"), "number", 3, "–"),
        (0.12345, "number", 3, "0.123"),
        (-0.12345, "number", 2, "−0.12"),
        (0.0, "number", 3, "0.000"),
        (3e-5, "number", 3, "3.0e−5"),
        (12345.678, "number", 1, "12\u202f345.7"),
        (240, "number", 3, "240"),
        (1234567, "number", 3, "1\u202f234\u202f567"),
        (0.98765, "percent", 1, "98.8\u202f%"),
        ("<b>", "text", 3, "<b>"),
        ("n/a", "number", 3, "n/a"),
    ],
)
def test_numbers_are_shown_as_they_are_read(value, kind, digits, text):
    assert shown(value, Column("a", "A", kind, digits=digits)) == text


def test_a_number_has_the_card_of_its_row_before_that_of_its_column_and_none_that_is_not_there():
    cards = {name: Card(name, name, "") for name in ("row", "column")}
    value, other = Column("value", "Value", "number", card="column"), Column("n", "n", "number", card="column")
    assert card_of({"card": "row"}, value, cards) == "row"
    assert card_of({"card": "row"}, other, cards) == "column"
    assert card_of({"card": "gone"}, value, cards) == "column"
    assert card_of({}, Column("n", "n", "number", card="gone"), cards) is None


def test_figures_keep_their_line_breaks_and_lose_their_links():
    figure = {"data": [{"name": "<a href='https://x'>x</a>", "y": [1, "<b>bold</b><br>a < b"]}]}
    assert harmless(figure) == {
        "data": [{"name": "&lt;a href='https://x'>x&lt;/a>", "y": [1, "<b>bold</b><br>a &lt; b"]}]
    }


def test_modules_import_from_those_before_them_and_no_name_stands_twice():
    exported, declared = {}, Counter()
    for name in MODULES:
        text = (ASSETS / f"{name}.js").read_text(encoding="utf-8")
        exported[name] = set(re.findall(r"^export (?:async )?(?:function|const|class) (\w+)", text, re.MULTILINE))
        declared.update(re.findall(r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", text, re.MULTILINE))
        for names, source in re.findall(r'^import \{([^}]*)\} from "./(\w+).js";$', text, re.MULTILINE):
            wanted = {each.strip() for each in names.split(",")}
            assert wanted <= exported[source], (name, source)
            body = text.split("from", 1)[1]
            assert all(re.search(rf"\b{each}\b", body) for each in wanted), name
    assert {path.stem for path in ASSETS.glob("*.js")} == set(MODULES)
    assert [name for name, count in declared.items() if count > 1] == []
    assert not re.search(r"^(import|export)\b", modules(), re.MULTILINE)
    assert "</script" not in (modules() + plotly()).lower()


def test_the_wheel_holds_all_that_the_page_is_made_of():
    setup = configparser.ConfigParser()
    setup.read(HERE.parents[1] / "setup.cfg")
    patterns = setup["options.package_data"]["kdscope.report"].split(",")
    assert ASSETS.name == "assets"
    assert all(any(fnmatch.fnmatch(f"assets/{p.name}", each.strip()) for each in patterns) for p in ASSETS.iterdir())
