"""What a study file says: the settings of every run, a grid for each kind of run, questions, and scales.

    # One line that `kdscope list studies` prints.
    title: Does the temperature matter?
    settings: {data: digits, model: resnet8, epochs: 12}
    seeds: 3
    runs:
      teacher: {settings: {model: resnet20}}
      alone: {}
      kd:
        settings: {method: kd}
        grid: {terms.kd.temperature: [1, 4, 16]}
        teachers: [teacher]
    analyses:
      - {name: fidelity}
    scales:
      smoke: {seeds: 1, settings: {epochs: 1}, grid: {terms.kd.temperature: [4]}}

Settings are written as in a run's config.yaml, and may be dotted (`optim.lr: 0.05`) or short (`model: resnet8`). A
later one of these goes before an earlier one: the study's, the run's, the scale's, the scale's of that run, the grid's.
"""
# ruff: noqa: RUF012 (pydantic copies defaults)

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from kdscope.config import Settings, read_yaml, validated
from kdscope.errors import KDScopeError, unknown
from kdscope.study.grid import as_axis

MOST = 20_000  # runs of a study: what a mistyped grid has more of would fill the memory before it is refused
RESERVED = ("runs", "logs", "runs.csv", "table.csv", "table.md", "table.tex", "plan.yaml")  # beside the analyses


def _axes(grid: Any) -> Any:
    return {str(name): as_axis(str(name), values) for name, values in grid.items()} if isinstance(grid, dict) else grid


def _seeds(seeds: Any) -> Any:
    """`3` stands for 0, 1, 2; a list for itself."""
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds > MOST:
            raise ValueError(f"a study has at most {MOST} runs")
        seeds = list(range(seeds))
    if isinstance(seeds, list) and (not seeds or len(set(map(str, seeds))) < len(seeds)):
        raise ValueError("seeds are a number of them, at least 1, or a list of different ones")
    return seeds


def _several(names: Any) -> Any:
    """One name, or several in a list."""
    return [names] if isinstance(names, str | dict) else names


Axes = Annotated[dict[str, dict[str, Any]], BeforeValidator(_axes)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] | None, BeforeValidator(_seeds)]
Names = Annotated[tuple[str, ...], BeforeValidator(_several)]
# A run's name, or {run: NAME, AXIS: value, seed: S, weight: W}; a list of values stands for several teachers.
Reference = str | dict[str, Any]
References = Annotated[tuple[Reference, ...], BeforeValidator(_several)]


class Arm(Settings):
    """One kind of run, which becomes a run for each point of its grid and each seed."""

    about: str = ""
    settings: dict[str, Any] = {}
    grid: Axes = {}  # axis: a list of values, or {NAME: value}; an axis that is no setting has groups of settings
    include: tuple[dict[str, Any], ...] = ()  # further points: a value or name for each axis, and settings of their own
    exclude: tuple[dict[str, Any], ...] = ()  # points that are left out: those that have all these values
    seeds: Seeds = None  # the study's where it has none of its own
    seed_offset: int = Field(0, ge=0)  # added to the seed: networks of one architecture do not start alike then
    teachers: References = ()  # the cells with the same seed and the same values of the axes that both have
    start: Reference | None = None  # the run whose weights the network begins with


class Question(Settings):
    """One analysis of some of the runs."""

    name: str
    runs: Names = ("*",)  # names of runs or globs of cells
    options: dict[str, Any] = {}
    label: str = ""  # of the folder of its tables and figures; its name where there is none
    per: str = ""  # an axis: asked of the runs of each of its values by themselves, such as of each data set


class Fewer(Settings):
    """What a scale changes in one kind of run."""

    settings: dict[str, Any] = {}
    grid: dict[str, Any] = {}
    seeds: Seeds = None


class Scale(Settings):
    """What is smaller, or shorter, at one scale."""

    about: str = ""
    settings: dict[str, Any] = {}
    seeds: Seeds = None
    grid: dict[str, Any] = {}  # axis: names of those of its values that are kept, or other values
    runs: dict[str, Fewer] = {}
    without: Names = ()  # runs that are left out
    analyses: dict[str, dict[str, Any] | bool] = {}  # by label: further options, or false to leave it out


class Study(Settings):
    """A whole study; `name` is that of its file."""

    name: str = ""
    title: str
    citation: str = ""
    about: str = ""
    claims: tuple[str, ...] = ()  # what the paper says, one sentence each
    settings: dict[str, Any] = {}
    seeds: Seeds = (0,)
    runs: dict[str, Arm]
    analyses: tuple[Question, ...] = ()
    figures: str = ""  # what is drawn of all answers together, by its name in `kdscope.analyses.papers`
    published: dict[str, dict[str, float]] = {}  # by source: test accuracy in %, by the name of cells without the seed
    scales: dict[str, Scale] = {}

    def scale(self, name: str | None) -> tuple[str, Scale]:
        """A scale by its name; without one the first in the file, or the study as it is where it has none."""
        if name is None:
            return next(iter(self.scales.items()), ("", Scale()))
        if name not in self.scales:
            raise unknown("scale", name, self.scales, f"study {self.name!r}")
        return name, self.scales[name]


def names() -> list[str]:
    """The studies that kdscope brings along."""
    folder = resources.files("kdscope.analyses").joinpath("studies")
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def load_study(name: str | Path) -> Study:
    """The study in a YAML file, or one that kdscope brings along, by its name.

    Raises:
        KDScopeError: no such study (with the nearest), not a YAML file, an unknown key (with the nearest), or two
            analyses with one label, or a name that is none for a folder.

    >>> load_study("quickstart").runs["kd"].teachers
    ('teacher-weak',)
    """
    path = Path(name)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml") or "/" in str(name):
            raise KDScopeError(f"{name}: there is no such study file")
        if str(name) not in names():
            raise unknown("study", str(name), names())
        path = Path(str(resources.files("kdscope.analyses").joinpath("studies", f"{name}.yaml")))
    values = read_yaml(path)
    if isinstance(values.get("runs"), Mapping):  # `alone:` with nothing behind it is a run, too
        values["runs"] = {str(run): {} if arm is None else arm for run, arm in values["runs"].items()}
    study = validated(Study, values | {"name": path.stem}, str(path))
    labels = [question.label or question.name for question in study.analyses]
    for kind, given in {"study": [study.name], "run": study.runs, "scale": study.scales, "label": labels}.items():
        for each in given:
            _check_name(kind, each, path)
    for label in labels:
        if labels.count(label) > 1:
            raise KDScopeError(f"{path}: two analyses have the label {label!r}; give one of them another `label`")
    return study


def _check_name(kind: str, name: str, path: Path) -> None:
    """Raise for a name of which no folder can be made inside another."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]*", name):
        right = re.sub(r"[^A-Za-z0-9_.+=-]+", "-", name).strip("-.") or "a"
        raise KDScopeError(
            f"{path}: {name!r} is no name for a {kind}: letters, digits and _ . + = - alone, such as {right!r}"
        )
    if name in RESERVED:
        raise KDScopeError(f"{path}: a {kind} cannot be called {name!r}: the folder of the study has that name already")
