"""What a study's `figures:` names, drawn once all its questions are answered, and again when an answer has changed."""

import logging
import traceback

from kdscope.files import digest, read_json, write_json, write_text
from kdscope.study.ask import Answer
from kdscope.study.place import FAILED, Place
from kdscope.study.schema import Study

say = logging.getLogger("kdscope").info
FIGURES = "figures"


def check_figures(study: Study) -> None:
    """Raise for figures that are none, before hours are spent on runs."""
    if study.figures:
        from kdscope.analyses.papers import PAPERS

        _ = PAPERS[study.figures]


def draw_paper(study: Study, place: Place) -> list[Answer]:
    """One answer, or none where the study asks for no figures or none of its questions was ever answered."""
    marks = {path.parent.name: path for path in sorted(place.folder.glob("*/asked.json"))}
    marks.pop(FIGURES, None)
    if not study.figures or not marks:
        return []
    from kdscope.analyses.papers import PAPERS

    folder = place.folder / FIGURES
    answered = {"figures": study.figures, "of": {label: read_json(path).get("digest") for label, path in marks.items()}}
    mark = folder / "asked.json"
    if mark.is_file() and read_json(mark).get("digest") == digest(answered):
        return [Answer(FIGURES, folder)]
    say(f"drawing the figures of {study.figures}")
    try:
        PAPERS[study.figures](place.folder)
    except Exception as error:
        line = " ".join(str(error).split()) or type(error).__name__
        write_text(place.folder / "logs" / f"{FIGURES}.log", f"{traceback.format_exc()}{FAILED}{line}\n")
        say(f"the figures of {study.figures} failed: {line}")
        return [Answer(FIGURES, folder, error=line)]
    write_json(mark, answered | {"digest": digest(answered)})
    return [Answer(FIGURES, folder)]
