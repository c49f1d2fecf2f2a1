"""Writes docs/studies/NAME.md, a page for each study, from its file; `--from ROOT` takes figures along.

    python docs/generate_studies.py                        # the pages
    python docs/generate_studies.py --from studies         # and small copies of the figures of ROOT/NAME-SCALE

Figures keep the caption that was written beside them, and the page says at which scale they were drawn.
"""

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from kdscope.study.cells import cells as cells_of
from kdscope.study.schema import Study, load_study, names

HERE = Path(__file__).parent
FIGURES = HERE / "figures" / "studies"
WIDTH = 1100  # pixels of a copy
SCALES = ("smoke", "cpu", "paper")


def page(name: str) -> str:
    """The page of one study."""
    study = load_study(name)
    text = [f"# {name}", f"**{study.title}**", f"After {study.citation}." if study.citation else ""]
    text += [study.about.strip()]
    if study.claims:
        text += ["What is claimed, and put to the test:", "\n".join(f"- {claim}" for claim in study.claims)]
    text += ["## Run it", _commands(name, study), "## Runs", _runs(study), "## Questions", _questions(study)]
    if study.published:
        sources = ", ".join(f"`{source}`" for source in study.published)
        text += [f"Published numbers are columns of the table beside ours: {sources}."]
    text += _figures(name)
    return "\n\n".join(part for part in text if part) + "\n"


def _commands(name: str, study: Study) -> str:
    lines = []
    for scale in sorted(study.scales, key=lambda s: SCALES.index(s) if s in SCALES else len(SCALES)):
        lines.append(f"    kdscope study run {name} --scale {scale}")
    rows = ["| scale | trainings | what it is |", "| --- | --- | --- |"]
    for scale, settings in study.scales.items():
        rows.append(
            f"| `{scale}` | {len({c.key for c in cells_of(study, scale)})} | {' '.join(settings.about.split())} |"
        )
    return "\n".join([*lines, "", *rows])


def _runs(study: Study) -> str:
    rows = ["| run | what for | learns from | varies |", "| --- | --- | --- | --- |"]
    for name, arm in study.runs.items():
        taught = [each if isinstance(each, str) else str(each.get("run")) for each in arm.teachers]
        axes = [f"{axis.rpartition('.')[2]}: {', '.join(values)}" for axis, values in arm.grid.items()]
        method = arm.settings.get("method", study.settings.get("method", "none"))
        what = " ".join(arm.about.split()) or (f"`{method}`" if isinstance(method, str) else "")
        cut = [axis if len(axis) < 90 else f"{axis[:88]} ..." for axis in axes]
        rows.append(
            f"| `{name}` | {what} | {', '.join(dict.fromkeys(taught))} | {'; '.join(cut)} |".replace("||", "| |")
        )
    return "\n".join(rows)


def _questions(study: Study) -> str:
    rows = ["| analysis | of | options |", "| --- | --- | --- |"]
    for question in study.analyses:
        options = ", ".join(f"{key}: {json.dumps(value)}" for key, value in question.options.items())
        label = f" ({question.label})" if question.label else ""
        rows.append(f"| `{question.name}`{label} | {', '.join(f'`{run}`' for run in question.runs)} | {options} |")
    return "\n".join(rows) if study.analyses else "Accuracy alone."


def _figures(name: str) -> list[str]:
    folder = FIGURES / name
    if not (folder / "from.json").is_file():
        return []
    taken = json.loads((folder / "from.json").read_text(encoding="utf-8"))
    text = ["## Figures", taken["said"]]
    for figure in taken["figures"]:
        caption = " ".join(figure["caption"].split())
        text.append(f"![{_plain(caption)[:200]}](../figures/studies/{name}/{figure['file']})")
        text.append(caption)
    return text


def _plain(text: str) -> str:
    return re.sub(r"[\[\]\n]", " ", text)


def take(root: Path, wanted: dict[str, list[str]]) -> None:
    """Copy figures of the finished studies in `root`: those of `wanted`, by study, or the first of each question."""
    for folder in sorted(path.parent for path in root.glob("*/plan.yaml")):
        name, _, scale = folder.name.rpartition("-")
        if name not in names():
            continue
        there = {f"{p.parent.name}/{p.stem}": p for p in sorted(folder.glob("*/*.png"))}
        chosen = [there[stem] for stem in wanted.get(name, ())] or [min(g) for g in _by_folder(there.values()).values()]
        out = FIGURES / name
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob("*.png"):
            old.unlink()
        kept = []
        for path in chosen:
            with Image.open(path) as image:
                size = (min(WIDTH, image.width), round(image.height * min(WIDTH, image.width) / image.width))
                small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            copy = f"{path.parent.name}-{path.name}"  # two questions may have figures of one name
            small.quantize(128).save(out / copy, optimize=True)
            caption = path.with_suffix(".txt")
            words = caption.read_text(encoding="utf-8") if caption.is_file() else path.stem.replace("-", " ")
            kept.append({"file": copy, "caption": words})
        said = f"Drawn by `kdscope study run {name} --scale {scale}`"
        said += ": trainings so short show what the figures look like, not what is true." if scale == "smoke" else "."
        taken = {"said": said, "figures": kept}
        (out / "from.json").write_text(json.dumps(taken, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _by_folder(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    groups: dict[Path, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.parent, []).append(path)
    return groups


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--from", dest="root", type=Path)
    arguments.add_argument("--figure", action="append", default=[], metavar="STUDY/QUESTION/STEM")
    given = arguments.parse_args()
    if given.root:
        chosen: dict[str, list[str]] = {}
        for figure in given.figure:
            chosen.setdefault(figure.partition("/")[0], []).append(figure.partition("/")[2])
        take(given.root, chosen)
    (HERE / "studies").mkdir(exist_ok=True)
    for study_name in names():
        (HERE / "studies" / f"{study_name}.md").write_text(page(study_name), encoding="utf-8")
