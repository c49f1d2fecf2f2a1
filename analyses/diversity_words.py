"""The few rows of `kdscope analyze diversity` for a terminal, and what must be said with them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

TITLES = {
    "disagreement": "disagreement, %",
    "ensemble-gain": "gain on mean member, %",
    "ensemble-gain-best": "gain on best member, %",
    "predictive-entropy": "entropy, nats",
    "accuracy-shift": "accuracy shift, %",
    "affinity": "affinity",
    "view-diversity": "diversity",
}


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """All seeds together where there are several, else each training, the controls included."""
    keys = ["measure", "definition", "pair", "role", "group", "split", "shown"]
    keyed = table[keys].fillna("").agg("\0".join, axis=1)
    together = set(keyed[table["seed"] == "all"])
    return table[(table["seed"] == "all") | ~keyed.isin(together)]


def short(table: pd.DataFrame) -> pd.DataFrame:
    """A row of text for each headline number of trained networks."""
    lines = []
    rows = headline(table)
    for row in rows[rows["role"] != "random-init"].itertuples():
        title = TITLES[row.measure] + (f" ({row.definition})" if row.definition != "kdscope" else "")
        say = _percent if title.endswith("%") else _number
        who = f"{row.a} / {row.b}" if row.measure == "disagreement" else row.b
        lines.append({
            "what": title, "of": who, "split": row.split, "view": row.view,
            "value": f"{say(row.value)} [{say(row.ci_low)}, {say(row.ci_high)}]",
            "floor": say(row.floor), "ceiling": say(row.ceiling),
        })  # fmt: skip
    return pd.DataFrame(lines, columns=["what", "of", "split", "view", "value", "floor", "ceiling"])


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.1f}"


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def verdicts(table: pd.DataFrame, views: Sequence[str], published: bool) -> list[str]:
    """What the numbers say, and what they do not."""
    rows, said = headline(table), []
    for row in rows[rows["pair"] == "teacher-teacher"].itertuples():
        beside = row.control.split(";")[0].removeprefix("floor: ")
        said.append(f"{row.a} and {row.b} disagree on {row.value:.1%} of {row.split}; {beside}: {row.floor:.1%}")
    for row in rows[(rows["measure"] == "ensemble-gain-best") & (rows["pair"] == "ensemble")].itertuples():
        sure = "" if row.ci_low > 0 or row.ci_high < 0 else ", which may be noise"
        said.append(
            f"{row.b} on {row.split}: {100 * row.value:+.1f} points beside its best member{sure} "
            "(picked on the same images: it errs low)"
        )
    if not (rows["pair"] == "teacher-teacher").any():
        said.append("no student here has two teachers: of teachers, only seeds can be compared")
    if not views:
        return said
    of_view = table[table["pair"] == "view"]
    if not len(of_view):
        said.append(f"no cache holds the views {', '.join(views)}: extract them, or give runs")
        return said
    sound = of_view[(of_view["measure"] == "affinity") & (of_view["definition"] == "kdscope")]
    if not len(sound):
        said.append(
            "no network here was trained on clean images, which the affinity of a view is measured by; add such a run "
            "(augment none), or read the shift of each network's accuracy"
        )
    elif (sound["trained"] == "").any():
        said.append("affinity assumes training on clean images; of caches alone that is not known")
    if published:
        said.append(
            "affinity by guo2024-code is measured by the trained network itself: it says how that network bears the "
            "view, and compares no two views"
        )
    loss = of_view[of_view["measure"] == "view-diversity"]
    if len(loss):
        said.append(
            "diversity is the loss of one network on augmented over clean training images; in the paper each loss is "
            "that of a network trained on those images (column trained)"
        )
    return said
