"""What do the features of teacher and student look like side by side, and do they relate the classes alike?

t-SNE (van der Maaten & Hinton, JMLR 2008) and PCA of the last layer, with the same images and colours; and the
difference between the correlations of classes (Tian et al., ICLR 2020, figure 4). A map by t-SNE shows who is whose
neighbour; distances between clusters, and their sizes, say nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.cast import TAUGHT, Cast, Pair, Party, cast, pairs
from kdscope.analyses.compare import Finding, in_frames, over_groups
from kdscope.analyses.feature_layers import Library, matching
from kdscope.errors import KDScopeError
from kdscope.measures.class_relations import ClassRelations
from kdscope.measures.controls import derangement
from kdscope.measures.features import checked
from kdscope.measures.layers import strided
from kdscope.measures.logit_correlation import correlation_difference
from kdscope.measures.neighbour_overlap import nearest_neighbours
from kdscope.sources import Subject

COLUMNS = (
    *("pair", "group", "a_group", "method", "seed", "seeds", "control", "confidence", "image", "class", "x", "y"),
    *("class_a", "class_b"),
)
FEWEST = 30  # images, for a map
MOST_CLASSES = 200  # beyond, the matrix is not written cell by cell
NEAR = 10


@analysis(
    "embedding",
    summary="What do the features of teacher and student look like, and do they relate the classes alike?",
    citation="van der Maaten & Hinton, JMLR 2008; Tian et al., ICLR 2020",
    sources=("teacher", "baseline"),
)
def embedding(
    subjects: Sequence[Subject],
    *,
    splits: str = "test",
    view: str = "none",
    layers: str | None = None,
    images: int = 2000,
    seed: int = 0,
    teacher: Sequence[Subject] = (),
    baseline: Sequence[Subject] = (),
    confidence: float = 0.95,
) -> Report:
    """Maps of the last layer of every network (one seed of each), and the class relations of every pair.

    Args:
        splits: the one split to look at.
        view: the augmentation under which all are shown the same images.
        layers: the layer to draw; default: the last that is cached.
        images: at most so many on a map, evenly strided.
        seed: of t-SNE.
        teacher, baseline: as for fidelity.
        confidence: of the intervals.

    Returns:
        A report whose table has a row for each image on each map (measure "tsne" or "pca"; x, y, class; value: the
        share of its 10 nearest on the map that are of its class), for each pair of networks (measure "class-relations",
        framed), and for each cell of the matrix (measure "class-correlation-difference"; class_a, class_b).

    Raises:
        KDScopeError: no student or teacher, several splits, too few images or classes, NaN features.
    """
    split = str(splits)
    if "," in split:
        raise KDScopeError(f"an embedding is of one split, and {split!r} names several")
    roles = cast(subjects, teacher, baseline)
    every = [p for p in pairs(roles) if len(p.a.subjects) == len(p.b.subjects) == 1]
    every = [p for p in every if p.pair in TAUGHT or p.baseline is None]
    library = Library(matching(layers), images)
    shared = {"analysis": "embedding", "split": split, "view": view}
    rows = [shared | row for row in _maps(roles, every, library, split, view, seed)]
    rows += [shared | row for row in _relations(roles, every, library, split, view, confidence)]
    rows += [shared | row for row in _matrices(roles, every, library, split, view)]
    table = tidy([row | {"confidence": confidence} for row in rows], COLUMNS)
    return Report(table, _short(table), (*roles.notes, *_notes(table)))


def _first_of_each(every: Sequence[Pair], kinds: Sequence[str]) -> list[Pair]:
    """The first pair of each group of trainings."""
    return list({(p.pair, p.a.groups, p.b.groups): p for p in reversed(every) if p.pair in kinds}.values())[::-1]


def _maps(
    roles: Cast, every: Sequence[Pair], library: Library, split: str, view: str, seed: int
) -> Iterator[dict[str, Any]]:
    drawn = _first_of_each(every, (*TAUGHT, "floor:independent-student"))
    parties: dict[tuple, Party] = {p.key: p for pair in drawn for p in (pair.a, pair.b)}
    for party in parties.values():
        cache = library.cache(party, split, view)
        layer, vectors = list(library.layers(cache).items())[-1]
        chosen = strided(len(cache.index), library.images)
        if len(chosen) < FEWEST:
            raise KDScopeError(f"a map needs at least {FEWEST} images, and {cache.path} has {len(chosen)}")
        labels = cache.labels[chosen]
        for measure, points in _embedded(vectors.features, seed).items():
            near = nearest_neighbours(points, NEAR)
            purity = (labels[near] == labels[:, None]).mean(axis=1)
            for k, (x, y) in enumerate(points):
                yield {
                    "measure": measure, "definition": "kdscope", "a": roles.name(party), "b": roles.name(party),
                    "layer": layer, "value": purity[k], "n": len(points), "pair": "map", "x": x, "y": y,
                    "image": int(cache.index[chosen[k]]), "class": cache.classes[labels[k]],
                    "group": roles.group_name(party), "seed": "" if party.seed is None else str(party.seed),
                }  # fmt: skip


def _embedded(features: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Points [N, 2] by PCA and by t-SNE that starts from it; axes point where most images lie, so that maps compare."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    x = np.asarray(features, dtype=np.float64)
    if (x == x[0]).all():
        raise KDScopeError("all images have the same features; there is nothing to draw")
    if x.shape[1] == 1:
        x = np.c_[x, np.zeros(len(x))]
    flat = PCA(2, random_state=seed).fit_transform(x)
    flat *= np.where((flat**3).sum(axis=0) < 0, -1.0, 1.0)
    start = 1e-4 * flat / max(flat[:, 0].std(), 1e-12)
    perplexity = min(30.0, (len(x) - 1) / 3)
    points = TSNE(2, init=start, perplexity=perplexity, random_state=seed, n_jobs=1).fit_transform(x)
    return {"pca": flat, "tsne": points.astype(np.float64)}


def _relations(
    roles: Cast, every: Sequence[Pair], library: Library, split: str, view: str, confidence: float
) -> Iterator[dict[str, Any]]:
    measured: dict[tuple, dict[str, Any]] = {}
    for pair in every:
        logits = _logits(pair, library, split, view)
        if logits is not None and logits[0].shape[1] > 2:
            result = ClassRelations().update(*logits).compute(confidence)
            measured[pair.key] = {"class-relations": result}
    found = in_frames(every, measured, confidence)
    for finding in (*found, *over_groups(found, confidence)):
        yield _relation_row(roles, finding)


def _logits(pair: Pair, library: Library, split: str, view: str) -> tuple[np.ndarray, np.ndarray] | None:
    a, b = (library.cache(party, split, view) for party in (pair.a, pair.b))
    if a is None or b is None:
        return None
    a.check_compatible(b)
    one, other = (checked(cache.logits, f"{cache.path}: logits, as") for cache in (a, b))
    return one, other[derangement(len(other))] if pair.b.kind == "shuffled" else other


def _relation_row(roles: Cast, finding: Finding) -> dict[str, Any]:
    pair, together = finding.pair, finding.seeds > 1
    name = roles.group_name if together else roles.name
    return finding.result.row(
        a=name(pair.a), b=name(pair.b), layer="logits", pair=pair.pair, group=roles.group_name(pair.b),
        a_group=roles.group_name(pair.a), method=pair.b.subjects[0].method, control=finding.result.control,
        seed="all" if together else "" if pair.b.seed is None else str(pair.b.seed), seeds=finding.seeds,
    )  # fmt: skip


def _matrices(roles: Cast, every: Sequence[Pair], library: Library, split: str, view: str) -> Iterator[dict[str, Any]]:
    for pair in _first_of_each(every, (*TAUGHT, "floor:independent-student")):
        logits = _logits(pair, library, split, view)
        classes = library.cache(pair.a, split, view).classes
        if not 2 < len(classes) <= MOST_CLASSES:
            continue
        difference = correlation_difference(*logits)
        for i, one in enumerate(classes):
            for j, other in enumerate(classes):
                yield {
                    "measure": "class-correlation-difference", "definition": "kdscope", "a": roles.name(pair.a),
                    "b": roles.name(pair.b), "layer": "logits", "value": difference[i, j], "n": len(logits[0]),
                    "pair": pair.pair, "group": roles.group_name(pair.b), "a_group": roles.group_name(pair.a),
                    "seed": "" if pair.b.seed is None else str(pair.b.seed), "class_a": one, "class_b": other,
                }  # fmt: skip


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """A line for each student and teacher: how far their classes are related differently."""
    rows = table[(table["measure"] == "class-relations") & table["pair"].isin(TAUGHT)]
    several = rows.groupby(["group", "a_group"])["seed"].transform(lambda seeds: (seeds == "all").any())
    rows = rows[~several.astype(bool) | (rows["seed"] == "all")]
    return pd.DataFrame(
        {
            "student": r.b, "teacher": r.a, "split": r.split,
            "class relations": f"{r.value:.3f} [{r.ci_low:.3f}, {r.ci_high:.3f}]",
            "floor": "" if np.isnan(r.floor) else f"{r.floor:.3f}",
            "ceiling": "" if np.isnan(r.ceiling) else f"{r.ceiling:.3f}",
        }
        for r in rows.itertuples()
    )  # fmt: skip


def _notes(table: pd.DataFrame) -> list[str]:
    said = ["t-SNE: distances between clusters and their sizes say nothing, only who is whose neighbour"]
    maps = table[table["pair"] == "map"]
    for (name, measure), own in maps.groupby(["a", "measure"], sort=False):
        pure = own["value"].mean()
        said.append(f"{name}, {measure} of {own['layer'].iloc[0]}: {pure:.0%} of neighbours of one class")
    return said
