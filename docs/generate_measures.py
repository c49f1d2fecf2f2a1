"""Writes the part of docs/measures.md that is of detectors, from the cards of their numbers.

`python docs/generate_measures.py` (`--check` only compares).
"""

import math
import sys
from pathlib import Path

from kdscope.detection.measures.cards import CARDS, DetectionCard
from kdscope.measures.base import INVARIANCES

PAGE = Path(__file__).with_name("measures.md")
START, END = "<!-- detectors: written by docs/generate_measures.py -->", "<!-- end of detectors -->"
HEAD = """
# Detectors: `kdscope analyze detection`, `detection-attention`, `detection-outcomes`, `detection-patch-in`

What each number is, what it can be, which way is better or more alike, and what does not change it; tests are made from
the same cards. How they are asked for and read is in [detection](detection.md). Images are resampled, the same ones for
all networks, and several trainings are taken together by Student's t, inside of the range. What a number is where
nothing is in common depends on the data, and the floors say it, unless a null is given.
"""


def page(text: str) -> str:
    """The page, with the part between the marks written anew."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{_part()}\n{END}{rest.partition(END)[2]}"


def _part() -> str:
    lines = [HEAD]
    for family in dict.fromkeys(card.family for card in CARDS.values()):
        lines += [f"## {family}\n", "| number | what it is | range | | not changed by |", "|---|---|---|---|---|"]
        lines += [_row(card) for card in CARDS.values() if card.family == family]
        lines.append("")
    used = dict.fromkeys(each for card in CARDS.values() for each in card.invariances)
    lines.append("Not changed by: " + "; ".join(f"{name}: {INVARIANCES[name]}" for name in used) + ".")
    return "\n".join(lines)


def _row(card: DetectionCard) -> str:
    low, high = ("∞" if math.isinf(end) else f"{end:g}" for end in card.range)
    unit = "" if card.unit == "share" else f" {card.unit}"
    null = "" if card.null is None else f"; null {card.null:g}"
    better = "better" if card.against == "truth" else "more alike"
    way = f"{card.direction} is {better}" if card.direction != "none" else ""
    what = f"{card.title}. {card.text} {card.citation}."
    cells = [f"`{card.name}`", what, f"{low} to {high}{unit}{null}", way, ", ".join(card.invariances)]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    there = PAGE.read_text()
    if "--check" in sys.argv:
        sys.exit(0 if there == page(there) else "docs/measures.md is not what the cards of detectors say now")
    PAGE.write_text(page(there))
