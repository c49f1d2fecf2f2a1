"""Each network's attention against the boxes: the rows of `detection-attention` that need one network.

Between floors: a student alone, the student's architecture before any training, and the network's own maps of other
images (which is what looking at the centre earns).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kdscope.analyses.cast import ALONE, Cast, Pair, Party
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.detection import row_of
from kdscope.analyses.detection_attention_pixels import GUO, Levels, Look, Sight, by_image, pooled
from kdscope.analyses.detection_maps import EVERY, SIZES, Cell, Grid, with_mean
from kdscope.analyses.detection_views import Seen, as_result
from kdscope.detection.measures.attention_boxes import by_kind
from kdscope.detection.measures.cards import DIRECTIONS, RANGES
from kdscope.measures.result import Result

TRUTH = {"energy-in-boxes": "energy", "lift": "lift", "auroc": "auroc", "area-matched-iou": "iou"}
FRAMED = "teacher-student"  # the kind of pair that is put between its floors


def truth_rows(
    roles: Cast | None,
    networks: Mapping[tuple, Seen],
    looks: Mapping[tuple, Look],
    sight: Sight,
    definition: str,
    confidence: float,
) -> Iterator[dict[str, Any]]:
    """Each network against the boxes, and all seeds of a training together; beside it, its floors.

    Args:
        looks: of the networks, and of untrained ones by the keys of their parties.
    """
    pairs = _pairs(roles, networks, [key for key in looks if key[0] == "random-init"])
    measured = {key: against(look, sight, definition, confidence) for key, look in looks.items()}
    for key in networks:
        other = looks[key].shuffled(sight.framing.sizes)
        measured[Party(networks[key].party.subjects, "shuffled").key] = against(other, sight, definition, confidence)
    known = [pair for pair in pairs if measured[pair.b.key]]
    for cell in dict.fromkeys(cell for results in measured.values() for cell in results):
        own = {pair.key: {cell: measured[pair.b.key][cell]} for pair in known if cell in measured[pair.b.key]}
        framed = in_frames(known, own, confidence, DIRECTIONS)
        framed = _once([f for f in framed if f.pair.pair != ALONE])
        every = [(finding, str(finding.pair.b.seed)) for finding in framed]
        for finding, seed in [*every, *((together, "all") for together in _groups(framed, confidence))]:
            party = finding.pair.b
            role = networks[Party(party.subjects).key].role if party.kind != "random-init" else party.kind
            yield _row(roles, finding, seed) | cell._asdict() | {"role": role}


def _pairs(roles: Cast | None, networks: Mapping[tuple, Seen], untrained: Sequence[tuple]) -> list[Pair]:
    """Each network against the boxes, which are nobody's, and the floors beside it."""
    rivals = {
        Party((s.subject,)).key: Party(s.independent[:1]) for s in (roles.students if roles else ()) if s.independent
    }
    pairs = []
    for key, one in networks.items():
        nobody = Party((one.subject,), "truth")
        pairs.append(Pair(FRAMED, nobody, one.party, rivals.get(key)))
        pairs += [Pair(ALONE, nobody, rivals[key])] if key in rivals else []
        parties = [Party(other.party.subjects, "random-init") for other in networks.values()]
        fitting = [p for p in parties if p.key in untrained and p.subjects[0].architecture == one.subject.architecture]
        pairs += [Pair("floor:random-init", nobody, party) for party in fitting]
        pairs.append(Pair("floor:shuffled", nobody, Party(one.party.subjects, "shuffled")))
    return pairs


def _once(framed: Sequence[Finding]) -> list[Finding]:
    """Networks that stand beside several others, such as an untrained one, are told once."""
    return list({(f.pair.pair, f.pair.b.key): f for f in reversed(framed)}.values())[::-1]


def _groups(framed: Sequence[Finding], confidence: float) -> list[Finding]:
    """All seeds of a training together: what `over_groups` does for pairs."""
    return over_groups(
        [replace(f, pair=Pair(f.pair.pair, Party(f.pair.b.subjects[:1], "truth"), f.pair.b)) for f in framed],
        confidence,
        ranges=RANGES,
    )


def _row(roles: Cast | None, finding: Finding, seed: str) -> dict[str, Any]:
    pair = finding.pair
    if roles is not None:
        row = row_of(roles, finding, seed)
    else:
        one, gain = pair.b.subjects[0], finding.gain
        name = {"shuffled": f"{one.name} (shuffled images)", "random-init": f"{one.architecture} (random init)"}
        name = name.get(pair.b.kind, one.name)
        row = finding.result.row(b=name, group=name, method=one.method, architecture=one.architecture)
        row |= {"seed": "" if seed == "None" else seed, "seeds": 1, "control": finding.result.control}
        row |= {"gain": gain and gain.value, "gain_low": gain and gain.ci_low, "gain_high": gain and gain.ci_high}
    return row | {"a": "true boxes", "a_group": "", "pair": "truth" if pair.pair == FRAMED else pair.pair}


def against(look: Look, sight: Sight, definition: str = "kdscope", confidence: float = 0.95) -> dict[Cell, Result]:
    """Attention against the boxes of each size, at each level and on the mean over the levels."""
    if not len(look.rows):
        return {}
    if definition == GUO:
        return pooled(sight, [look], confidence)
    values = by_image(on_boxes, sight, definition, look)
    return {cell: as_result(cell.measure, each, confidence) for cell, each in with_mean(values).items()}


def on_boxes(maps: Levels, grids: Mapping[int, Grid]) -> dict[Cell, np.ndarray]:
    """The scores of each image, by level and size of objects."""
    values: dict[Cell, np.ndarray] = {}
    for stride, grid in grids.items():
        found = by_kind(_flat(maps[stride]), _flat(grid.kind), len(SIZES))
        for k, area in enumerate((EVERY, *SIZES)):
            for measure, column in TRUTH.items():
                values[Cell(measure, f"stride {stride}", area, "")] = getattr(found, column)[:, k]
    return values


def _flat(maps: np.ndarray) -> np.ndarray:
    return maps.reshape(len(maps), -1)
