"""What papers print: their numbers as tidy tables, drawn and correlated without a single run.

`kdscope figures NAME --published` is this. The numbers lie in `studies/published/NAME.yaml`, with their source.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from kdscope.errors import unknown
from kdscope.figures import draw
from kdscope.figures.rethinkkd_rows import RELATIONS, correlation, datasets, pairs
from kdscope.files import write_text
from kdscope.measures.claim import average_centred, average_over_seeds, centred_p, verdict
from kdscope.measures.correlation import FEWEST
from kdscope.measures.result import COLUMNS

# What two independent maps score by the code of the paper: smooth noise of 7 x 7 positions, cut at 0.4 of its range,
# pooled over images.
CHANCE_IOU = 0.563
LARGE, LEAST = 0.5, 0.1  # a correlation that matters where none was published; one that is as good as none
CLAIM = ("claim", "verdict", "detail", "n", "definition", "place")
NETWORKS = {"ViT": " (vision transformers)", "3T": " (three teachers)"}
LEGEND = "Sw, Ss: r among students of one augmentation; centred: r less each group's mean, p_c its p-value"
FEW = (
    "a dataset has 8 trials of one seed each: within groups nothing below |r| = 0.75 differs from chance (p < 0.05). A "
    "claim survives where the relation is there within groups; it does not where a relation as strong as the published "
    "one over all trials is excluded there; else it cannot be told. Within groups numbers vary less, which by itself "
    "makes a correlation smaller"
)
SPLITS = {"accuracy-gap": "train-test", "agreement": "train", "attention-iou": "train", "ece": "train"}  # else test
SHOWN = {
    "r": "r",
    "rho": "rho",
    "p": "p",
    "within_Sw": "Sw",
    "within_Ss": "Ss",
    "centred": "centred",
    "centred_p": "p_c",
}


@dataclass(frozen=True)
class Published:
    """What was made of published numbers: the table, its correlations, what must be said, and the files."""

    table: pd.DataFrame
    correlations: pd.DataFrame
    notes: tuple[str, ...]
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        rows = self.correlations
        shown = rows[["panel"]].assign(pair=rows["x"] + " ~ " + rows["y"], dataset=rows["dataset"])
        shown = shown.join(rows[[*SHOWN]].rename(columns=SHOWN))
        text = shown.to_string(index=False, float_format="{:.3f}".format, na_rep="-")
        return "\n".join([text, LEGEND, *(f"- {note}" for note in self.notes)])


def names() -> list[str]:
    """The papers whose numbers are there."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml"))


def read_published(name: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The numbers of a paper, one a row, and what it published as images only.

    The columns are `COLUMNS` (definition "published", a the teachers, b the trial) and dataset, trial, student (Sw or
    Ss), setting and source. No interval, floor or number of images was published; the floor of the IoU is ours.

    Raises:
        KDScopeError: a name of which no numbers are there.

    >>> table, _ = read_published("rethinkkd")
    >>> len(table), *table.loc[0, ["dataset", "trial", "measure"]], float(table.loc[0, "value"])
    (254, 'cifar100', 'T1wT2wSw', 'affinity', 0.9807)
    """
    if name not in names():
        raise unknown("paper with published numbers", name, names())
    known = yaml.safe_load((_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    rows = []
    for group in known["tables"]:
        about = {"measure": group["measure"], "dataset": group["dataset"], "setting": group["setting"]}
        about |= {"split": SPLITS.get(group["measure"], "test"), "source": f"{known['paper']}, {group['where']}"}
        if about["measure"] == "attention-iou" and about["setting"] == "vKD":
            about["floor"] = CHANCE_IOU
        for trial, value in zip(known["trials"], group["values"], strict=True):
            teachers, student = trial[:-2], trial[-2:]
            view = "strong" if student == "Ss" else "weak"
            rows.append(
                about | {"a": teachers, "b": trial, "trial": trial, "student": student, "view": view, "value": value}
            )
    for method, values in known["others"].items():
        about = {"measure": "accuracy", "setting": "others", "split": "test", "source": f"{known['paper']}, table G.5"}
        rows += [
            about | {"a": "", "b": method, "dataset": dataset, "value": value} for dataset, value in values.items()
        ]
    table = pd.DataFrame(rows).assign(analysis=name, definition="published")
    table = table.reindex(columns=[*COLUMNS, "dataset", "trial", "student", "setting", "source"])
    return table.astype(dict.fromkeys(("ci_low", "ci_high", "ceiling", "n"), float)), tuple(known["images_only"])


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Each relation of the paper on each dataset by each definition: pooled, and what is left within groups.

    Columns: panel, x, y, claimed (1, -1 or NaN), definition, dataset, n, r, rho, p, within_Sw, within_Ss (r among the
    students of one augmentation), centred (r after each group's mean was taken off), centred_p, degrees (of freedom),
    by_seed (the centred r of the trials of each seed by itself; empty where there are no seeds).
    """
    rows = []
    for relation in RELATIONS:
        about = {"panel": relation.stem, "x": relation.x, "y": relation.y, "claimed": relation.claimed}
        for definition in dict.fromkeys(table["definition"]):
            for dataset in datasets(table["dataset"].dropna()):
                both = pairs(table, relation, dataset, definition)
                if both.empty:
                    continue
                found = correlation(both)
                p = centred_p(found.centred, found.n, found.groups)
                within = {f"within_{name}": found.within.get(name) for name in ("Sw", "Ss")}
                pooled = {"n": found.n, "r": found.r, "rho": found.rho, "p": found.p}
                left = {"centred": found.centred, "centred_p": p, "degrees": found.n - found.groups - 1}
                seeds = both.groupby("seed") if "seed" in both else ()
                left["by_seed"] = " ".join(f"{correlation(own).centred:.4f}" for seed, own in seeds if seed != "")
                rows.append(about | {"definition": definition, "dataset": dataset} | pooled | within | left)
    return pd.DataFrame(rows)


def claims(found: pd.DataFrame) -> pd.DataFrame:
    """Each claimed relation by each definition: does it survive within groups, all datasets together?

    Trainings of one seed share teachers, so that with three seeds of a dataset or more, each seed of each is one
    observation. With fewer, each trial is one, for want of better.

    The columns are claim, verdict, detail, n (trainings), definition and place. The size that a claim must have, to be
    told from none, is that of the published correlation over all trials, or 0.5 where none was published.
    """
    rows = []
    for relation in RELATIONS:
        own = found[found["panel"] == relation.stem] if len(found) else found
        sizes = own[own["definition"] == "published"]["r"] * (relation.claimed or 0) if len(own) else []
        size = max(float(np.mean(sizes)), LEAST) if len(sizes) else LARGE
        for definition, group in own.groupby("definition", sort=False) if len(own) and relation.claimed else ():
            seeds = [[float(r) for r in each.split()] for each in group["by_seed"]]
            several = min(map(len, seeds)) >= FEWEST
            if several:
                r, p, low, high = average_over_seeds([r for each in seeds for r in each])
            else:
                r, p, low, high = average_centred(group["centred"], group["degrees"])
            pooled = ", ".join(f"{value:.2f}" for value in group["r"])
            sign = "positive" if relation.claimed > 0 else "negative"
            where = f"{len(group)} dataset{'s' if len(group) > 1 else ''}"
            where += f", {max(map(len, seeds))} seeds" if several else ""
            inside = f"r = {r:.2f} [{low:.2f}, {high:.2f}] over {where}, p = {p:.2g}"
            inside = f"nothing varies, or there are too few ({where})" if np.isnan(r) else inside
            detail = (
                f"{relation.x} and {relation.y}, claimed {sign}. Over all trials r = {pooled}; among students of one "
                f"augmentation {inside}"
            )
            rows.append({
                "claim": relation.says + NETWORKS.get(relation.setting, ""),
                "verdict": verdict(relation.claimed, low, high, size), "detail": detail, "n": int(group["n"].sum()),
                "definition": definition, "place": relation.place,
            })  # fmt: skip
    return pd.DataFrame(rows, columns=[*CLAIM])


def said(judged: pd.DataFrame) -> Iterator[str]:
    """A line for each claim."""
    for row in judged.itertuples():
        yield f"{row.place} ({row.definition}): {row.claim}. {row.detail}: {row.verdict}"


def draw_published(name: str, out: Path) -> Published:
    """Write the table, its correlations, the claims and all figures of a paper's own numbers into `out`."""
    table, missing = read_published(name)
    found = correlations(table)
    judged = claims(found)
    notes = (*said(judged), FEW, f"published as images only, and so not drawn: {'; '.join(missing)}")
    files = [out / f"{name}{end}" for end in (".csv", "-correlations.csv", "-claims.csv", "-claims.txt")]
    texts = (*(each.to_csv(index=False) for each in (table, found, judged)), "\n".join(notes) + "\n")
    for path, text in zip(files, texts, strict=True):
        write_text(path, text)
    return Published(table, found, notes, (*files, *draw(table, out)))


def _folder():
    return resources.files("kdscope.analyses") / "studies" / "published"
