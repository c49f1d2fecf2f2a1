"""What papers print: their numbers as tidy tables, drawn and correlated without a single run.

`kdscope figures NAME --published` is this. The numbers lie in `studies/published/NAME.yaml`, with their source.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pandas as pd
import yaml

from kdscope.errors import unknown
from kdscope.figures import draw
from kdscope.figures.rethinkkd_rows import DATASETS, RELATIONS, correlation, pairs
from kdscope.files import write_text
from kdscope.measures.claim import average_centred, centred_p, verdict
from kdscope.measures.result import COLUMNS

# What two independent maps score by the code of the paper: smooth noise of 7 x 7 positions, cut at 0.4 of its range,
# pooled over images.
CHANCE_IOU = 0.563
LEGEND = "Sw, Ss: r among students of one augmentation; centred: r less each group's mean, p_c its p-value"
FEW = (
    "a dataset has 8 trials of one seed each: within groups nothing below |r| = 0.75 differs from chance (p < 0.05), "
    "so what is not shown is not refuted either"
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
    students of one augmentation), centred (r after each group's mean was taken off), centred_p, degrees (of freedom).
    """
    rows = []
    for relation in RELATIONS:
        about = {"panel": relation.stem, "x": relation.x, "y": relation.y, "claimed": relation.claimed}
        for definition in dict.fromkeys(table["definition"]):
            for dataset in DATASETS:
                both = pairs(table, relation, dataset, definition)
                if both.empty:
                    continue
                found = correlation(both)
                p = centred_p(found.centred, found.n, found.groups)
                within = {f"within_{name}": found.within.get(name) for name in ("Sw", "Ss")}
                pooled = {"n": found.n, "r": found.r, "rho": found.rho, "p": found.p}
                left = {"centred": found.centred, "centred_p": p, "degrees": found.n - found.groups - 1}
                rows.append(about | {"definition": definition, "dataset": dataset} | pooled | within | left)
    return pd.DataFrame(rows)


def claims(found: pd.DataFrame) -> Iterator[str]:
    """A line for each claim and definition that says whether it survives within groups, all datasets together."""
    for relation in RELATIONS:
        rows = found[found["panel"] == relation.stem]
        for definition, own in rows.groupby("definition", sort=False):
            if relation.claimed is None:
                continue
            r, p = average_centred(own["centred"], own["degrees"])
            pooled = ", ".join(f"{value:.2f}" for value in own["r"])
            yield (
                f"{relation.place} ({definition}): {relation.says} ({relation.x} and {relation.y} "
                f"{'+' if relation.claimed > 0 else '-'}). Over all trials r = {pooled}; among students of one "
                f"augmentation r = {r:.2f} over {len(own)} datasets, p = {p:.2g}: {verdict(relation.claimed, r, p)}"
            )


def draw_published(name: str, out: Path) -> Published:
    """Write the table, its correlations, the claims and all figures of a paper's own numbers into `out`."""
    table, missing = read_published(name)
    found = correlations(table)
    notes = (*claims(found), FEW, f"published as images only, and so not drawn: {'; '.join(missing)}")
    files = [out / f"{name}.csv", out / f"{name}-correlations.csv", out / f"{name}-claims.txt"]
    texts = (table.to_csv(index=False), found.to_csv(index=False), "\n".join(notes) + "\n")
    for path, text in zip(files, texts, strict=True):
        write_text(path, text)
    return Published(table, found, notes, (*files, *draw(table, out)))


def _folder():
    return resources.files("kdscope.analyses") / "studies" / "published"
