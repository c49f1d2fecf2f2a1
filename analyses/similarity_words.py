"""What a terminal says of similarity: a line for each student and teacher, and what must be said with it."""

import math

import pandas as pd

from kdscope.analyses.cast import TAUGHT

DOMINANT = 0.5  # of a layer's variance on one axis
HIGH_FLOOR = 0.05
NAMED = 4  # layers that a line names


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last layers of each student and teacher, all seeds together where there are several."""
    rows = table[table["pair"].isin(TAUGHT) & table["epoch"].isna()]
    several = rows.groupby(["group", "a_group", "split"])["seed"].transform(lambda seeds: (seeds == "all").any())
    rows = rows[~several.astype(bool) | (rows["seed"] == "all")]
    last = rows.groupby(["split", "b", "a"])[["layer_a", "layer_b"]].transform("last")
    return rows[(rows["layer_a"] == last["layer_a"]) & (rows["layer_b"] == last["layer_b"])]


def short(table: pd.DataFrame) -> pd.DataFrame:
    """One row of text for each student and teacher (and split, where there are several), of their last layers."""
    lines = []
    for (split, b, a), group in headline(table).groupby(["split", "b", "a"], sort=False):
        by = {(row.measure, row.definition): row for row in group.itertuples()}
        first = group.iloc[0]
        line = {"student": b, "teacher": a, "layers": first.layer, "split": split}
        cka = by.get(("cka", "kdscope"))
        if cka is not None:
            line |= {
                "CKA": f"{_text(cka.value)} [{_text(cka.ci_low)}, {_text(cka.ci_high)}]",
                "floor": _text(cka.floor),
                "ceiling": _text(cka.ceiling),
            }
        for name, title in (("procrustes", "angle"), ("knn-jaccard", "kNN"), ("rsa", "RSA")):
            if (name, "kdscope") in by:
                line[title] = _text(by[name, "kdscope"].value)
        lines.append(line)
    words = pd.DataFrame(lines).fillna("")
    alike = len(words) and words["split"].nunique() == 1
    return words.drop(columns="split") if alike else words  # its numbers need the room


def notes(table: pd.DataFrame) -> list[str]:
    """Constant layers, layers of one dominant axis, high floors, and on how many images the numbers stand."""
    said = []
    final = table[table["epoch"].isna()]
    empty = final[final["n"] == 0]
    if len(empty):
        where = ", ".join(dict.fromkeys(f"{row.layer} ({row.a}, {row.b})" for row in empty.itertuples()))
        said.append(f"a layer is constant, and likeness to it is not defined: {where}")
    own = final[final["pair"].isin(TAUGHT)]
    tops = pd.concat(
        [own[["a", "layer_a", "variance_a"]].set_axis(["who", "layer", "top"], axis=1),
         own[["b", "layer_b", "variance_b"]].set_axis(["who", "layer", "top"], axis=1)]
    ).drop_duplicates(["who", "layer"])  # fmt: skip
    ruled = tops[tops["top"] > DOMINANT].sort_values("top", ascending=False, kind="stable")
    if len(ruled):
        named = ", ".join(f"{row.layer} of {row.who} ({row.top:.0%})" for row in ruled.head(NAMED).itertuples())
        more = f" and {len(ruled) - NAMED} more" if len(ruled) > NAMED else ""
        said.append(
            f"more than {DOMINANT:.0%} of the variance lies on one axis in {named}{more}: CKA says little but whether "
            "that one agrees; see the nearest neighbours"
        )
    shuffled = final[(final["pair"] == "floor:shuffled") & (final["seed"] != "all")]
    for definition, group in shuffled[shuffled["measure"] == "cka"].groupby("definition"):
        worst = group["value"].abs().max()
        if worst > HIGH_FLOOR:
            named = "biased CKA" if definition != "kdscope" else "debiased CKA"
            said.append(f"{named} of shuffled images is up to {worst:.2f} here: give more images")
    counts = final[final["n"] > 0].groupby("measure")["n"].min()
    said.append("images: " + ", ".join(f"{int(n)} for {name}" for name, n in counts.items()))
    return said


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
