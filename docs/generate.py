"""Writes docs/methods.md from what the methods say of themselves: `python docs/generate.py` (`--check` only compares).

The cost of a step comes from docs/methods_cost.csv, which `benchmarks/methods.py --out docs/methods_cost.csv` measures.
"""

import csv
import sys
from pathlib import Path

from kdscope.detection.methods.fgd import OFFICIAL
from kdscope.detection.methods.presets import DETECTION_METHODS, resolve
from kdscope.methods import METHODS
from kdscope.methods.method import FAMILIES, Method
from kdscope.training.explain import all_methods, explain, size_in_words, weights_in_words

HERE = Path(__file__).parent
PAIR = ("resnet20", "resnet56")
HEAD = """# Methods

Written by `python docs/generate.py` from the methods' own metadata; do not edit. `kdscope explain METHOD` tells the
same of one method on any pair of networks.

Extra state is for resnet56 to resnet20 with 50,000 images of 100 classes: trained numbers beside the student's, and
what the terms keep in memory. Cost is the time of a training step over that of `kd` on the same pair ({where}).
"""
DETECTORS = """Methods of detectors ([detection](detection.md)) add up as those of classifiers do: `mimicry+kd`. Their
costs are in `benchmarks/detection.py`. FGD takes the weights of the authors' code by the student's heads: with a
proposal network it is of the family two-stage, with centreness fcos, otherwise retinanet; what else is in its table
are weights alone, for `terms.fgd.family`.
"""
WORDS = {
    "baseline": "Without a teacher",
    "logits": "Logits",
    "features": "Features",
    "relations": "Relations",
    "schedule": "Schedules of training",
}


def page() -> str:
    """The whole page."""
    costs = _costs()
    text = [HEAD.format(where=costs.get("where", "not measured"))]
    for family in FAMILIES:
        names = [name for name in all_methods() if METHODS[name].family == family]
        text.append(f"\n## {WORDS[family]}\n")
        text.append("| method | what is transferred | terms | extra state | cost |\n|---|---|---|---|---|")
        text += [_row(name, costs) for name in names]
        text += [_section(name, METHODS[name]) for name in names]
    return "\n".join(text + _of_detectors()) + "\n"


def _of_detectors() -> list[str]:
    """The methods of detectors, whose cost depends on the family: benchmarks/detection.py measures some."""
    text = ["\n## Detectors\n", DETECTORS, "| method | what is transferred | terms |\n|---|---|---|"]
    for name in DETECTION_METHODS:
        terms = " + ".join(f"{weights_in_words(settings)} {term}" for term, settings in resolve(name).items())
        text.append(f"| [`{name}`](#detectors-{name}) | {DETECTION_METHODS[name].transfers} | {terms} |")
    for name in DETECTION_METHODS:
        text.append(_section(f"detectors: {name}", DETECTION_METHODS[name]))
        if name == "fgd":
            text.append("| weights of the authors' code, by family | alpha | beta | gamma | lambda | T |")
            text.append("|---|---|---|---|---|---|")
            text += [_official(family) for family in OFFICIAL]
    return text


def _official(family: str) -> str:
    numbers = (f"{value:.2g}".replace("e-0", "e-") for value in vars(OFFICIAL[family]).values())
    return f"| {' | '.join([family, *numbers])} |"


def _row(name: str, costs: dict[str, str]) -> str:
    found = explain(name, *PAIR)
    terms = " + ".join(f"{weights_in_words(settings)} {term}" for term, settings in found.terms.items())
    state = [f"{found.parameters:,} parameters"] if found.parameters else []
    if found.state_bytes > 4 * found.parameters + 2**16:
        state.append(size_in_words(found.state_bytes - 4 * found.parameters) + " of buffers")
    state += [f"phase {phase.name}: {100 * phase.share:.3g} % of epochs" for _, phase in found.phases]
    state += [f"chain of {found.chain}"] if found.chain else []
    state += [f"gradients: {found.gradients}"] if found.gradients != "sum" else []
    cells = [f"[`{name}`](#{name})", METHODS[name].transfers, terms, "; ".join(state) or "-", costs.get(name, "-")]
    return f"| {' | '.join(cells)} |"


def _section(name: str, preset: Method) -> str:
    lines = [f"\n### {name}\n", f"{preset.title}. {preset.citation}.\n", f"    {preset.equation}\n"]
    told = (("Published", preset.reference), ("Departures", preset.departures), ("Cost", preset.cost))
    return "\n".join(
        lines + [f"**{word}.** {text}{'' if text.endswith('.') else '.'}\n" for word, text in told if text]
    )


def _costs() -> dict[str, str]:
    """Step time over that of kd by method, and where it was measured."""
    path = HERE / "methods_cost.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {row["method"]: f"{float(row['ratio']):.2f}" for row in rows} | {"where": rows[0]["where"]}


if __name__ == "__main__":
    written = page()
    if "--check" in sys.argv:
        sys.exit(
            0 if (HERE / "methods.md").read_text() == written else "docs/methods.md is not what the methods say now"
        )
    (HERE / "methods.md").write_text(written)
