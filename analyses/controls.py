"""Is it what the paper says it is? What each control arm of a method gains over the student alone, and what the method
gains over each arm: the share of the gain that the arm explains.

An arm changes one thing and keeps the rest (docs/controls.md says which). If it gains as much as the method, that one
thing does not matter. Everything is paired by seed and by image; where the method itself gains nothing beyond chance,
there is nothing to explain, and the report says so instead of dividing by it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses.base import Report, analysis
from kdscope.analyses.comparison import Arm, arms_of, compared, comparison, references_of
from kdscope.analyses.options import texts
from kdscope.errors import KDScopeError
from kdscope.measures.explained import Share, share_explained
from kdscope.sources import Subject


@analysis(
    "controls",
    summary="How much of a method's gain do its control arms explain?",
    citation="the share is that of mediation (MacKinnon, Annu. Rev. Psychol. 2007); intervals as in comparison",
)
def controls(
    subjects: Sequence[Subject],
    *,
    method: str = "",
    alone: str = "none",
    splits: Sequence[str] | str = "test",
    view: str = "none",
    confidence: float = 0.95,
) -> Report:
    """Accuracy of each arm, its difference to the student alone and to the method, and the share that it explains.

    Args:
        method: name of the way of training whose controls the others are.
        alone: the way of training without a teacher.
        splits, view, confidence: as in `comparison`.

    Returns:
        The rows of `comparison` against `alone` and `method`, and of measure "share-explained" one for each arm: value
        (arm - alone) / (method - alone) with its interval; NaN where the method does not differ from `alone`. Column
        `gain` has method - alone; where it is negative, the shares are of a loss.

    Raises:
        KDScopeError: no such way of training (with the nearest), arms without a seed in common.
    """
    if not method:
        raise KDScopeError("controls of what? name the method: --option method=NAME (as its runs are called)")
    asked = {"splits": splits, "view": view, "confidence": confidence}
    report = comparison(subjects, against=[alone, method], **asked)
    members, _ = compared(subjects)
    rows: list[dict[str, Any]] = []
    for split in texts(splits):
        arms = arms_of(members, split, view, confidence)
        floor, whole = references_of(arms, [alone, method])
        found = {arm.name: _share(floor, arm, whole, confidence) for arm in arms if arm not in (floor, whole)}
        rows += [_row(name, share, floor, whole, split, view, confidence) for name, share in found.items()]
    table = pd.concat([report.table, pd.DataFrame(rows)], ignore_index=True)
    table["analysis"] = "controls"
    return Report(table, short(table, floor.name, whole.name), (verdict(table, whole.name), *report.notes[1:]))


def _share(alone: Arm, arm: Arm, method: Arm, confidence: float) -> tuple[Share, int]:
    """Over the seeds that all three have."""
    seeds = [seed for seed in arm.results if seed in alone.results and seed in method.results]
    if not seeds:
        raise KDScopeError(f"{arm.name}, {alone.name} and {method.name} have no seed in common")
    values = (np.stack([each.results[seed].per_sample for seed in seeds]) for each in (alone, arm, method))
    return share_explained(*values, confidence=confidence), len(seeds)


def _row(
    name: str, found: tuple[Share, int], alone: Arm, method: Arm, split: str, view: str, confidence: float
) -> dict[str, Any]:
    share, seeds = found
    images = len(next(iter(alone.results.values())).per_sample)
    return {
        "measure": "share-explained", "definition": "kdscope", "a": method.name, "b": name, "layer": "",
        "split": split, "view": view, "value": share.value, "ci_low": share.ci_low, "ci_high": share.ci_high,
        "floor": 0.0, "ceiling": 1.0, "n": images, "seed": "all", "seeds": seeds, "confidence": confidence,
        "p_value": share.p_value, "gain": share.gain,
        "control": f"gain of {method.name} over {alone.name}: {100 * share.gain:+.1f} points",
    }  # fmt: skip


def short(table: pd.DataFrame, alone: str, method: str) -> pd.DataFrame:
    """A row for each way of training, in % and points: accuracy, less the student alone, the method less it, share."""
    table = table.assign(seed=table["seed"].astype(str))
    lines = []
    for split in dict.fromkeys(table["split"]):
        own = table[table["split"] == split]
        accuracy = own[own["measure"] == "accuracy"]
        several = accuracy.groupby("b")["seed"].transform(lambda seeds: (seeds == "all").any()).astype(bool)
        for one in accuracy[~several | (accuracy["seed"] == "all")].itertuples():
            share = own[(own["measure"] == "share-explained") & (own["b"] == one.b)]
            lines.append(
                {
                    "arm": one.b,
                    "accuracy %": _interval(one, 100, ".1f"),
                    "arm - alone": _difference(own, alone, one.b),
                    "method - arm": _difference(own, one.b, method),
                    "share explained": _interval(share.iloc[0], 1, ".2f") if len(share) else "",
                }
            )
    return pd.DataFrame(lines)


def _difference(rows: pd.DataFrame, a: str, b: str) -> str:
    """b less a over all seeds, whichever way round the table has it."""
    rows = rows[(rows["measure"] == "accuracy-difference") & rows["p_holm"].notna()]
    for first, second, sign in ((a, b, 1), (b, a, -1)):
        found = rows[(rows["a"] == first) & (rows["b"] == second)]
        if len(found):
            row = found.iloc[0]
            low, high = sorted((sign * row.ci_low, sign * row.ci_high))
            return f"{100 * sign * row.value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return ""


def _interval(row: Any, scale: float, form: str) -> str:
    if pd.isna(row.value):
        return "no gain to share"
    return f"{scale * row.value:{form}} [{scale * row.ci_low:{form}}, {scale * row.ci_high:{form}}]"


def verdict(table: pd.DataFrame, method: str) -> str:
    """What the shares say, in one sentence."""
    shares = table[table["measure"] == "share-explained"]
    gain = f"{shares['control'].iloc[0]}" if len(shares) else f"{method} has no arms"
    if shares["value"].isna().any():
        return f"{gain}, not beyond chance (p = {shares['p_value'].iloc[0]:.2f}): nothing to explain at this scale"
    if shares["gain"].iloc[0] < 0:
        gain += ", which is a loss beyond chance: the shares are of that loss"
    whole = [row.b for row in shares.itertuples() if row.ci_low <= 1 <= row.ci_high or row.value >= 1]
    if whole:
        return f"{gain}; as much as the method, or not to be told from it: {', '.join(whole)}"
    return f"{gain}; no arm explains all of it"
