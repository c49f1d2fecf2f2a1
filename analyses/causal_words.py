"""What the table of `causal` says in a few rows and lines."""

import pandas as pd

MODES = ("deletion", "insertion")
NAMES = {"other-image": "the map of another image", "smooth-random": "random masks as smooth"}


def short(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each network, map and mask: deletion (lower is better) and insertion (higher is)."""
    rows = table[table["measure"].isin([f"{mode}-auc" for mode in MODES]) & _alone(table)]
    lines = []
    for (b, layer, a, by), group in rows.groupby(["b", "layer", "a", "by"], sort=False):
        by_measure = group.drop_duplicates("measure").set_index("measure")
        line = {"network": b, "map": layer, "by": f"{by}: {a}" if by == "teacher" else by}
        for mode in MODES:
            row = by_measure.loc[f"{mode}-auc"]
            line[f"{mode} AUC"] = f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"
        lines.append(line)
    return pd.DataFrame(lines)


def notes(table: pd.DataFrame) -> list[str]:
    """What must be said with the table, one line each."""
    said = []
    rows = table[_alone(table)]
    for row in rows[(rows["measure"] == "converged") & (rows["value"] < 1)].itertuples():
        said.append(f"{row.b}, {row.layer}: {1 - row.value:.1%} of attributions did not converge, and are left out")
    for row in rows[(rows["measure"] == "energy-inside") & (rows["excluded"] > 0)].itertuples():
        images = f"{row.excluded} of {row.n + row.excluded} images"
        said.append(f"{row.b}, {row.layer}: the energy inside the mask leaves out {images} ({row.left_out})")
    for row in rows[(rows["measure"] == "deletion-auc") & rows["by"].isin(["own", "teacher"])].itertuples():
        whose = "its own map" if row.by == "own" else f"the map of {row.a}"
        gain = f"{row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]"
        verdict = "more than random masks" if row.gain_low > 0 else "no more than random masks: not called causal"
        said.append(f"{row.b}, {row.layer}: deleting by {whose} takes {gain} of probability, {verdict}")
    own = rows[(rows["measure"] == "deletion-gain") & (rows["by"] == "own") & rows["against"].isin(NAMES)]
    for row in own[~(own["ci_low"] > 0)].itertuples():
        said.append(f"{row.b}, {row.layer}: its own map deletes no more than {NAMES[row.against]}")
    if not (table["measure"] == "baseline-overlap").any():
        said.append("one baseline of the paths: baselines=all shows how far the maps depend on it")
    return said


def _alone(table: pd.DataFrame) -> pd.Series:
    """Rows of one training at its end."""
    return (table["seed"] != "all") & table["epoch"].isna()
