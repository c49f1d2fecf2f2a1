"""Do student and teacher look at the same place, more than two networks that never met, and is it where the object is?

Zagoruyko & Komodakis, ICLR 2017; Guo et al., arXiv 2405.00739. Maps of every pair of networks, by their most attended
cells at a sweep of areas, corrected for chance; beside them the same of images exchanged within their class (what is
shared by knowing the class, and by looking at the centre), of an untrained network and of one trained alone. Where the
images have true masks, each network against those.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from kdscope.analyses.attention_pairs import EVERYWHERE, GUO, Cell, Comparison
from kdscope.analyses.attention_truth import TRUTH
from kdscope.analyses.attention_words import notes, short
from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import PAIRS, Cast, cast, pairs
from kdscope.analyses.compare import Finding, over_groups
from kdscope.analyses.map_library import MapLibrary
from kdscope.errors import KDScopeError, unknown
from kdscope.measures.map_measures import ThresholdIoU
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "map", "area", "chance", "grid", "group", "a_group", "method", "architecture", "seed", "seeds", "epoch"),
    *("control", "gain", "gain_low", "gain_high", "confidence", "excluded", "left_out", "pictures", "accuracy"),
)
GALLERY = "attention-iou-gallery.npz"


@analysis(
    "attention-iou",
    summary="Do student and teacher look at the same place, and is it the object?",
    citation="Zagoruyko & Komodakis, ICLR 2017; Guo et al., arXiv 2405.00739",
    sources=("teacher", "baseline"),
)
def attention_iou(
    subjects: Sequence[Subject],
    *,
    splits: Sequence[str] | str = "test",
    view: str = "none",
    maps: Sequence[str] | str | None = None,
    every_layer: bool = False,
    definition: Sequence[str] | str = "kdscope",
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """Overlap of the attention maps of each pair and control, and of each network with the true masks, as a table.

    Args:
        splits: names, or one text with commas.
        view: the augmentation under which all are shown the same images; only "none" has true masks.
        maps: of "activation", "cam", "grad-cam", "cls-attention", "rollout"; default: all that all networks have.
        every_layer: compare Grad-CAM at every stage; else at the last one, where it says most (activation maps are
            compared at every stage in any case).
        definition: "guo2024-code" adds the IoU of Guo et al. on their all-class maps, with three-way IoU of two
            teachers and a student.
        teacher, baseline: as for fidelity.
        confidence: of all intervals.

    Returns:
        A report whose table has, besides the shared columns: pair (`kdscope.analyses.cast.PAIRS`, or "truth" for a
        network against the masks), map, area (share of the cells in the sets; empty: the mean over all areas), chance
        (IoU of unrelated maps at that area), grid, seed ("all": mean over `seeds` trainings), control, gain over the
        floor with its paired interval, and accuracy of b where b is one training. Floors named "shuffled" exchange
        images within their class.

    Raises:
        KDScopeError: no student or no teacher among the sources, caches of different images, a kind of map that a
            network does not have, values that are not finite.
    """
    roles = cast(subjects, teacher, baseline)
    asked = [d.strip() for d in definition.split(",")] if isinstance(definition, str) else list(definition)
    for name in asked:
        if name not in ThresholdIoU.definitions:
            raise unknown("definition", name, ThresholdIoU.definitions, "analysis 'attention-iou'")
    every = list({(p.pair, p.a.key, p.b.key): p for p in reversed(pairs(roles))}.values())[::-1]
    rows: list[dict[str, Any]] = []
    for part in [s.strip() for s in (splits.split(",") if isinstance(splits, str) else splits) if s.strip()]:
        work = Comparison(every, MapLibrary(part, view), maps, every_layer, GUO in asked, confidence)
        found = [*work.framed(), *work.truth(), *(work.over_epochs() if view == "none" else ())]
        accuracy = work.accuracies()
        rows += [
            _row(roles, part, view, cell, finding, seed, work.facts.get((finding.pair.key, finding.epoch, cell), {}))
            | {"accuracy": accuracy.get(finding.pair.b.key) if seed != "all" and finding.epoch is None else None}
            for cell, finding, seed in _with_groups(found, confidence)
        ]
        method, pictures = work.gallery(roles)
    table = _ordered(tidy([row | {"analysis": "attention-iou", "confidence": confidence} for row in rows], COLUMNS))
    if pictures is not None:
        there = (table["split"] == part) & (table["map"] == method) & table["area"].isna() & table["epoch"].isna()
        table["pictures"] = table["pictures"].astype(object).mask(there, GALLERY)
    said = (*roles.notes, *notes(table, GUO in asked))
    return Report(table, short(table), said, {} if pictures is None else {GALLERY: pictures})


def _with_groups(found: Iterable[tuple[Cell, Finding]], confidence: float) -> Iterator[tuple[Cell, Finding, str]]:
    """Each finding with its seed, and for each cell all the seeds together."""
    by_cell: dict[Cell, list[Finding]] = {}
    for cell, finding in found:
        by_cell.setdefault(cell, []).append(finding)
    for cell, own in by_cell.items():
        yield from ((cell, finding, str(finding.pair.b.seed)) for finding in own)
        yield from ((cell, finding, "all") for finding in over_groups(own, confidence))


def _row(
    roles: Cast, split: str, view: str, cell: Cell, finding: Finding, seed: str, facts: dict[str, Any]
) -> dict[str, Any]:
    pair, result, gain = finding.pair, finding.result, finding.gain
    name = roles.group_name if seed == "all" else roles.name
    b, true = pair.b.subjects[0], pair.pair == TRUTH
    row = result.row(
        a="true mask" if true else name(pair.a), b=name(pair.b), layer=cell[1], split=split, view=view, pair=pair.pair,
        map=cell[0], area=None if cell[4] == EVERYWHERE else cell[4], group=roles.group_name(pair.b),
        a_group="" if true else roles.group_name(pair.a), method=b.method, architecture=b.architecture,
        seed="" if seed == "None" else seed, seeds=finding.seeds, epoch=finding.epoch, control=result.control,
        gain=gain and gain.value, gain_low=gain and gain.ci_low, gain_high=gain and gain.ci_high,
        excluded=result.excluded,
    )  # fmt: skip
    return row | (facts if seed != "all" else {name: facts[name] for name in facts if name != "left_out"})


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Split by split, the pairs in the order of `PAIRS`, epochs last, all seeds before each; areas last."""
    if not len(table):
        raise KDScopeError("the networks have no maps that can be compared")
    pair = table["pair"].map({name: k for k, name in enumerate((*PAIRS, TRUTH))})
    keys = pd.DataFrame({"split": table["split"].map(list(dict.fromkeys(table["split"])).index), "pair": pair})
    keys["epoch"] = table["epoch"].astype(float).fillna(-1.0)
    keys["all"] = (table["seed"] != "all").astype(int)
    keys["area"] = table["area"].astype(float).fillna(-1.0)
    table = table.loc[keys.sort_values(list(keys), kind="stable").index].reset_index(drop=True)
    table["epoch"] = table["epoch"].astype("Int64")
    return table
