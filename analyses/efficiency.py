"""What does a network cost, and what does it give for that: student alone, distilled, teacher.

Parameters and size, arithmetic (PyTorch's counter: two for each multiply-add of convolutions and matrix products),
latency of one image and of 128, throughput, and the memory that a forward pass needs besides the weights
(`kdscope.features.efficiency`), measured on the network once and kept beside its caches. Times are of the machine at
hand: compare them within one table only.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import TAUGHT, cast, pairs
from kdscope.analyses.feature_layers import Library
from kdscope.errors import KDScopeError
from kdscope.measures.statistics import wilson
from kdscope.sources import Subject

COLUMNS = ("role", "group", "method", "architecture", "seed", "device", "machine", "threads", "confidence")
COSTS = (*("parameters", "megabytes", "flops", "latency-1", "latency-128", "throughput", "memory-1", "memory-128"),)


@analysis(
    "efficiency",
    summary="What do student and teacher cost, in parameters, arithmetic, time and memory?",
    citation="none: counts and clock",
    sources=("teacher", "baseline"),
)
def efficiency(
    subjects: Sequence[Subject],
    *,
    splits: str = "test",
    view: str = "none",
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """A row for each cost of each network, and its accuracy.

    Args:
        splits: the one split that the accuracy is of.
        view: the augmentation under which its images are shown.
        teacher, baseline: as for fidelity.
        confidence: of the interval of accuracy.

    Returns:
        A report whose table has, besides the shared columns: role ("teacher", "distilled", "alone"), device, machine,
        threads. Counts are exact; times are medians over `n` repeats on one machine, and have no interval.

    Raises:
        KDScopeError: no student or teacher; a bare cache, whose network is not known.
    """
    if "," in str(splits):
        raise KDScopeError(f"accuracy is of one split here, and {splits!r} names several")
    roles = cast(subjects, teacher, baseline)
    library, seen, rows = Library(), set(), []
    for pair in pairs(roles):
        for party, role in ((pair.a, "teacher"), (pair.b, "distilled" if pair.pair in TAUGHT else "alone")):
            if party.kind != "trained" or len(party.subjects) > 1 or party.key in seen:
                continue
            if pair.pair not in (*TAUGHT, "floor:independent-student"):
                continue
            seen.add(party.key)
            subject = party.subjects[0]
            known = {
                "analysis": "efficiency", "definition": "kdscope", "a": roles.name(party), "b": roles.name(party),
                "layer": "", "split": splits, "view": view, "role": role, "group": roles.group_name(party),
                "method": subject.method, "architecture": subject.architecture,
                "seed": "" if subject.seed is None else str(subject.seed), "confidence": confidence,
            }  # fmt: skip
            rows += [known | row for row in _costs(subject)]
            rows.append(known | _accuracy(library.cache(party, splits, view), confidence))
    table = tidy(rows, COLUMNS)
    return Report(table, _short(table), (*roles.notes, *_notes(table)))


def _costs(subject: Subject) -> Iterator[dict[str, Any]]:
    found = subject.efficiency()
    for name in COSTS:
        value = found[name]
        timed = name in found["repeats"]
        yield {
            "measure": name, "value": value, "ci_low": None if timed else value, "ci_high": None if timed else value,
            "n": found["repeats"].get(name, 1),
            "device": found["device"], "machine": found["machine"], "threads": found["threads"],
        }  # fmt: skip


def _accuracy(cache: Any, confidence: float) -> dict[str, Any]:
    right = cache.logits.argmax(axis=1) == cache.labels
    low, high = wilson(float(right.mean()), len(right), confidence)
    return {"measure": "accuracy", "value": float(right.mean()), "ci_low": low, "ci_high": high, "n": len(right)}


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """A line of text for each network."""
    lines = []
    for name, own in table.groupby("b", sort=False):
        by = own.set_index("measure")["value"]
        lines.append(
            {
                "network": name,
                "role": own["role"].iloc[0],
                "accuracy %": f"{100 * by['accuracy']:.1f}",
                "parameters": f"{by['parameters'] / 1e6:.3f} M",
                "MFLOPs": f"{by['flops'] / 1e6:.1f}",
                "ms (1)": f"{by['latency-1']:.2f}",
                "ms (128)": f"{by['latency-128']:.1f}",
                "images/s": f"{by['throughput']:,.0f}",
                "MB (128)": f"{by['memory-128']:.1f}",
            }
        )
    return pd.DataFrame(lines)


def _notes(table: pd.DataFrame) -> list[str]:
    where = table.dropna(subset=["device"])[["device", "machine", "threads"]].drop_duplicates()
    said = [f"measured on {r.device} ({r.machine}, {r.threads:.0f} threads)" for r in where.itertuples()]
    if len(said) > 1:
        said.append("times of different devices cannot be compared")
    said.append("MB (128): tensors that one forward pass of 128 images holds at once, besides weights and images")
    return said
