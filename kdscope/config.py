"""What a run is: validated settings, from YAML and from the command line.

Precedence, weakest first: the defaults below, the YAML file, the command line's own options, `--set key.path=value`.
What is written to a run directory is complete, so that `config.yaml` alone repeats the run.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from kdscope.errors import KDScopeError, unknown

# What a person is told of a value of the wrong shape, in place of the names of our classes.
SHAPES = {
    "model_type": "a mapping of settings is needed",
    "dict_type": "a mapping of settings is needed",
    "tuple_type": "a list is needed",
    "missing": "is needed and not there",
}
DETECTION = ("scenes", "coco", "coco-ids", "voc", "visdrone")  # datasets of images with boxes
# Datasets whose name goes on with a path.
PATHS = ("folder", "imagenet", "imagenet-lt", "tiny-imagenet", "coco", "coco-ids", "voc", "visdrone")
# The defaults of detectors where they are others than those below: the recipe of the small ones, from scratch.
DETECTORS = {
    "data": {"batch_size": 8},
    "model": {"name": "fcos_resnet10_w16"},
    "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-2, "warmup": 0.3, "clip_norm": 35.0},
    "eval_every": 0,
}
# What changes nothing of what is learned, so that runs with any of it are one training.
IDLE = (
    *("data.root", "data.download", "data.workers", "data.memory_budget"),
    *("device", "tensorboard", "checkpoint_every", "preflight"),
)
PROBES = ("probe", "probe_every", "probe_size", "probe_maps")  # nor do these; but what a run keeps is another thing
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def to_bytes(size: int | str) -> int:
    """A number of bytes from "4GiB", "500 MB" or a plain number; units are powers of 1024.

    >>> to_bytes("4GiB") == 4 * 2**30
    True
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(size), re.IGNORECASE)
    if match is None:
        raise ValueError("a size is a number and a unit, such as 4GiB or 500MiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def detects(data: str) -> bool:
    """Whether the dataset of that name has boxes, so that its networks are detectors.

    >>> detects("scenes:100"), detects("cifar10")
    (True, False)
    """
    kind = data.partition(":")[0]
    return kind in DETECTION or kind in _offered()


@functools.cache
def _offered() -> frozenset[str]:
    """Datasets with boxes of other packages: looked up once, for a study has thousands of configs."""
    return frozenset(point.name for point in entry_points(group="kdscope.detection_datasets"))


def _anywhere(path: Path) -> Path:
    """A path that means the same from every working directory, as config.yaml needs it."""
    return path.expanduser().resolve()


def _dataset(name: str) -> str:
    kind, _, path = name.partition(":")
    if kind == "long-tail":
        ratio, colon, base = path.partition(":")
        return f"{kind}:{ratio}{colon}{_dataset(base)}"
    return f"{kind}:{_anywhere(Path(path))}" if kind in PATHS and path else name


Bytes = Annotated[int, BeforeValidator(to_bytes)]


def off_as_text(value: Any) -> Any:
    """YAML reads a bare `off` as false.

    >>> off_as_text(False), off_as_text("warn")
    ('off', 'warn')
    """
    return "off" if value is False else value


Preflight = Annotated[Literal["stop", "warn", "off"], BeforeValidator(off_as_text)]
Place = Annotated[Path, AfterValidator(_anywhere)]


class _Loader(yaml.SafeLoader):
    """YAML as `safe_load` reads it, save that a key given twice is an error: which of the two was meant?"""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            keys.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back as the same value."""


for _kind in (_Loader, _Dumper):  # PyYAML takes 1e3 for text; YAML 1.2, and whoever writes `weight: 1e3`, for a number
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


class Settings(BaseModel):
    """A group of settings; a name that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class DataSettings(Settings):
    """Which images, and how batches are made of them."""

    name: Annotated[str, AfterValidator(_dataset)] = "digits"
    augment: str = "standard"
    validation: float = Field(0.0, ge=0.0, lt=1.0)  # share of train held out
    image_size: int | None = Field(None, ge=1)
    root: Place | None = None
    download: bool = False
    batch_size: int = Field(128, ge=1)  # over all devices together
    sampler: str = "uniform"  # of each batch, or class:K: K images of each of its classes
    memory_budget: Bytes = 4 * 2**30  # a split larger than this streams through a DataLoader
    workers: int = Field(2, ge=0)


class NetworkSettings(Settings):
    """The network that learns."""

    name: str = "resnet20"
    pretrained: bool = False
    checkpoint: Place | None = None
    checkpoint_share: float = Field(1.0, ge=0, le=1)  # of those weights in the start; the rest are freshly drawn
    options: dict[str, Any] = {}


class TeacherSettings(Settings):
    """One teacher: a run of kdscope, or a model's name with its weights (a file, or those that its library offers)."""

    run: Place | None = None
    model: str | None = None
    checkpoint: Place | None = None
    options: dict[str, Any] = {}
    weight: float = Field(1.0, gt=0)  # share in the ensemble, relative to the other teachers'
    weights_hash: str | None = None  # filled in by the run, so that a teacher that changed is noticed

    @model_validator(mode="after")
    def _either(self) -> "TeacherSettings":
        if (self.run is None) == (self.model is None):
            raise ValueError("a teacher is either `run: DIR` or `model: NAME` with `checkpoint: FILE`")
        return self

    @classmethod
    def parse(cls, text: str) -> "TeacherSettings":
        """A run directory, `NAME@CHECKPOINT`, or a library's name such as torchvision:resnet50 (its own weights)."""
        if (Path(text) / "config.yaml").is_file():
            return cls(run=Path(text))
        name, _, checkpoint = text.partition("@")
        if checkpoint:
            return cls(model=name, checkpoint=Path(checkpoint))
        if ":" in name:
            return cls(model=name)
        raise KDScopeError(
            f"teacher {text!r} is not a run directory (it has no config.yaml); "
            "a model's name needs weights: NAME@CHECKPOINT, or torchvision:NAME"
        )


class OptimSettings(Settings):
    """Optimiser and schedule. The defaults are the usual recipe of CIFAR networks."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1)  # share of all steps during which lr rises linearly
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)  # of all steps, for `step`: epochs 150, 180, 210 of 240
    gamma: float = Field(0.1, gt=0, le=1)  # factor at each milestone
    clip_norm: float | None = Field(None, gt=0)  # largest L2 norm of the gradient of all that learns


class Config(Settings):
    """A whole run."""

    data: DataSettings = DataSettings()
    model: NetworkSettings = NetworkSettings()
    teachers: tuple[TeacherSettings, ...] = ()
    method: str = "none"
    terms: dict[str, dict[str, Any]] = {}  # weight and settings of each loss term, over those of the method
    ensemble: Literal["mean-probability", "mean-logit", "mean-loss"] = "mean-probability"
    gradients: str | None = None  # how those of labels and teacher are combined; None: as the method says
    peers: tuple[NetworkSettings, ...] = ()  # networks that learn together with the student
    chain: Literal["none", "assistants", "generations"] | None = None  # trainings before this one; None: by the method
    assistants: tuple[NetworkSettings, ...] = ()  # between the teacher and the student, largest first
    generations: int = Field(1, ge=1)  # distilled ones of the same network, this run the last of them
    optim: OptimSettings = OptimSettings()
    epochs: int = Field(30, ge=1)
    seed: int = Field(0, ge=0, lt=2**32)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, ge=1)
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    compile: bool = False
    preflight: Preflight = "stop"  # of a detector that is distilled, when a check fails
    probe: Literal["cache", "cka", "cache+cka"] = "cache"  # feature caches of the probe set, CKA with the teachers
    probe_every: int = Field(0, ge=0)  # epochs between probes of a fixed set of images; 0: none
    probe_size: int = Field(512, ge=1)  # images of train and of test in the probe set
    probe_maps: tuple[Literal["maps", "causal"], ...] = ()  # of which kinds, if any, maps are kept at each probe, too
    eval_every: int = Field(1, ge=0)  # epochs between scores of the held-out parts, and at the end; 0: there alone
    checkpoint_every: int = Field(0, ge=0)  # steps between checkpoints inside an epoch; 0: at its end alone
    tensorboard: bool = False

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_detectors(cls, values: Any) -> Any:
        """What is not said of a detector is as detectors need it, not as networks of small images do."""
        data = values.get("data") if isinstance(values, dict) else None
        name = data.get("name") if isinstance(data, dict) else getattr(data, "name", None)
        if not isinstance(name, str) or not detects(name):
            return values
        known = DETECTORS
        if isinstance(values.get("optim"), dict) and values["optim"].get("name", "adamw") != "adamw":
            known = DETECTORS | {"optim": {"clip_norm": DETECTORS["optim"]["clip_norm"]}}
        return merge(known, values)

    @model_validator(mode="before")
    @classmethod
    def _cka_each_epoch(cls, values: Any) -> Any:
        """CKA is so cheap that who asks for it without saying when gets it after each epoch."""
        if isinstance(values, dict) and "cka" in str(values.get("probe")) and "probe_every" not in values:
            values = values | {"probe_every": 1}
        return values

    @model_validator(mode="after")
    def _cka_with_whom(self) -> "Config":
        if "cka" in self.probe and not self.teachers:
            raise ValueError(f"`probe: {self.probe}` compares with teachers, and there is none; give --teacher")
        return self

    @model_validator(mode="before")
    @classmethod
    def _method_as_list(cls, values: Any) -> Any:
        """`method: [{term: kd, weight: 0.9, temperature: 4}, ...]` is a method made of those terms alone."""
        if isinstance(values, dict) and isinstance(values.get("method"), list):
            terms = {}
            for entry in values["method"]:
                if not isinstance(entry, dict) or not isinstance(entry.get("term"), str):
                    raise ValueError("`method` as a list has entries such as {term: kd, weight: 0.9}")
                terms[entry["term"]] = {"weight": 1.0} | {k: v for k, v in entry.items() if k != "term"}
            if values.get("terms"):
                raise ValueError("give either `method` as a list or `terms`, not both")
            values = values | {"method": "custom", "terms": terms}
        return values


def load_config(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None, assignments: Iterable[str] = ()
) -> Config:
    """The settings of a run from a YAML file, nested `overrides`, and `key.path=value` assignments (the strongest).

    Raises:
        KDScopeError: a file that is not a YAML mapping, an unknown setting (with the nearest), or a value out of range.

    >>> load_config(assignments=["optim.lr=0.05"]).optim.lr
    0.05
    """
    values: dict[str, Any] = read_yaml(path) if path is not None else {}
    values = merge(values, overrides or {})
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise KDScopeError(f"--set takes key.path=value, such as optim.lr=0.05, not {assignment!r}")
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError:
            raise KDScopeError(f"--set {key}: {text!r} is not a YAML value") from None
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = merge(values, nested)
    return validated(Config, values, str(path) if path is not None else "the settings")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file; plain values alone, never objects."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error.reason
        raise KDScopeError(f"{path}: cannot be read as text ({reason})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise KDScopeError(f"{path}{place}: not a YAML file ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise KDScopeError(f"{path}: a YAML mapping of settings is needed, and it holds {found}")
    return values


def write_yaml(config: Config) -> str:
    """The complete settings as YAML text."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid over it, mapping by mapping.

    >>> merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    """
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = merge(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return merged


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names.

    >>> flat({"optim": {"lr": 0.1}, "epochs": 3})
    {'optim.lr': 0.1, 'epochs': 3}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def excluded(names: Iterable[str]) -> dict[str, Any]:
    """Settings by their dotted names, as `model_dump` leaves them out.

    >>> excluded(["data.root", "data.workers", "device"])
    {'data': {'root': True, 'workers': True}, 'device': True}
    """
    found: dict[str, Any] = {}
    for name in names:
        group, _, key = name.partition(".")
        found = merge(found, {group: {key: True} if key else True})
    return found


def validated(kind: type[Settings], values: Mapping[str, Any], where: str) -> Any:
    """`values` as settings of `kind`; the first fault as one line that names the setting and the nearest right one."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = error.errors()  # a name that is not known may be why another is missing
        fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
        place = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            group = _group(kind, fault["loc"][:-1])
            inside = f"{where}, {'.'.join(map(str, fault['loc'][:-1]))}" if len(fault["loc"]) > 1 else where
            raise unknown("setting", str(fault["loc"][-1]), group.model_fields, inside) from None
        message = SHAPES.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
        given = f" (given: {fault['input']!r})" if not isinstance(fault["input"], Mapping) else ""
        raise KDScopeError(f"{where}: {place + ': ' if place else ''}{message}{given}") from None


def _group(kind: type[Settings], path: tuple[Any, ...]) -> type[Settings]:
    """The group of settings that `path` leads to from `kind`."""
    for part in path:
        if part not in kind.model_fields:  # a place in a list, or a name of the user's own
            continue
        annotation = kind.model_fields[part].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        kind = next((a for a in inner if issubclass(a, Settings)), kind)
    return kind
