"""Does a student use the templates of its KD layers, and are they of classes?

Gorgun, Gurbuz & Alatan, BMVC 2023, have the student match each place of a map with templates. From what the network
said of each image with its layers whole and changed (`kdscope.features.templates`): how often templates are used and
how pure in classes they are, beside shuffled labels; and what is left of the accuracy when the layers count less, add
the same everywhere, or lose the templates that matched.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdscope.analyses.base import Report, analysis, tidy
from kdscope.analyses.kin import identify, names_of
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.thumbnails import THUMBNAIL
from kdscope.figures.pictures import Pictures
from kdscope.measures.statistics import bootstrap_mean, exact_mean, paired_bootstrap, wilson
from kdscope.measures.templates import hits, null_purity, perplexity, purity, table_of
from kdscope.sources import Subject

COLUMNS = (
    *("method", "architecture", "seed", "template", "rank", "class", "change", "amount", "control", "confidence"),
    "pictures",
)
GALLERY = "templates-gallery.npz"
SHOWN = 5  # templates beside each other


@analysis(
    "templates",
    summary="Which templates of a KD layer match which regions, are they of classes, and does the network need them?",
    citation="Gorgun, Gurbuz & Alatan, BMVC 2023",
)
def templates(
    subjects: Sequence[Subject],
    *,
    splits: str = "test",
    view: str = "none",
    top: int = 20,
    least: int = 20,
    confidence: float = 0.95,
) -> Report:
    """Use and class purity of templates, and the accuracy without parts of the layers.

    Args:
        splits: the one split to look at. view: the augmentation under which its images are shown.
        top: so many templates are listed, by use and by purity.
        least: templates with fewer places are not ranked by purity: they are pure by chance.
        confidence: of all intervals, over images.

    Returns:
        A report whose table has, besides the shared columns: template and rank (of the measures "use", a share of all
        places, and "purity"; floor: the same with shuffled labels), class (its commonest), change and amount (of
        "accuracy" and "accuracy-change": "alpha", "mean", "without-top"; `layer` says of which layers); purity of the
        templates that are used most is "by use". "templates-used", "perplexity", "unmatched" and "purity" without a
        template are of a whole layer.

    Raises:
        KDScopeError: a network without KD layers; several splits; nothing to list.
    """
    if top < 1:
        raise KDScopeError(f"templates lists at least 1 template, not {top}: --option top=20")
    if "," in str(splits):
        raise KDScopeError(f"templates are of one split, and {splits!r} names several")
    known, rows, pictures = names_of(subjects), [], {}
    for subject in subjects:
        cache = subject.cache(splits, view, kind="templates")
        name = known[identify(subject)]
        shared = {
            "analysis": "templates", "definition": "kdscope", "a": name, "b": name, "split": splits, "view": view,
            "method": subject.method, "architecture": subject.architecture,
            "seed": "" if subject.seed is None else str(subject.seed), "confidence": confidence,
        }  # fmt: skip
        for layer in cache.layers:
            found = list(_of_layer(cache, layer, top, least, confidence))
            used = [row["template"] for row in found if row["measure"] == "use"]
            if used and not pictures and layer == cache.layers[-1]:
                pictures[GALLERY] = _gallery(cache, layer, used)
                found = [row | {"pictures": GALLERY} for row in found]
            rows += [shared | {"layer": layer} | row for row in found]
        rows += [shared | row for row in _ablations(cache, confidence)]
    table = tidy(rows, COLUMNS)
    for column in ("template", "rank"):
        table[column] = table[column].astype("Int64")
    return Report(table, _short(table), tuple(_notes(table)), pictures)


def _of_layer(cache: FeatureCache, layer: str, top: int, least: int, confidence: float) -> Iterator[dict[str, Any]]:
    """Of one layer: the whole, then the templates that are used most, then those that are purest."""
    codes = cache.array(f"templates/code/{layer}")[:].reshape(len(cache), -1)
    labels, classes, count = cache.labels, len(cache.classes), cache.identity["templates"][layer]
    table = table_of(codes, labels, count, classes)
    null, whole_null = null_purity(codes, labels, count, classes)
    places = (codes >= 0).sum(1)
    here = places > 0
    used = table.sum(1)
    yield {"measure": "templates-used", "value": float((used > 0).mean()), "n": count}
    yield {"measure": "perplexity", "value": perplexity(table), "ceiling": float(count), "n": len(codes)}
    yield _mean("unmatched", (codes < 0).mean(1), None, confidence)
    yield _mean("purity", hits(codes, labels, table)[here], places[here].astype(float), confidence) | {
        "floor": whole_null, "control": "labels of the images shuffled",
    }  # fmt: skip
    of_use = np.argsort(-used, kind="stable")[: min(top, int((used > 0).sum()))]
    of_purity = np.where(used >= least, purity(table), -1.0)
    purest = np.lexsort((-used, -of_purity))[: min(top, int((used >= least).sum()))]
    for measure, order in (("use", of_use), ("purity", purest)):
        for rank, k in enumerate(order.tolist(), 1):
            own = (codes == k).sum(1).astype(float)
            best = int(table[k].argmax())
            about = {"template": k, "rank": rank, "class": cache.classes[best]}
            if measure == "use":
                yield _mean("use", own / codes.shape[1], None, confidence) | about | {"floor": 1 / count}
            is_best = (labels == best).astype(float)
            row = _mean("purity", is_best[own > 0], own[own > 0], confidence)
            control = {"floor": float(null[k]), "control": "labels of the images shuffled"}
            yield row | about | control | {"change": f"by {measure}"}


def _mean(measure: str, values: np.ndarray, weights: np.ndarray | None, confidence: float) -> dict[str, Any]:
    low, high = bootstrap_mean(values, weights, confidence=confidence)
    value = exact_mean(values, weights)
    return {"measure": measure, "value": value, "ci_low": low, "ci_high": high, "n": len(values)}


def _ablations(cache: FeatureCache, confidence: float) -> Iterator[dict[str, Any]]:
    """Accuracy of the network whole and changed, and the difference on the same images."""
    whole = (cache.logits.argmax(1) == cache.labels).astype(float)
    names = [name.removeprefix("ablation/") for name in cache.names if name.startswith("ablation/")]
    for name in ["", *sorted(names, key=lambda n: (n.partition("@")[2], *_split(n.partition("@")[0])))]:
        change, _, layer = name.partition("@")
        kind, amount = _split(change)
        right = whole if not name else (cache.array(f"ablation/{name}")[:].argmax(1) == cache.labels).astype(float)
        low, high = wilson(float(right.mean()), len(right), confidence)
        about = {"layer": layer or "all", "change": kind, "amount": amount, "n": len(right)}
        yield about | {"measure": "accuracy", "value": float(right.mean()), "ci_low": low, "ci_high": high}
        if name:
            value, low, high = paired_bootstrap(right, whole, confidence=confidence)
            yield about | {"measure": "accuracy-change", "value": value, "ci_low": low, "ci_high": high}


def _split(change: str) -> tuple[str, float]:
    """What was changed, and how much.

    >>> _split("alpha=0.25"), _split("without-top-16"), _split("")
    (('alpha', 0.25), ('without-top', 16.0), ('none', nan))
    """
    if change.startswith("alpha="):
        return "alpha", float(change.removeprefix("alpha="))
    if change.startswith("without-top-"):
        return "without-top", float(change.removeprefix("without-top-"))
    return change or "none", float("nan")


def _gallery(cache: FeatureCache, layer: str, chosen: Sequence[int]) -> Pictures:
    """Columns are the templates that are used most, rows the image in which each has most places."""
    codes, share = (cache.array(f"templates/{what}/{layer}")[:] for what in ("code", "share"))
    chosen = chosen[:SHOWN]
    own = np.stack([(codes == k).reshape(len(codes), -1).mean(1) for k in chosen])
    rows = list(dict.fromkeys(own.argmax(1).tolist()))
    names = {f"template {k}": np.where(codes[rows] == k, share[rows], 0.0).astype(np.float32) for k in chosen}
    return Pictures(
        f"where the templates used most match, {layer}",
        "of each template the image in which it matches most places; the number is the share of places",
        cache.array(THUMBNAIL)[rows], tuple(f"{cache.classes[cache.labels[r]]}, no. {cache.index[r]}" for r in rows),
        names, np.zeros((len(rows), 0, 0), bool), {"places": own[:, rows].T},
    )  # fmt: skip


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """What a terminal shows: each layer as a whole, and the accuracies."""
    one = (table["measure"] == "accuracy") & (table["layer"] != "all")  # of several layers
    whole = table[table["template"].isna() & (table["measure"] != "accuracy-change") & ~one]
    what = whole["measure"].where(whole["change"].isna(), whole["measure"] + ", " + whole["change"].fillna(""))
    amount = whole["amount"].map(lambda x: "" if pd.isna(x) else f" {x:g}")

    def number(value: float) -> str:
        return "" if pd.isna(value) else f"{value:.3g}"

    interval = [
        f"{number(a)} to {number(b)}" if pd.notna(a) else ""
        for a, b in zip(whole["ci_low"], whole["ci_high"], strict=True)
    ]
    return pd.DataFrame(
        {
            "network": whole["b"], "layer": whole["layer"].fillna(""), "measure": what + amount,
            "value": whole["value"].map(number), "interval": interval, "shuffled": whole["floor"].map(number),
        }
    )  # fmt: skip


def _notes(table: pd.DataFrame) -> Iterator[str]:
    changes = table[(table["measure"] == "accuracy-change") & (table["layer"] == "all")]
    for name, own in changes.groupby("b", sort=False):
        zero = own[(own["change"] == "alpha") & (own["amount"] == 0)]
        for row in zero.itertuples():
            verdict = "needs its layers" if row.ci_high < 0 else "is not shown to need its layers"
            yield (
                f"{name} {verdict}: with alpha 0 at test time its accuracy changes by {100 * row.value:+.1f} points "
                f"({100 * row.ci_low:+.1f} to {100 * row.ci_high:+.1f})"
            )
    yield "a template that is used rarely is pure by chance: purity is to be read beside that of shuffled labels"
