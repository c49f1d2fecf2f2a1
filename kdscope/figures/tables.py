"""Tables for a paper: numbers with their intervals, in Markdown and LaTeX (booktabs), the best two of a column marked.

The best is bold, the second best underlined; what is equal as printed is marked alike. Only numbers of one block (such
as students of one architecture) compete, and published ones, which are of other runs, never do.
"""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdscope.errors import unknown

DIRECTIONS = {"higher": 1, "lower": -1, "none": 0}
ARROWS = {"higher": ("↑", r"$\uparrow$"), "lower": ("↓", r"$\downarrow$"), "none": ("", "")}
RANKS = ("best", "second")
MARKED = "Bold: best; underlined: second best; equal numbers are marked alike"
PUBLISHED = "published numbers are of other runs, and do not compete"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}", "*": "{*}", "-": "-", '"': "''", "±": r"$\pm$", "−": "$-$", "–": "--",
    "…": r"\ldots{}", "→": r"$\rightarrow$", "×": r"$\times$", "≈": r"$\approx$", "·": r"$\cdot$", "²": "$^2$",
    "°": r"$^\circ$", "†": r"$\dagger$", "‡": r"$\ddagger$",
}  # fmt: skip

FOREIGN = "ÐðÞþ"  # Latin letters that the oldest fonts lack


@dataclass(frozen=True)
class Number:
    """A value with what is known of its chance: an interval, or a standard deviation; NaN where it is not.

    `signs` refer to footnotes, such as "*" for a difference beyond chance.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    sd: float = math.nan
    signs: str = ""


@dataclass(frozen=True)
class Column:
    """A column of numbers: `direction` says which are better ("higher", "lower", or "none": nothing is marked)."""

    title: str
    direction: str = "higher"
    digits: int = 2
    published: bool = False
    signed: bool = False

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise unknown("direction", self.direction, DIRECTIONS, f"column {self.title!r}")


@dataclass(frozen=True)
class Row:
    """A line: its words, its numbers by the titles of their columns, and the block in which it competes."""

    words: tuple[str, ...]
    numbers: Mapping[str, Number] = field(default_factory=dict)
    block: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under `heads` (of the words) and `columns` (of the numbers), with a caption and footnotes."""

    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    notes: tuple[str, ...] = ()

    def said(self) -> list[str]:
        """The footnotes: what the marks mean, where there are any, and those given."""
        marked = any(rank for column in self.columns for rank in ranks(self.rows, column))
        beside = any(column.published for column in self.columns)
        return [MARKED + (f"; {PUBLISHED}" if beside else "")] * marked + list(self.notes)

    def markdown(self) -> str:
        """As a table of GitHub's Markdown, its caption above and its notes below.

        >>> rows = (Row(("kd",), {"ECE": Number(0.046, sd=0.002)}), Row(("a|b",), {"ECE": Number(0.05)}))
        >>> print(Table(("method",), (Column("ECE", "lower", 3),), rows).markdown())
        | method | ECE ↓ |
        | --- | ---: |
        | kd | **0.046** ± 0.002 |
        | a\\|b | <u>0.050</u> |
        <BLANKLINE>
        Bold: best; underlined: second best; equal numbers are marked alike.
        <BLANKLINE>
        """
        heads = [*map(markdown_text, self.heads), *(_title(column, markdown_text, 0) for column in self.columns)]
        lines = [_pipes(heads), _pipes(["---"] * len(self.heads) + ["---:"] * len(self.columns))]
        lines += [_pipes(cells) for cells in self._cells(_in_markdown, markdown_text)]
        above = [markdown_text(self.caption), ""] if self.caption else []
        notes = [part for note in self.said() for part in ("", f"{markdown_text(note)}.")]
        return "\n".join([*above, *lines, *notes]) + "\n"

    def latex(self, label: str = "") -> str:
        """As a `table` with booktabs, and no other package; `label` is for \\ref."""
        heads = [*map(latex_text, self.heads), *(_title(column, latex_text, 1) for column in self.columns)]
        lines, block = [], None
        for row, cells in zip(self.rows, self._cells(_in_latex, latex_text), strict=True):
            if block not in (None, row.block):
                lines.append(r"\midrule")
            lines.append(f"{' & '.join(cells)} " + r"\\")
            block = row.block
        # In a minipage, for a long note must not make the table wider than its numbers.
        notes = [rf"\\[2pt] \begin{{minipage}}{{0.9\linewidth}}\footnotesize {latex_text('. '.join(self.said()))}."]
        return "\n".join([
            "% needs \\usepackage{booktabs}", r"\begin{table}[t]", r"\centering",
            *([rf"\caption{{{latex_text(self.caption)}}}"] if self.caption else []),
            *([rf"\label{{{re.sub(r'[^A-Za-z0-9:.-]', '-', label)}}}"] if label else []),
            rf"\begin{{tabular}}{{{'l' * len(self.heads)}{'r' * len(self.columns)}}}",
            r"\toprule", f"{' & '.join(heads)} " + r"\\", r"\midrule", *lines, r"\bottomrule", r"\end{tabular}",
            *([*notes, r"\end{minipage}"] if self.said() else []), r"\end{table}", "",
        ])  # fmt: skip

    def _cells(self, number, text) -> list[list[str]]:
        marks = {column.title: ranks(self.rows, column) for column in self.columns}
        return [
            [*map(text, row.words)]
            + [number(row.numbers.get(c.title), c, marks[c.title][k]) for c in self.columns]
            for k, row in enumerate(self.rows)
        ]  # fmt: skip


def ranks(rows: Sequence[Row], column: Column) -> list[str]:
    """For each row "best", "second" or "", among the numbers of its block as they are printed.

    One number alone is not the best of anything, and where all are equal none is marked.

    >>> rows = [Row((), {"acc": Number(value)}) for value in (1.004, 2.0, 1.0, 0.5, math.nan)]
    >>> ranks(rows, Column("acc", digits=2))
    ['second', 'best', 'second', '', '']
    """
    sign = DIRECTIONS[column.direction]
    if not sign or column.published:
        return [""] * len(rows)
    printed = [round(row.numbers[column.title].value, column.digits) + 0.0 if column.title in row.numbers else math.nan
               for row in rows]  # fmt: skip
    found = [""] * len(rows)
    for block in dict.fromkeys(row.block for row in rows):
        own = [k for k, row in enumerate(rows) if row.block == block and not math.isnan(printed[k])]
        levels = sorted({sign * printed[k] for k in own}, reverse=True)
        if len(levels) > 1:
            for rank, level in zip(RANKS, levels, strict=False):
                for k in own:
                    if sign * printed[k] == level:
                        found[k] = rank
    return found


def _printed(value: float, column: Column) -> str:
    text = f"{value:{'+' if column.signed else ''}.{column.digits}f}"
    return text.lstrip("+-") if not float(text) else text  # no -0.00


def _parts(number: Number | None, column: Column) -> tuple[str, str, str]:
    """A number, what is known of its chance, and its signs."""
    if number is None or math.isnan(number.value):
        return "", "", ""
    around = ""
    if not math.isnan(number.low + number.high):
        around = f" [{_printed(number.low, column)}, {_printed(number.high, column)}]"
    elif not math.isnan(number.sd):
        around = f" ± {number.sd:.{column.digits}f}"
    return _printed(number.value, column), around, number.signs


def _in_markdown(number: Number | None, column: Column, rank: str) -> str:
    value, around, signs = _parts(number, column)
    value = {"best": f"**{value}**", "second": f"<u>{value}</u>", "": value}[rank]
    return value + markdown_text(signs) + around


def _in_latex(number: Number | None, column: Column, rank: str) -> str:
    value, around, signs = _parts(number, column)
    value = value.replace("-", "$-$")
    value = {"best": rf"\textbf{{{value}}}", "second": rf"\underline{{{value}}}", "": value}[rank]
    above = rf"\textsuperscript{{{latex_text(signs)}}}" if signs else ""
    return value + above + (" " if around else "") + latex_text(around.replace("-", "−"))


def _title(column: Column, text, kind: int) -> str:
    arrow = ARROWS[column.direction][kind] if not column.published else ""
    return " ".join(part for part in (text(column.title), arrow, "(published)" if column.published else "") if part)


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _one_line(text: str) -> str:
    """Without line breaks and control characters."""
    return " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in str(text)).split())


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table.

    >>> print(markdown_text("a|b *c* <d>"))
    a\\|b \\*c\\* \\<d\\>
    """
    return re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", _one_line(text)).replace("&", "&amp;")


def latex_text(text: str) -> str:
    r"""Text that LaTeX shows as it is, by any engine; letters it may lack become ASCII, or U+ numbers.

    >>> print(latex_text("50% [a_b] & c--d"))
    50\% {[}a\_b{]} \& c-{}-d
    """
    plain = re.sub("(?<=-)-", "\0", _one_line(text))
    return "".join("{}-" if c == "\0" else LATEX.get(c) or _letter(c) for c in plain)


def _letter(c: str) -> str:
    if ord(c) < 128 or (c.isalpha() and ord(c) < 256 and c not in FOREIGN):
        return c
    near = unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()
    return "".join(LATEX.get(n, n) for n in near) or f"U+{ord(c):04X}"
