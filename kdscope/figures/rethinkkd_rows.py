"""What Guo et al. (arXiv 2405.00739) set against what, and the rows of a table that each panel needs.

A row of the table is one number of one trial: `dataset`, `trial` (T1sT2wSs: teacher 1 was trained with strong
augmentation, teacher 2 with weak, the student with strong), `student` (Sw or Ss), `setting` (vKD as usual, hKD half
images, zKD standardised logits, 3T three teachers, ViT transformers, graded steps of augmentation), `measure`,
`definition` (published, guo2024-code or kdscope), and `floor` of the measure.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd

from kdscope.measures.correlation import Correlation, correlate

MEASURES = {
    "accuracy": "Accuracy of the student",
    "accuracy-gap": "Accuracy, train less validation",
    "affinity": "Affinity",
    "agreement": "Fidelity (top-1 agreement)",
    "attention-iou": "IoU of the teachers' attention",
    "ece": "Expected calibration error",
    "entropy": "Entropy of the student (nat)",
    "kl-teacher-student": "KL of teachers and student (nat)",
    "mutual-information": "Mutual information (nat)",
}
SOUND = {"attention-iou": "Overlap of the teachers' attention, above chance"}  # what kdscope's definition is of
DATASETS = {
    "cifar100": "CIFAR-100",
    "cifar100-lt:10": "CIFAR-100-LT, 10",
    "cifar100-lt:50": "CIFAR-100-LT, 50",
    "cifar100-lt:100": "CIFAR-100-LT, 100",
    "imagenet": "ImageNet",
    "imagenet-lt": "ImageNet-LT",
}
STUDENTS = {"Sw": "student trained with weak augmentation", "Ss": "with strong augmentation"}
SETTINGS = {
    "vKD": "as usual", "hKD": "where each teacher sees one half of the image", "zKD": "of standardised logits",
    "3T": "of three teachers", "ViT": "of vision transformers",
}  # fmt: skip


@dataclass(frozen=True)
class Relation:
    """Two measures set against each other: where in the paper, the sign that it claims (None: none), and in words.

    `figure` is the panel's figure, where it shares one with others.
    """

    stem: str
    place: str
    x: str
    y: str
    claimed: int | None
    says: str
    setting: str = "vKD"
    figure: str = ""


DISAGREE = "Teachers that attend to different places"
RELATIONS = (
    Relation("f2", "Figure 2, top", "attention-iou", "accuracy", -1, f"{DISAGREE} have a better student"),
    Relation("f3", "Figure 3, top", "agreement", "accuracy", -1, "A student that follows less closely is better"),
    Relation("f3-mi", "Figure 3, bottom", "mutual-information", "accuracy", -1, "A student that shares less is better"),
    Relation("b5", "Figure B.5", "kl-teacher-student", "accuracy", 1, "A student that differs more is better"),
    Relation("d6", "Figure D.6", "attention-iou", "affinity", 1, f"{DISAGREE} go with stronger augmentation"),
    Relation("table1", "Table 1", "affinity", "accuracy", -1, "Stronger augmentation makes a better student"),
    Relation("h9", "Figure H.9, top", "entropy", "accuracy-gap", -1, "A student of higher entropy overfits less"),
    Relation("diversity", "The text", "attention-iou", "agreement", 1, f"{DISAGREE} are followed less"),
    Relation("h6", "Table H.6", "affinity", "ece", None, "Calibration and strength of augmentation"),
    Relation(
        "gap", "Tables C.2 to C.4", "agreement", "accuracy-gap", None, "Fidelity and overfitting, not plotted there"
    ),
)
SECOND = {  # the same of other networks: panels of one figure
    "e7": ("Figure E.7", "ViT", {"fidelity": "f3", "iou": "f2"}),
    "f8": ("Figure F.8", "3T", {"iou": "f2", "fidelity": "f3", "mi": "f3-mi", "entropy": "h9"}),
}
RELATIONS += tuple(
    replace(
        next(r for r in RELATIONS if r.stem == stem), stem=f"{figure}-{name}", place=place, setting=setting,
        figure=figure,
    )
    for figure, (place, setting, panels) in SECOND.items()
    for name, stem in panels.items()
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """A setting beside the usual one, trial by trial."""

    stem: str
    place: str
    setting: str
    measures: tuple[str, ...]


COMPARISONS = (
    Comparison("f4", "Figure 4", "zKD", ("accuracy-gap", "agreement")),
    Comparison("c2-c4", "Tables C.2 to C.4", "hKD", ("accuracy-gap", "attention-iou", "agreement")),
)


def datasets(names: Iterable[str]) -> list[str]:
    """Those of the paper first, in its order."""
    names = list(dict.fromkeys(names))
    return sorted(names, key=lambda name: ([*DATASETS, name].index(name), names.index(name)))


def titled(dataset: str) -> str:
    """The name of a dataset as the paper writes it, or as kdscope does."""
    return DATASETS.get(dataset, dataset)


def described(measure: str, definition: str) -> str:
    """The label of an axis."""
    return SOUND.get(measure, MEASURES[measure]) if definition == "kdscope" else MEASURES[measure]


def pairs(table: pd.DataFrame, relation: Relation, dataset: str, definition: str) -> pd.DataFrame:
    """Columns x and y of the trials of one dataset by one definition, with `trial`, `student` and `floor` (of x).

    With several seeds a row is one training, and there is a column `seed`.
    """
    keys = ["trial", "student", *(["seed"] if "seed" in table and table["seed"].notna().any() else [])]
    rows = table[(table["dataset"] == dataset) & (table["setting"] == relation.setting) & table["trial"].notna()]
    rows = rows.assign(seed=rows["seed"].fillna("")) if "seed" in keys else rows
    found = []
    for measure in (relation.x, relation.y):
        rows_of = rows[rows["measure"] == measure]
        own = rows_of[rows_of["definition"] == definition]
        if own.empty and definition != "published":  # an accuracy has but one definition
            own = rows_of[rows_of["definition"] == "kdscope"] if measure == "accuracy" else own
        found.append(own.set_index(keys))
    x, y = found
    joined = x[["value", "floor"]].join(y["value"].rename("y"), how="inner").rename(columns={"value": "x"})
    return joined.reset_index()


def correlation(both: pd.DataFrame) -> Correlation:
    """Of the columns x and y that `pairs` gives; the groups are the students' augmentations."""
    return correlate(both["x"], both["y"], both["student"])
