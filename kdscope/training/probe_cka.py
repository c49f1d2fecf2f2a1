"""Which layer aligned when: CKA of the student's layers with each teacher's on the probe set, while a run trains.

Nguyen et al., ICLR 2021, eq. 3, streamed exactly from sums (`kdscope.measures.streamed_cka`): no features are kept, on
disk or in memory. The table `features/cka.csv` has the columns of `kdscope analyze similarity`, which shows it over
epochs, and `kdscope figures` draws it as it is.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.config import TeacherSettings
from kdscope.data import Batches, Dataset
from kdscope.features.extract import default_layers
from kdscope.features.hooks import Capture
from kdscope.features.reduce import pool
from kdscope.files import replacing
from kdscope.measures.features import GROUPS
from kdscope.measures.streamed_cka import StreamedCKA
from kdscope.run import Run

BATCH = 256
MEMORY = 2**28  # bytes of sums; where they do not allow for so many groups as an interval needs, there is none
FEWEST_GROUPS = 5


def cka_path(run: Run) -> Path:
    """Where the table of a run lies."""
    return run.path / "features" / "cka.csv"


def write_cka(
    run: Run,
    dataset: Dataset,
    student: nn.Module,
    teachers: Sequence[nn.Module],
    epoch: int,
    limits: Mapping[str, Tensor],
    device: torch.device,
) -> None:
    """Add the rows of `epoch` to the table, in the place of any that an interrupted run left of it or of later ones.

    Args:
        limits: positions of the probe set in each split.

    Raises:
        KDScopeError: fewer than 4 images; features that are NaN or infinite (of which layer, in how many images).
    """
    path, rows = cka_path(run), []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as lines:
            rows = [row for row in csv.DictReader(lines) if int(row["epoch"]) < epoch]
    for split, limit in limits.items():
        for k, teacher in enumerate(teachers):
            known = _known(run, k) | {"split": split, "epoch": epoch}
            part = dataset.split(split).subset(limit)
            batches = Batches(part, dataset, batch_size=BATCH, device=device)
            rows += [_cells(known | row) for row in _rows(stream_cka(teacher.to(device), student, batches))]
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as lines:
        table = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


@torch.inference_mode()
def stream_cka(teacher: nn.Module, student: nn.Module, batches: Batches) -> StreamedCKA:
    """The sums of each stage of both networks, pooled, over all batches. The networks are in eval mode meanwhile.

    A layer whose vectors are those of an earlier one (the penultimate is often the last stage, pooled) is left out.
    """
    modes = teacher.training, student.training
    captures = [
        Capture(network.eval(), default_layers(network, batches.height), detach=True, reduce=pool)
        for network in (teacher, student)
    ]
    cka, chosen = StreamedCKA(), None
    with captures[0], captures[1]:
        for batch in batches.epoch():
            sides = [capture(batch.image).maps for capture in captures]
            if chosen is None:
                chosen = [_distinct(side) for side in sides]
                cka = StreamedCKA(_groups([[side[name].shape[1] for name in side] for side in sides]))
            cka.update(*({name: side[name] for name in own} for side, own in zip(sides, chosen, strict=True)))
    teacher.train(modes[0])
    student.train(modes[1])
    return cka


def _distinct(side: Mapping[str, Tensor]) -> list[str]:
    kept: list[str] = []
    for name, x in side.items():
        twins = (side[known] for known in kept if side[known].shape == x.shape)
        if not any(torch.allclose(x, twin, rtol=1e-3, atol=1e-6) for twin in twins):
            kept.append(name)
    return kept


def _groups(widths: Sequence[Sequence[int]]) -> int:
    """Groups of images that are left out in turn for the intervals, as many as the memory of the sums allows."""
    a, b = widths
    doubles = sum(a) * sum(b) + sum(d * d for d in (*a, *b))
    groups = min(GROUPS, MEMORY // (8 * doubles))
    return groups if groups >= FEWEST_GROUPS else 1


def _rows(cka: StreamedCKA) -> list[dict[str, Any]]:
    tops = cka.shares()
    return [
        result.row(
            layer=" ~ ".join(dict.fromkeys((one, other))), layer_a=one, layer_b=other, excluded=result.excluded,
            variance_a=tops[0][one], variance_b=tops[1][other],
        )
        for (one, other), result in cka.compute().items()
    ]  # fmt: skip


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """What is not known is an empty cell, as in the tables of analyses."""
    return {name: "" if isinstance(cell, float) and math.isnan(cell) else cell for name, cell in row.items()}


def _known(run: Run, k: int) -> dict[str, Any]:
    """What is the same in all rows of teacher `k`, and fixes the order of the columns."""
    config = run.config
    a = _name(config.teachers[k])
    return {
        "analysis": "similarity", "measure": "", "definition": "", "a": a, "b": run.name, "layer": "", "split": "",
        "view": "none", "value": "", "ci_low": "", "ci_high": "", "floor": "", "ceiling": "", "n": "",
        "pair": "teacher-student", "layer_a": "", "layer_b": "", "group": run.name, "a_group": a,
        "method": config.method, "architecture": config.model.name, "seed": config.seed, "seeds": 1, "epoch": "",
        "control": "", "reduction": "pool", "variance_a": "", "variance_b": "", "confidence": 0.95, "excluded": "",
        "teacher": k,
    }  # fmt: skip


def _name(teacher: TeacherSettings) -> str:
    if teacher.run is not None:
        return teacher.run.name
    return teacher.model if teacher.checkpoint is None else f"{teacher.model}@{teacher.checkpoint.name}"
