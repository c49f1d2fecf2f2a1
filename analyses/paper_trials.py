"""The study of Guo et al. (arXiv 2405.00739) from own runs, beside the published numbers: tables, figures and claims.

`kdscope figures rethinkkd --study FOLDER`, and the end of `kdscope study run rethinkkd`, are this. It reads the tables
that the study's analysis `trials` left, and what plan.yaml says of each run.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from kdscope.analyses.paper_contrasts import ORDER, contrasts
from kdscope.analyses.papers import PAPERS
from kdscope.analyses.published import claims, correlations, read_published
from kdscope.errors import KDScopeError
from kdscope.figures import draw
from kdscope.figures.gallery import gallery
from kdscope.figures.pictures import read_pictures
from kdscope.figures.style import read_table, save
from kdscope.files import write_text
from kdscope.measures.result import COLUMNS

LETTERS = {"weak": "w", "strong": "s"}
METHODS = {"kd": "vKD", "kd-half": "hKD", "kd-z": "zKD"}
NAMES = {"threshold-iou": "attention-iou", "predictive-entropy": "entropy"}
SHOWN = {"1T": "1 teacher, TwSs", "vKD": "2 teachers, T1sT2wSs", "3T": "3 teachers, T1sT2wT3wSs"}  # of table G.5
RULE = "T1, T2: teachers, by the augmentation of their training; students by their trials; overlap: with the first map"


@PAPERS.register("rethinkkd")
def rethinkkd(folder: Path) -> list[Path]:
    """Write into FOLDER/figures all figures and tables, and into FOLDER claims.csv and claims.md.

    Raises:
        KDScopeError: a folder that holds no study, or none of whose questions `trials` is answered.
    """
    own = study_table(folder)
    table = pd.concat([_named(read_published("rethinkkd")[0]), own], ignore_index=True)
    out = folder / "figures"
    found = correlations(table)
    judged = pd.concat([claims(found), *contrasts(table)], ignore_index=True)
    written = [out / "rethinkkd.csv", out / "rethinkkd-correlations.csv", out / "side-by-side.csv"]
    for path, each in zip(written, (table, found, side_by_side(table)), strict=True):
        write_text(path, each.to_csv(index=False))
    write_text(folder / "claims.csv", judged.to_csv(index=False))
    write_text(folder / "claims.md", _markdown(judged))
    files = [*written, folder / "claims.csv", folder / "claims.md", *draw(table, out), *_overlays(folder, own, out)]
    return files


def study_table(folder: Path) -> pd.DataFrame:
    """The rows of a study's own trials as `kdscope.figures.rethinkkd_rows` tells, a row for each training."""
    if not (folder / "plan.yaml").is_file():
        raise KDScopeError(f"{folder} is not the folder of a study (it has no plan.yaml); it is ROOT/STUDY-SCALE")
    runs = yaml.safe_load((folder / "plan.yaml").read_text(encoding="utf-8"))["runs"]
    tables = [read_table(path) for path in sorted(folder.glob("*/trials.csv"))]
    if not tables:
        raise KDScopeError(f"{folder} has no table of the analysis trials; add it to the study, and run it")
    rows = pd.concat(tables, ignore_index=True).drop_duplicates(["b", "protocol", "measure", "bin_low"])
    about = pd.DataFrame([{"b": name, **_trial(runs, name)} for name in rows["b"].unique() if name in runs])
    if about.empty:
        raise KDScopeError(f"{folder}: the runs of trials.csv are none of plan.yaml")
    rows = rows.merge(about, on="b").assign(analysis="rethinkkd", source="kdscope")
    rows["measure"] = rows["measure"].replace(NAMES)
    rows["definition"] = rows["protocol"]
    columns = [*COLUMNS, "dataset", "trial", "student", "setting", "source", "seed"]
    rows = rows[rows["setting"] != ""][[*columns, "bin_low", "bin_high", "bin_confidence"]]
    order = rows["definition"].map(ORDER.index)
    return pd.concat([rows.loc[order.sort_values(kind="stable").index], _accuracies(rows)], ignore_index=True)


def _trial(runs: dict[str, Any], name: str) -> dict[str, str]:
    """What a run is in the words of the paper; a setting of "" is none of its trials."""
    settings, taught = runs[name]["settings"], runs[name]["learns from"]
    augment = settings["data"]["augment"]
    teachers = [runs[teacher]["settings"]["data"]["augment"] for teacher in taught if teacher in runs]
    setting = METHODS.get(settings["method"], "")
    if setting == "vKD" and settings["model"]["name"].startswith("vit"):
        setting = "ViT"
    elif setting == "vKD" and len(taught) != 2:
        setting = f"{len(taught)}T"
    dataset = settings["data"]["name"].partition(":")[0] if "imagenet" in settings["data"]["name"] else None
    known = {"dataset": dataset or settings["data"]["name"], "setting": setting}
    if augment.startswith("randaugment:") and setting == "vKD":
        step = augment.partition(":")[2]
        return known | {"setting": "graded", "trial": f"M{step}", "student": "graded"}
    if augment not in LETTERS or any(teacher not in LETTERS for teacher in teachers) or len(teachers) < len(taught):
        return known | {"setting": "", "trial": "", "student": ""}
    student = f"S{LETTERS[augment]}"
    numbered = len(teachers) > 1
    letters = "".join(f"T{k + 1 if numbered else ''}{LETTERS[each]}" for k, each in enumerate(teachers))
    return known | {"trial": letters + student, "student": student}


def _accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of table G.5: the mean over seeds of one trial for each number of teachers."""
    made = []
    for setting, text in SHOWN.items():
        own = rows[(rows["measure"] == "accuracy") & (rows["setting"] == setting)]
        own = own[own["trial"] == text.rpartition(" ")[2]]
        for dataset, part in own.groupby("dataset", sort=False):
            about = {"analysis": "rethinkkd", "measure": "accuracy", "definition": "kdscope", "a": "", "split": "test"}
            about |= {"b": f"{text} (kdscope)", "dataset": dataset, "setting": "others", "source": "kdscope"}
            made.append(about | {"value": part["value"].mean(), "n": part["n"].sum()})
    return pd.DataFrame(made, columns=rows.columns if not made else None)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(seed=None)


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each number of a trial: published, by the paper's code definition, and by the sound one.

    Means over `seeds` trainings. Where the paper has other data than the study, `published` is of CIFAR-100, or of its
    long-tailed form for long-tailed data, as `published_on` says.
    """
    rows = table[table["trial"].notna() & table["setting"].ne("graded") & table["measure"].ne("reliability")]
    keys = ["dataset", "setting", "trial", "measure"]
    printed = rows[rows["definition"] == "published"].set_index(keys)["value"]
    own = rows[rows["definition"] != "published"]
    wide = own.pivot_table("value", keys, "definition", sort=False).reindex(columns=["guo2024-code", "kdscope"])
    wide["seeds"] = own.groupby(keys, sort=False)["seed"].nunique()
    wide = wide.reset_index()
    known = set(printed.index.get_level_values("dataset"))
    tailed = wide["dataset"].str.contains("-lt|long-tail")
    like = np.where(wide["dataset"].isin(known), wide["dataset"], np.where(tailed, "cifar100-lt:100", "cifar100"))
    index = pd.MultiIndex.from_arrays([like, *(wide[key] for key in keys[1:])])
    wide["published"] = printed.reindex(index).to_numpy()
    wide["published_on"] = np.where(wide["published"].notna(), like, "")
    return wide[[*keys, "published", "published_on", "guo2024-code", "kdscope", "seeds"]]


def _overlays(folder: Path, own: pd.DataFrame, out: Path) -> list[Path]:
    """Figure 1, left: the maps of teachers and students of a few trials, over the images."""
    runs = yaml.safe_load((folder / "plan.yaml").read_text(encoding="utf-8"))["runs"]
    trials = own.drop_duplicates("b").set_index("b")["trial"].to_dict()
    written = []
    for k, path in enumerate(sorted(folder.glob("*/trials-gallery.npz"))):
        pictures = read_pictures(path)
        names = {}
        for name in pictures.maps:
            taught = [(t, j) for run in runs.values() for j, t in enumerate(run["learns from"]) if t == name]
            augment = runs[name]["settings"]["data"]["augment"] if name in runs else ""
            names[name] = (
                f"T{taught[0][1] + 1}{LETTERS.get(augment, '')}" if taught else _short_trial(trials.get(name, name))
            )
        maps = {names[name]: each for name, each in pictures.maps.items()}
        if len(maps) == len(pictures.maps):
            pictures = replace(pictures, maps=maps, rule=RULE)
        end = f"-{k + 1}" if k else ""
        for stem, over in ((f"rethinkkd-f1-maps{end}", True), (f"rethinkkd-f1-cells{end}", False)):
            if over and not pictures.images.size:
                continue
            written += save(gallery(pictures, over), out, stem)
    return written


def _short_trial(trial: str) -> str:
    """T1sT2wSs as sw-Ss."""
    return (
        f"{''.join(part for part in trial[:-2] if part in 'ws')}-{trial[-2:]}" if trial[-2:] in ("Sw", "Ss") else trial
    )


def _markdown(judged: pd.DataFrame) -> str:
    own = judged[judged["definition"] != "published"]
    lines = ["# Claims", "", "Published numbers are of the paper's data, the others of this study's runs.", ""]
    lines += [
        f"Of {len(own)} own intervals of 95 %, {len(own) / 20:.1f} would miss 0 if nothing were related. A claim",
        "survives where the relation is there within groups (or the mean difference is), it does not where one as",
        "strong as the published one (0.5 where none was printed) is excluded, and else it cannot be told. Within",
        "groups numbers vary less, which by itself makes a correlation smaller. With three seeds or more, each seed of",
        "a dataset is one observation, for its trainings share teachers; with fewer each trial is one, and what",
        "survives may be of those few teachers alone.", "",
    ]  # fmt: skip
    lines += ["| claim | where | by | verdict | n | |", "|---|---|---|---|---|---|"]
    for row in judged.itertuples():
        lines.append(f"| {row.claim} | {row.place} | {row.definition} | {row.verdict} | {row.n} | {row.detail} |")
    return "\n".join(lines) + "\n"
