"""Tables in Markdown and LaTeX: marks by the direction, numbers rounded alike, and names that break nothing."""

import math
import re
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope.errors import KDScopeError
from kdscope.figures.tables import Column, Number, Row, Table, latex_text, markdown_text, ranks

HOSTILE = [
    "a|b", "50% & more", r"\input{x}", "{", "}", "$x_1^2$", "#1", "~", "[2cm]", "*", "`code`", "<b>bold</b>", "--",
    "é ß", "日本", "🙂", "two\nlines", "µ ð", '"', "\x00\x1b[31m", "%", "\\\\", "!`?`", "a&b", "→ ± − … °",
]  # fmt: skip


def numbers(*values, title="acc"):
    return [Row((str(k),), {title: Number(value)}) for k, value in enumerate(values)]


@pytest.mark.parametrize(
    ("direction", "expected"),
    [("higher", ["", "second", "best"]), ("lower", ["best", "second", ""]), ("none", ["", "", ""])],
)
def test_the_best_is_by_the_direction(direction, expected):
    assert ranks(numbers(1, 2, 3), Column("acc", direction)) == expected


def test_ties_are_as_printed_and_marked_alike():
    rows = numbers(90.004, 89.996, 80.0, 80.001, 70.0)
    assert ranks(rows, Column("acc")) == ["best", "best", "second", "second", ""]
    assert ranks(rows, Column("acc", digits=4)) == ["best", "second", "", "", ""]


def test_nobody_wins_alone_or_among_equals():
    assert ranks(numbers(1.0), Column("acc")) == [""]
    assert ranks(numbers(1.0, 1.0), Column("acc")) == ["", ""]
    assert ranks(numbers(1.0, math.nan), Column("acc")) == ["", ""]


def test_blocks_compete_by_themselves_and_published_numbers_not_at_all():
    rows = [Row((b,), {"acc": Number(v)}, b) for b, v in (("a", 1), ("a", 2), ("b", 9), ("b", 8))]
    assert ranks(rows, Column("acc")) == ["second", "best", "best", "second"]
    assert ranks(rows, Column("acc", published=True)) == [""] * 4
    # A published number above ours takes nothing from ours.
    rows = [Row((k,), {"ours": Number(v), "paper": Number(99)}) for k, v in (("x", 1), ("y", 2))]
    text = Table(("run",), (Column("ours"), Column("paper", published=True)), tuple(rows)).markdown()
    assert "| y | **2.00** | 99.00 |" in text
    assert "paper (published) |" in text
    assert "published numbers are of other runs, and do not compete" in text


def test_numbers_of_a_column_are_rounded_alike():
    shown = (
        Row(("a",), {"d": Number(-0.0004, -0.5, 1 / 3)}),
        Row(("b",), {"d": Number(2 / 3, sd=0.125, signs="*")}),
        Row(("c",)),
    )
    table = Table(("run",), (Column("d", "lower", 3, signed=True),), shown, notes=("*: beyond chance",))
    lines = table.markdown().splitlines()
    assert lines[2:5] == [
        "| a | **0.000** [-0.500, +0.333] |",
        "| b | <u>+0.667</u>\\* ± 0.125 |",
        "| c |  |",
    ]
    assert lines[-1] == "\\*: beyond chance."
    tex = table.latex("tab:d")
    assert r"a & \textbf{0.000} {[}$-$0.500, +0.333{]} \\" in tex
    assert r"b & \underline{+0.667}\textsuperscript{{*}} $\pm$ 0.125 \\" in tex
    assert r"\label{tab:d}" in tex


def parsed(tex):
    """The rows of the one tabular of a text, as cells; every rule of the syntax that such a text can break is checked.

    Environments nest, braces and dollars pair, and only the commands that a preamble with booktabs knows occur.
    """
    tex = re.sub(r"(?<!\\)%.*", "", tex)
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", tex):
        stack.append(name) if kind == "begin" else None
        assert kind == "begin" or stack.pop() == name
    assert stack == []
    bare = re.sub(r"\\[\\&%$#_{}]", "", tex)
    depth = 0
    for c in bare:
        depth += {"{": 1, "}": -1}.get(c, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert "_" not in bare
    assert "^" not in re.sub(r"\$\^(\\circ|2)\$", "", bare)
    assert "#" not in bare
    assert "~" not in bare
    known = "begin end toprule midrule bottomrule centering caption label textbf underline textsuperscript footnotesize"
    known += (
        " linewidth uparrow downarrow pm ldots rightarrow times approx cdot circ dagger ddagger textless textgreater"
    )
    known += " textbar textbackslash textasciitilde textasciicircum"
    assert set(re.findall(r"\\([A-Za-z]+)", tex)) <= set(known.split())
    (kinds, body) = re.search(r"\\begin\{tabular\}\{([lr]+)\}(.*)\\end\{tabular\}", tex, re.DOTALL).groups()
    rows = [
        line for line in body.strip().splitlines() if not line.startswith((r"\toprule", r"\midrule", r"\bottomrule"))
    ]
    assert all(line.endswith(r" \\") for line in rows)
    cells = [re.split(r"(?<!\\)&", line.removesuffix(r"\\")) for line in rows]
    assert {len(line) for line in cells} == {len(kinds)}
    assert all(line[0].lstrip()[:1] not in ("[", "*") for line in cells)  # would be an argument of the line break
    return cells


def hostile(names):
    rows = tuple(Row((name, "x"), {"acc %_": Number(k, sd=1.0)}, str(k % 2)) for k, name in enumerate(names))
    return Table(
        ("name & co", "x"), (Column("acc %_"), Column("of [1]", published=True)), rows, "50% of_{it}", ("a_b",)
    )


def test_hostile_names_stay_in_their_cells():
    cells = parsed(hostile(HOSTILE).latex("tab:a b}%"))
    assert len(cells) == 1 + len(HOSTILE)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_any_name_stays_in_its_cell(names):
    assert len(parsed(hostile(names).latex())) == 1 + len(names)
    lines = [line for line in hostile(names).markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(names)
    assert all(len(re.split(r"(?<!\\)\|", line)) == 6 for line in lines)


def test_text_that_is_shown_as_it_is():
    assert latex_text(r"a\b") == r"a\textbackslash{}b"
    assert latex_text("日🙂") == "U+65E5U+1F642"
    assert latex_text("naïve ﬁt") == "naïve fit"
    assert markdown_text("a\\|b") == "a\\\\\\|b"
    assert markdown_text("<script>&") == "\\<script\\>&amp;"


def test_an_unknown_direction_is_one_line():
    with pytest.raises(KDScopeError, match="unknown direction 'up' in column 'acc'; nearest: higher"):
        Column("acc", "up")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.slow
def test_latex_itself_takes_it(tmp_path):
    if subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("needs booktabs")
    (tmp_path / "table.tex").write_text(hostile(HOSTILE).latex("tab:x"), encoding="utf-8")
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}\end{document}"
    (tmp_path / "page.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").stat().st_size > 10_000
