"""What a terminal says of calibration: a line for each network and temperature, and whether its error is noise."""

import numpy as np
import pandas as pd

SHOWN = {"ece-debiased": "debiased L2", "smooth-ece": "SmoothECE"}


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """The rows by the sound definition, of all seeds together where there are several, else of the only one."""
    rows = table[(table["measure"] != "reliability") & (table["definition"] == "kdscope")]
    several = rows.groupby(["role", "group", "split", "temperature"])["seed"].transform(lambda s: (s == "all").any())
    return rows[~several.astype(bool) | (rows["seed"] == "all")]


def short(table: pd.DataFrame) -> pd.DataFrame:
    """A row of text for each network, split and temperature; errors in %."""
    lines = []
    by_network = headline(table).groupby(["split", "role", "b", "temperature"], sort=False)
    for (split, _, b, temperature), group in by_network:
        by = group.set_index("measure")
        ece = by.loc["ece"]
        shown = {"network": b, "split": split, "T": temperature if temperature == "1" else ece.fitted or "best"}
        shown["ECE %"] = f"{100 * ece.value:.1f} [{100 * ece.ci_low:.1f}, {100 * ece.ci_high:.1f}]"
        shown["calibrated"] = f"{100 * ece.null:.1f}"
        shown |= {title: f"{100 * by.loc[name].value:.1f}" for name, title in SHOWN.items()}
        lines.append(shown | {"NLL": f"{by.loc['nll'].value:.3f}", "Brier": f"{by.loc['brier'].value:.3f}"})
    return pd.DataFrame(lines)


def verdicts(table: pd.DataFrame) -> list[str]:
    """Of each student: whether its ECE is more than noise, and how far from its teacher's."""
    rows = headline(table)
    said = []
    for row in rows[(rows["measure"] == "ece") & (rows["role"] == "student")].itertuples():
        at = "T = 1" if row.temperature == "1" else f"its best T ({row.fitted or 'of each seed'})"
        large = row.ci_low > row.null if row.seeds > 1 else row.p_value <= 0.05
        noise = "more than a calibrated model gets" if large else "no more than a calibrated model gets"
        who = f"{row.b} ({row.seeds} seeds)" if row.seeds > 1 else row.b
        text = f"{who}, on {row.split}, at {at}: ECE {row.value:.3f}, {noise} ({row.null:.3f})"
        if not np.isnan(row.gap):
            sure = "" if row.gap_low > 0 or row.gap_high < 0 else ", which may be noise"
            text += f"; {abs(row.gap):.3f} {'above' if row.gap > 0 else 'below'} {row.a}{sure}"
        said.append(text)
    return said
