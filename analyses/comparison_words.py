"""What a table of `comparison` says in words: a row for each contrast, one sentence, and what must be known with it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdscope.sources import Subject


def over_all(table: pd.DataFrame) -> pd.DataFrame:
    """The rows over all seeds; of what has one alone, that one."""
    several = table.groupby(["measure", "a", "b", "split"])["seed"].transform(lambda seeds: (seeds == "all").any())
    return table[~several.astype(bool) | (table["seed"] == "all")]


def short(table: pd.DataFrame) -> pd.DataFrame:
    """One row of text for each way of training, and one more for each that it is compared with; in % and points.

    `extra` are epochs beside the main ones, `d` is the effect, `MDE` the minimal detectable effect.
    """
    rows = over_all(table)
    splits = rows["split"].unique()
    lines = []
    for split in splits:
        own = rows[rows["split"] == split]
        for one in own[own["measure"] == "accuracy"].itertuples():
            first = {
                "method": one.b,
                **({"split": split} if len(splits) > 1 else {}),
                "accuracy %": f"{100 * one.value:.1f} [{100 * one.ci_low:.1f}, {100 * one.ci_high:.1f}]",
                "extra": "" if math.isnan(one.extra_epochs) else f"{one.extra_epochs:.0f}",
                "time": "" if math.isnan(one.time) else f"{one.time:.2f}",
            }
            contrasts = own[(own["measure"] == "accuracy-difference") & (own["b"] == one.b)]
            told = [_contrast(contrast) for contrast in contrasts.itertuples()] or [_contrast(None)]
            lines += [first | told[0], *(dict.fromkeys(first, "") | more for more in told[1:])]
    return pd.DataFrame(lines)


def _contrast(row: Any) -> dict[str, str]:
    if row is None:
        return dict.fromkeys(("against", "difference", "p", "d", "MDE"), "")
    return {
        "against": row.a,
        "difference": f"{100 * row.value:+.1f} [{100 * row.ci_low:+.1f}, {100 * row.ci_high:+.1f}]",
        "p": "<.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}",
        "d": "" if math.isnan(row.effect) else f"{row.effect:+.1f}",
        "MDE": f"{100 * row.detectable:.1f}",
    }


def verdict(table: pd.DataFrame) -> str:
    """What the table shows, in one sentence.

    >>> columns = ["measure", "a", "b", "split", "seed", "seeds", "value", "p_holm", "detectable", "confidence"]
    >>> rows = [("accuracy-difference", "kd", b, "test", "all", 3, 0.01, 0.4, 0.02, 0.95) for b in ("at", "dkd")]
    >>> verdict(pd.DataFrame(rows, columns=columns))
    'over 3 seeds, no method differs from kd beyond chance; a difference below 2.0 points would mostly have been missed'
    """
    rows = over_all(table)
    rows = rows[rows["measure"] == "accuracy-difference"]
    if not len(rows):
        return "nothing could be compared"
    said, several = [], rows["split"].nunique() > 1
    for split, own in rows.groupby("split", sort=False):
        said.append(f"{'on ' + split + ' ' if several else ''}{_found(own)}")
    seeds, least = _span(rows["seeds"]), _span(100 * rows["detectable"], ".1f")
    return (
        f"over {seeds} seed{'' if seeds == '1' else 's'}, {'; '.join(said)}; "
        f"a difference below {least} points would mostly have been missed"
    )


def _found(rows: pd.DataFrame) -> str:
    """Who differs from whom; what holds beside each reference is said once."""
    groups: dict[tuple, list[str]] = {}
    for reference, own in list(rows.groupby("a", sort=False))[::-1]:  # kd before none
        found = own["p_holm"] < 1 - own["confidence"]
        sides = (tuple(own[found & (own["value"] * sign > 0)]["b"]) for sign in (1, -1))
        groups.setdefault(tuple(sides), []).append(reference)
    said = []
    for (better, worse), references in groups.items():
        words = [
            f"{_listed(names)} {'is' if len(names) == 1 else 'are'} {word} than {_listed(references)}"
            for names, word in ((better, "better"), (worse, "worse"))
            if names
        ]
        rest = rows[rows["a"].isin(references) & ~rows["b"].isin((*better, *worse))]
        if not words:
            words = [f"no method differs from {' or '.join(references)} beyond chance"]
        elif len(rest):
            words.append(
                "no other method differs from " + ("it" if len(references) == 1 else "them") + " beyond chance"
            )
        said.append(" and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}")
    return ", ".join(said)


def caveats(table: pd.DataFrame, members: Mapping[str, Sequence[Subject]]) -> list[str]:
    """How the numbers were got, where the table is not fair, and how rough it is."""
    rows = over_all(table)
    contrasts, arms = rows[rows["measure"] == "accuracy-difference"], rows[rows["measure"] == "accuracy"]
    said = [
        f"difference and p: paired by seed and image, {test}; p after Holm over the methods beside each other one"
        for test in contrasts["test"].unique()
    ]
    if len(contrasts):
        said.append(
            "d: Cohen's d_z over seeds; MDE: minimal detectable effect, a difference that is found four times in five; "
            "extra: epochs beside those of the main training"
        )
    said += _recipes(members)
    said += _efforts(arms)
    fewest = int(contrasts["seeds"].min()) if len(contrasts) else 0
    if fewest == 1:
        said.append("one seed: intervals and p are over images, and say nothing of another training")
    elif fewest == 2:
        said.append("two seeds: chance passes the test more often than it should (up to 11 % of the time for 5 %)")
    if 1 < fewest < 5:
        said.append("fewer than five seeds: the intervals of the accuracies are wide")
    return said


def _recipes(members: Mapping[str, Sequence[Subject]]) -> list[str]:
    """Teacher and headline of all, and in which settings they differ that a fair table holds equal."""
    said = []
    kept = {name: [run.recipe for run in runs if run.recipe] for name, runs in members.items()}
    recipes = {name: found for name, found in kept.items() if found}
    keys = dict.fromkeys(key for found in recipes.values() for recipe in found for key in recipe)
    for key in keys:
        # A training without a teacher has none to differ in; a method's batches may have to be made in its own way.
        values = {name: sorted({str(r[key]) for r in found if key in r}) for name, found in recipes.items()}
        values = {name: value for name, value in values.items() if value}
        if len({tuple(value) for value in values.values()}) > 1:
            if key == "teacher":
                said.append("not one teacher for all: their differences are in the table as well")
                continue
            each = ", ".join(f"{name} {' and '.join(value)}" for name, value in values.items())
            said.append(f"not one recipe: {key} is {each}; that is in the table as well")
    headlines = {recipe["headline"] for found in recipes.values() for recipe in found}
    if len(headlines) == 1:
        said.append(f"accuracy is that of the {headlines.pop()}")
    return said


def _efforts(arms: pd.DataFrame) -> list[str]:
    more = arms[arms["extra_epochs"] > 0]
    said = [
        "extra epochs, beside those of the student: " + "; ".join(f"{row.b} {row.extra}" for row in more.itertuples())
    ] * bool(len(more))
    if arms["time"].notna().any():
        said.append("time is of whole trainings as they ran, over that of kd; what else ran then is in it")
    return said


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _span(values: pd.Series, style: str = ".0f") -> str:
    low, high = (format(value, style) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"
