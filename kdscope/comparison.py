"""One table of several methods: the same student from one teacher, the same recipe and the same seeds for each.

What makes such a table fair: equal epochs of the student (those of phases and chains beside them are told), one
teacher, the same start and order of images for each method at a seed, and the last epoch, never the best on test.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdscope import api, models
from kdscope.config import IDLE, Config, TeacherSettings, flat
from kdscope.errors import KDScopeError, unknown
from kdscope.fleet import Outcome, Training, begun, check_jobs, train_all
from kdscope.methods import resolve
from kdscope.methods.method import known_terms, one_of
from kdscope.run import Run

if TYPE_CHECKING:
    from kdscope.analyses.base import Report

ALWAYS = ("none", "kd")  # what every other is compared with
TEACHER_SEED = 1000  # none of the students'
OPTIONS = {
    "method": "--methods", "seed": "--seeds", "epochs": "--epochs", "teachers": "--teacher",
    "data.name": "--data", "model.name": "--student", "device": "--device",
}  # fmt: skip
OF_TEACHER = ("data", "optim", "precision", "compile", "checkpoint_every")  # what its recipe shares with the students'


@dataclass(frozen=True)
class Comparison:
    """What `compare` left: the report of the analysis `comparison`, and the trainings that failed."""

    report: "Report"
    failed: tuple[Outcome, ...] = ()


def compare(
    methods: str | Iterable[str],
    out: str | Path,
    *,
    teacher: str | Path | Run,
    student: str,
    data: str = "digits",
    epochs: int = 30,
    teacher_epochs: int | None = None,
    seeds: int = 3,
    jobs: int | None = None,
    device: str = "auto",
    assignments: Sequence[str] = (),
) -> Comparison:
    """Train `student` by each of the methods with the same seeds, and say which differ beyond chance.

    Called again it goes on; methods and seeds that are added later reuse the runs that are there.

    Args:
        methods: names or sums, as a list or as one text with commas; `none` and `kd` are added.
        out: folder for the runs METHOD-seedN, and the teacher's where that is trained, the table and its figure.
        teacher: a run, weights of a model (NAME@CHECKPOINT), or a model's name: trained first, with a seed of its own.
        epochs: of the student; `teacher_epochs`: of a teacher that is trained here, by default as many.
        seeds: how many trainings of each method, 0, 1, ...
        jobs: trainings at a time (`kdscope.fleet.train_all`).
        assignments: settings as text for all of them; `terms.dkd.beta=2` is for the methods that have that term.

    Raises:
        KDScopeError: bad settings, networks that do not fit, or runs in `out` that were trained in another way. Then
            nothing is trained.

    >>> small = {"data": "digits:8", "student": "resnet8", "teacher": "resnet14", "epochs": 1, "seeds": 2, "jobs": 1}
    >>> rows = compare("at", "table", **small).report.table
    >>> list(rows[(rows.measure == "accuracy") & (rows.seed == "all")].b)
    ['none', 'kd', 'at']
    """
    out, asked = Path(out), _names(methods)
    if jobs is not None:
        check_jobs(jobs)
    if seeds < 1:
        raise KDScopeError(f"{seeds} seeds are no training; give --seeds 1 or more (3 show some of the chance)")
    names = [*(name for name in ALWAYS if name not in asked), *asked]
    shared = {"data": data, "device": device}
    of_teacher, of_method = _divided(assignments, names)
    first = _first_training(out, teacher, shared | {"epochs": teacher_epochs or epochs, "assignments": of_teacher})
    taught_by = teacher if first is None else first.path
    trainings: dict[str, list[Training]] = {}
    for name in names:
        settings = shared | {"model": student, "epochs": epochs, "method": name, "assignments": of_method[name]}
        teachers = (taught_by,) if needs_teacher(name) else ()
        paths = [out / f"{name}-seed{seed}" for seed in range(seeds)]
        trainings[name] = [Training(path, settings | {"seed": seed}, teachers) for seed, path in enumerate(paths)]

    if first is not None:
        _check([first])
    for each in trainings.values():
        _check(each, first)
    if first is not None and (outcome := train_all([first], 1)[0]).error:
        raise KDScopeError(str(outcome))
    outcomes = train_all([training for each in zip(*trainings.values(), strict=True) for training in each], jobs)
    failed = tuple(outcome for outcome in outcomes if outcome.error)
    if len(failed) == len(outcomes):
        raise KDScopeError(str(failed[0]))
    order = [training.path for each in trainings.values() for training in each]
    lost = {outcome.path for outcome in failed}
    report = api.analyze("comparison", *(path for path in order if path not in lost), out=out, device=device)
    notes = [f"{name} was added, for the others are compared with it" for name in names if name not in asked]
    notes += [str(outcome) for outcome in failed]
    return Comparison(replace(report, notes=(*report.notes, *notes)), failed)


def _names(methods: str | Iterable[str]) -> list[str]:
    """Methods in one spelling, each once."""
    given = methods.split(",") if isinstance(methods, str) else methods
    names = ["+".join(part.strip().lower() for part in name.split("+")) for name in given if name.strip()]
    if not names:
        raise KDScopeError("no method is named; give --methods kd,at")
    for name in names:
        resolve(name)
    return list(dict.fromkeys(names))


def _divided(assignments: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The assignments of the teacher, and of each method: those that it has a use for."""
    terms = {name: set(resolve(name)) for name in names}
    of_teacher: list[str] = []
    of_method: dict[str, list[str]] = {name: [] for name in names}
    for text in assignments:
        key = text.partition("=")[0].strip()
        group, _, rest = key.partition(".")
        if key in OPTIONS or group == "teachers":
            raise KDScopeError(f"--set {key}: a comparison takes that by {OPTIONS.get(key, '--teacher')}")
        if group == "terms":
            term = rest.partition(".")[0]
            having = [name for name in names if term in terms[name]]
            if term not in known_terms() or not having:
                raise unknown("term", term, set().union(*terms.values()), "the methods that are compared")
        else:
            having = [name for name in names if _has_use(name, group)]
        for name in having:
            of_method[name].append(text)
        if group in OF_TEACHER:
            of_teacher.append(text)
    return of_teacher, of_method


def _has_use(method: str, group: str) -> bool:
    """Whether a group of settings says something to a method: those of chains and peers do to few."""
    if group in ("assistants", "generations"):
        return one_of(method, "chain", "") == group
    return group != "peers" or one_of(method, "peers", 0) > 0


def needs_teacher(method: str) -> bool:
    """Whether it learns from a teacher that is there before: generations make their own, and labels need none."""
    known = known_terms()
    reads = {known[term].reads for term in resolve(method)}
    return bool(reads & {"logits", "features"}) and one_of(method, "chain", "") != "generations"


def _first_training(out: Path, teacher: str | Path | Run, settings: Mapping[str, Any]) -> Training | None:
    """The training of the teacher, where it is a model's name."""
    if isinstance(teacher, Run) or begun(Path(teacher)) or "@" in str(teacher) or ":" in str(teacher):
        return None
    if str(teacher) not in models.names() and ("/" in str(teacher) or Path(teacher).exists()):
        raise KDScopeError(f"teacher {str(teacher)!r} is neither a run directory (it has no config.yaml) nor a model")
    return Training(out / "teacher", {**settings, "model": str(teacher), "seed": TEACHER_SEED})


def _check(trainings: Sequence[Training], first: Training | None = None) -> None:
    """Raise unless the networks of trainings that differ in their seeds fit, and those begun had the same settings."""
    from kdscope.training.loop import checked

    training, stand_in, teachers = trainings[0], None, trainings[0].teachers
    if first is not None and teachers and not (begun(first.path) and Run(first.path).finished):
        dataset = api.settings(**first.settings).data
        stand_in = [_untrained(first.settings["model"], dataset)]
        teachers = (TeacherSettings(model=first.settings["model"]),)
    config, *_ = checked(api.settings(teachers=teachers, **training.settings), training.path, stand_in)
    for each in trainings:
        if begun(each.path):
            wanted = config.model_copy(update={"seed": each.settings["seed"]})
            _same(each.path, wanted, Run(each.path).recipe, taught=stand_in is None)


def _untrained(name: str, settings: Any) -> Any:
    from kdscope.run import load_data

    dataset = load_data(settings)
    return models.build(name, dataset.num_classes, image_size=dataset.image_size)


def _same(path: Path, wanted: Config, found: Config, taught: bool) -> None:
    """Raise for the first setting in which the run at `path` is not what is wanted."""
    ours, theirs = (flat(config.model_dump(mode="json", exclude={"teachers"})) for config in (wanted, found))
    for key in dict.fromkeys((*ours, *theirs)):
        if key not in IDLE and ours.get(key) != theirs.get(key):
            raise KDScopeError(
                f"{path} was trained with {key}={theirs.get(key)!r}, and {ours.get(key)!r} is wanted now; "
                "choose another --out, or the same setting"
            )
    if taught and [_who(t) for t in wanted.teachers] != [_who(t) for t in found.teachers]:
        raise KDScopeError(f"{path} was trained with another teacher ({_place(found)}); choose another --out")


def _who(teacher: TeacherSettings) -> str:
    """A teacher by its weights: a run's are what it now has (a run that learns by a chain does not know them)."""
    if teacher.weights_hash is None and teacher.run is not None:
        return Run(teacher.run).summary["weights_hash"]
    return teacher.weights_hash or f"{teacher.model}@{teacher.checkpoint}"


def _place(config: Config) -> str:
    return ", ".join(str(teacher.run or teacher.checkpoint or teacher.model) for teacher in config.teachers) or "none"
