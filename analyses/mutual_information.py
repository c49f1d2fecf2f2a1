"""How much do the answers of teacher and student tell of each other, and how much of that number is bias?

Guo et al., arXiv 2405.00739, eq. 4. The debiased estimate, and beside it the others, so that one sees what they add;
normalised and adjusted forms; soft labels; between floor and ceiling and over seeds as fidelity is. With `layers`, also
what features tell of labels, of the teacher's soft labels, and of these beyond the hard label.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses.answers import splits_of
from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import PAIRS, TAUGHT, Cast, cast, pairs
from kdscope.analyses.compare import Finding, measure_pairs, over_groups
from kdscope.analyses.feature_information import ESTIMATORS, INFONCE, KSG, NEAR, shared_by_features, warning
from kdscope.analyses.options import definitions
from kdscope.analyses.relations import accuracy_of, against_accuracy, one_by_one
from kdscope.analyses.usable import PAIRS as PROBED
from kdscope.analyses.usable import usable_of_pair
from kdscope.errors import unknown
from kdscope.measures.logits import suitable
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "group", "a_group", "method", "architecture", "seed", "seeds", "classes", "per_cell", "flag"),
    *("control", "confidence", "excluded", "accuracy"),
)
FAMILY = "mutual-information"
BESIDE = ("plug-in", "miller-madow", "chao-shen", "permutation-null")
FEW = 5  # images for each cell of the table below which even the jackknife is biased


@analysis(
    "mutual-information",
    summary="How much do the answers of teacher and student tell of each other?",
    citation="Guo et al., arXiv 2405.00739, eq. 4; Zahl 1977",
    sources=("teacher", "baseline"),
)
def mutual_information(
    subjects: Sequence[Subject],
    *,
    splits: Sequence[str] | str | None = "test",
    view: str = "none",
    definition: Sequence[str] | str = "kdscope",
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
    layers: Sequence[str] | str = (),
    features: Sequence[str] | str = (),
    components: int = 2,
) -> Report:
    """Mutual information of each student with each teacher, and of the controls, as one tidy table, in nats.

    Args:
        splits: names, or one text with commas.
        view: the augmentation under which all are shown the same images.
        definition: "guo2024-code" (its neighbours) or "guo2024-code-plugin" add rows of that definition; the other
            estimators always stand beside the sound one.
        teacher, baseline: as for fidelity.
        confidence: of all intervals.
        layers: of the students, such as "penultimate": rows usable-labels, usable-soft and usable-beyond say what
            their features tell a linear probe, cross-fitted on at most 4,000 images: of the labels, of the teacher's
            soft labels, and of these beyond the hard label.
        features: "ksg", "infonce" or both: rows ksg-features and infonce-features, of what those layers (else
            "penultimate") of both networks, which must have them, tell of each other; on at most 2,000 images, not of
            ensembles. ksg: of the first principal components, by nearest neighbours. infonce: a lower bound, on images
            that its critic was not fitted on; never above the ln of the number of candidates, its ceiling.
        components: of ksg, 1 to 8. With more than 2 the estimate falls short: of 2 nats it finds 1 in 8 dimensions.

    Returns:
        A report whose table has, besides the columns of fidelity: classes, per_cell (n / C^2), flag ("few images"
        where that is below 5, for then no estimator of hard labels is unbiased), and accuracy, of each student.

    Raises:
        KDScopeError: no student or no teacher among the sources, an unknown definition, caches of different images.
    """
    layers, features = (_listed(option) for option in (layers, features))
    for name in features:
        if name not in ESTIMATORS:
            raise unknown("estimator", name, ESTIMATORS, "option 'features' of analysis 'mutual-information'")
    roles = cast(subjects, teacher, baseline)
    asked = definitions(definition, suitable(family=FAMILY), "mutual-information")
    rows = []
    for part in splits_of(splits, roles):
        for named in dict.fromkeys(["kdscope", *BESIDE, *asked]):
            found = measure_pairs(pairs(roles), part, view, named, confidence, FAMILY)
            findings = [(str(f.pair.b.seed), f) for f in found]
            findings += [("all", f) for f in over_groups(found, confidence)]
            rows += [_row(roles, part, view, seed, f) | {"confidence": confidence} for seed, f in findings]
        for layer in layers:
            found = [
                Finding(pair, result)
                for pair in pairs(roles)
                if pair.pair in PROBED and (pair.pair in TAUGHT or pair.baseline is None)
                for result in usable_of_pair(pair, layer, part, view, confidence)
            ]
            own = {"layer": layer, "confidence": confidence, "flag": ""}
            rows += [_row(roles, part, view, str(f.pair.b.seed), f) | own for f in found]
        for layer in (layers or ["penultimate"]) if features else []:
            for pair in pairs(roles):
                if pair.pair in PROBED and (pair.pair in TAUGHT or pair.baseline is None):
                    for result in shared_by_features(pair, layer, part, view, features, components, confidence):
                        own = {"layer": layer, "confidence": confidence, "flag": warning(result)}
                        rows.append(_row(roles, part, view, str(pair.b.seed), Finding(pair, result)) | own)
    table = tidy(rows, COLUMNS)
    order = table["pair"].map(PAIRS.index)
    table = table.loc[order.sort_values(kind="stable").index].reset_index(drop=True)
    return Report(table, _short(table), (*roles.notes, *_verdicts(table)))


def _listed(option: Any) -> list[str]:
    """Names, from a list or from one text with commas; on the command line the name of a layer may be a number."""
    names = option if isinstance(option, (list, tuple)) else str(option).split(",")
    return [name for name in (str(name).strip() for name in names) if name]


def _row(roles: Cast, split: str, view: str, seed: str, finding: Finding) -> dict[str, Any]:
    pair, result = finding.pair, finding.result
    name = roles.group_name if seed == "all" else roles.name
    b = pair.b.subjects[0]
    classes = len(b.cache(split, view).classes)
    per_cell = result.n / classes**2
    return result.row(
        analysis=FAMILY, a=name(pair.a), b=name(pair.b), layer="", split=split, view=view, pair=pair.pair,
        group=roles.group_name(pair.b), a_group=roles.group_name(pair.a), method=b.method, architecture=b.architecture,
        seed="" if seed == "None" else seed, seeds=finding.seeds, classes=classes, per_cell=per_cell,
        flag="few images" if per_cell < FEW else "", control=result.control, excluded=result.excluded,
        accuracy=accuracy_of(b.cache(split, view)) if pair.pair in TAUGHT and seed != "all" else None,
    )  # fmt: skip


def _headline(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[table["pair"].isin(TAUGHT)]
    several = rows.groupby(["group", "a_group", "split"])["seed"].transform(lambda seeds: (seeds == "all").any())
    return rows[~several.astype(bool) | (rows["seed"] == "all")]


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """A row of text for each student, teacher and split; information in nats."""
    lines = []
    for (split, b, a), group in _headline(table).groupby(["split", "b", "a"], sort=False):
        by = group.set_index(["measure", "definition"])
        main = by.loc[(FAMILY, "kdscope")]
        shown = {"student": b, "teacher": a, "split": split}
        shown["MI"] = f"{main.value:.2f} [{main.ci_low:.2f}, {main.ci_high:.2f}]"
        shown["plug-in"] = f"{by.loc[(FAMILY, 'plug-in')].value:.2f}"
        shown["null"] = f"{by.loc[(FAMILY, 'permutation-null')].value:.2f}"
        for title, name in (("U", "uncertainty-coefficient"), ("AMI", "adjusted-mutual-information")):
            shown[title] = f"{by.loc[(name, 'kdscope')].value:.2f}"
        shown["soft"] = f"{by.loc[('soft-mutual-information', 'kdscope')].value:.2f}"
        lines.append(shown | {"floor": f"{main.floor:.2f}", "n/C²": f"{main.per_cell:.1f}{'!' * bool(main.flag)}"})
    return pd.DataFrame(lines)


def _verdicts(table: pd.DataFrame) -> list[str]:
    rows = _headline(table)
    rows = rows[(rows["measure"] == FAMILY) & (rows["definition"] == "kdscope")]
    said = []
    for row in rows.itertuples():
        text = f"{row.b}, by {row.a}, on {row.split}: {row.value:.3f} nats [{row.ci_low:.3f}, {row.ci_high:.3f}]"
        if not np.isnan(row.floor):
            text += f"; {row.control.split(';')[0].removeprefix('floor: ')}: {row.floor:.3f}"
        said.append(text)
    few = rows[rows["flag"] != ""]
    if len(few):
        row = few.iloc[0]
        said.append(
            f"RED: {row.per_cell:.2g} images for each of {row.classes}² pairs of classes (below {FEW}): "
            "the mutual information of hard labels is biased; trust that of soft labels, and AMI"
        )
    said += _of_features(table[table["pair"].isin(TAUGHT)])
    by_run = one_by_one(table[(table["measure"] == FAMILY) & (table["split"] == table["split"].iloc[-1])])
    said += against_accuracy(by_run, by_run["accuracy"], "mutual information")
    said.append("mutual information of classes is close to a function of agreement and their number: no second witness")
    return said


def _of_features(table: pd.DataFrame) -> list[str]:
    said, close = [], []
    for row in table[table["measure"].isin([KSG, INFONCE])].itertuples():
        floor, more = row.control.split("; ")
        name, least = ("ksg", "") if row.measure == KSG else ("infonce", "at least ")
        if row.measure == INFONCE:
            more = f"never above {row.ceiling:.2f}, {more.removeprefix('ceiling: ')}"
        said.append(
            f"{name}, {row.layer} of {row.b} and {row.a}, on {row.split}: {least}{row.value:.2f} nats "
            f"[{row.ci_low:.2f}, {row.ci_high:.2f}]; {floor.removeprefix('floor: ')}: {row.floor:.2f}; {more}"
        )
        if row.flag == "near its ceiling":
            close.append(f"{row.layer} of {row.b} and {row.a}")
    if close:
        said.append(f"RED: infonce is within {NEAR:.0f} nat of its ceiling, and may be far too low: {', '.join(close)}")
    if (table["measure"] == KSG).any():
        said.append(
            "ksg speaks of those components alone, and falls short in more than 2: of 2 nats, 1 in 8 dimensions"
        )
    return said
