"""The trained student alone, as a file for elsewhere: no teacher, and no kdscope where the file holds a graph.

    safetensors   weights, which kdscope reads again (`NAME@FILE`)
    onnx          a graph for ONNX Runtime and whatever else reads ONNX
    torchscript   a graph for `torch.jit.load`, from Python or C++
    exported      a graph for `torch.export.load`

Images [B, 3, H, W] go in and logits [B, C] come out. What the numbers of an image must be, the classes, and where the
weights come from stand in the file: `metadata_props` of ONNX, the extra file `kdscope.json` of the PyTorch
formats, the header of safetensors. Before a file takes its name, it is opened again and asked about random images.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import kdscope
from kdscope import models
from kdscope.errors import KDScopeError, unknown
from kdscope.files import replacing
from kdscope.graphs import READERS, WRITERS, Opened
from kdscope.methods.method import known_terms
from kdscope.run import Run

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torchscript": ".pt", "exported": ".pt2"}
TOLERANCE = 1e-5  # of the largest logit, or of 1 where all are smaller


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path, format: where and what it is.
        difference: the largest one between a logit of the file and the network's; None where nothing could run it.
        metadata: what stands in the file beside the network.
    """

    path: Path
    format: str
    difference: float | None
    metadata: dict[str, str]


class Alone(nn.Module):
    """A network, and before it the normalisation of its images where that is wanted; hooks on the network run too."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None):
        super().__init__()
        self.network = network
        if mean is not None:
            self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
            self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std if hasattr(self, "mean") else images)


def export(
    run: str | Path | Run,
    format: str | None = None,
    out: str | Path | None = None,
    *,
    batch: str | int = "dynamic",
    opset: int | None = None,
    normalise: bool = False,
) -> Exported:
    """Write the trained student of a run as one file, checked against the network.

    Args:
        run: a finished run, or its directory.
        format: "safetensors", "onnx", "torchscript" or "exported"; by default what the ending of `out` says.
        out: the file; by default `RUN/export/NAME` with the format's ending.
        batch: images that the graph takes at once: "dynamic", any number, or a fixed one.
        opset: of ONNX; by default PyTorch's choice.
        normalise: the graph takes pixels / 255 and normalises them itself.

    Raises:
        KDScopeError: an unfinished run, a missing package, a network that cannot be traced, or a file whose logits are
            not the network's. Nothing is left behind then.

    >>> import kdscope
    >>> run = kdscope.train("run", data="digits:8", model="resnet8", epochs=1)
    >>> file = kdscope.export(run, "exported", "student.pt2", normalise=True)
    >>> file.difference < 1e-5, torch.export.load(file.path).module()(torch.rand(7, 3, 8, 8)).shape
    (True, torch.Size([7, 10]))
    """
    run = run if isinstance(run, Run) else Run(run)
    format = _format(format, out)
    _check_choices(format, batch, opset, normalise)
    path = Path(out) if out is not None else run.path / "export" / f"{run.name}{SUFFIXES[format]}"
    if path.is_dir():
        raise KDScopeError(f"{path} is a directory; give --out a file, such as {path / run.name}{SUFFIXES[format]}")
    network, dataset = run.model().requires_grad_(False), run.dataset()
    metadata = describe(run, network, normalise)
    whole = Alone(network, dataset.mean, dataset.std) if normalise else Alone(network)
    size = (3, dataset.image_size, dataset.image_size)

    with replacing(path) as draft:
        if format == "safetensors":
            models.save_weights(draft, network, metadata)
            again = run.model(trained=False)
            models.load_weights(again, draft)
            opened: Opened | None = again
        else:
            draft.write_bytes(WRITERS[format](whole.eval(), size, batch, opset, metadata))
            opened = READERS[format](draft)
        found = None if opened is None else difference(opened, whole, size, batch)
    return Exported(path, format, found, metadata)


def describe(run: Run, network: nn.Module, normalise: bool = False) -> dict[str, str]:
    """What someone must know who has the file alone; lists and mappings are JSON."""
    config, dataset, known = run.config, run.dataset(), known_terms()
    changes = {name: s for name, s in config.terms.items() if s["weight"] > 0 and known[name].changes_student}
    scaled = "pixels / 255" if normalise else "(pixels / 255 - mean) / std"
    return {
        "kdscope": kdscope.__version__,
        "architecture": config.model.name,
        "options": json.dumps(config.model.options),
        "changed_by": json.dumps(changes),
        "method": config.method,
        "data": dataset.name,
        "classes": json.dumps(dataset.classes),
        "image_size": str(dataset.image_size),
        "mean": json.dumps(dataset.mean),
        "std": json.dumps(dataset.std),
        "input": f"images: float32 [B, 3, {dataset.image_size}, {dataset.image_size}], RGB, {scaled}",
        "output": f"logits: float32 [B, {dataset.num_classes}]",
        "test_accuracy": str(run.summary["test_accuracy"]),
        "weights_hash": models.weights_hash(network),
    }


def difference(opened: Opened, network: nn.Module, size: tuple[int, ...], batch: str | int = "dynamic") -> float:
    """The largest difference between logits of a file and of the network, on random images.

    Raises:
        KDScopeError: if it is more than rounding.
    """
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for count in (1, 2, 5) if batch == "dynamic" else (int(batch),):
        images = torch.rand(count, *size, generator=generator) * 2 - (0 if hasattr(network, "mean") else 1)
        with torch.no_grad():
            expected, got = network(images), opened(images)
        gap = float((got - expected).abs().max())
        if got.shape != expected.shape or not gap <= TOLERANCE * max(1.0, float(expected.abs().max())):
            what = f"logits {gap:.1e} away from the network's" if got.shape == expected.shape else f"{list(got.shape)}"
            raise KDScopeError(f"the file gives {what} on {count} images, so it was not kept; try another format")
        worst = max(worst, gap)
    return worst


def _format(format: str | None, out: str | Path | None) -> str:
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    if format is None and out is not None:
        format = by_suffix.get(Path(out).suffix)
        if format is None:
            raise KDScopeError(f"{out} does not say its format; give --format or end it in {', '.join(by_suffix)}")
    if format is None:
        return "safetensors"
    if format not in SUFFIXES:
        raise unknown("format", format, SUFFIXES)
    return format


def _check_choices(format: str, batch: str | int, opset: int | None, normalise: bool) -> None:
    if batch != "dynamic" and not (str(batch).isdigit() and int(batch) > 0):
        raise KDScopeError(f"--batch is 'dynamic' or a number of images, not {batch!r}")
    if opset is not None and format != "onnx":
        raise KDScopeError(f"--opset belongs to onnx, and the format is {format}")
    if format == "safetensors" and (normalise or batch != "dynamic"):
        raise KDScopeError("safetensors holds weights alone: --batch and --normalise belong to formats with a graph")
