"""Files that hold the graph of a network, which run without kdscope: ONNX, TorchScript and torch.export's own.

A writer gives the bytes of the file, a reader a callable that runs it: float32 images [B, 3, H, W] -> logits [B, C].
"""

import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from kdscope.errors import KDScopeError

METADATA = "kdscope.json"  # the extra file of the PyTorch formats

Opened = Callable[[Tensor], Tensor]


def to_exported(network: nn.Module, size: tuple[int, ...], batch: str | int) -> torch.export.ExportedProgram:
    """The graph of a network, by `torch.export`; of one example image it would take a dynamic axis for 1."""
    example = torch.zeros(2 if batch == "dynamic" else int(batch), *size)
    return torch.export.export(network, (example,), dynamic_shapes=_free(batch), strict=False)


def _free(batch: str | int) -> tuple | None:
    return ({0: torch.export.Dim("batch")},) if batch == "dynamic" else None


def _write_exported(network: nn.Module, size: tuple, batch: str | int, opset: None, metadata: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with _quiet("exported", batch):
        program = to_exported(network, size, batch)
        torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    return buffer.getvalue()


def _write_torchscript(
    network: nn.Module, size: tuple, batch: str | int, opset: None, metadata: dict[str, str]
) -> bytes:
    buffer = io.BytesIO()
    with _quiet("torchscript", batch):
        traced = torch.jit.trace(network, torch.zeros(2 if batch == "dynamic" else int(batch), *size))
        torch.jit.save(traced, buffer, _extra_files={METADATA: json.dumps(metadata)})
    return buffer.getvalue()


def _write_onnx(
    network: nn.Module, size: tuple, batch: str | int, opset: int | None, metadata: dict[str, str]
) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise KDScopeError(f"ONNX needs the package {error.name}: pip install 'kdscope[onnx]'") from error
    with _quiet("onnx", batch):
        program = torch.onnx.export(
            to_exported(network, size, batch), dynamo=True, verbose=False, opset_version=opset,
            input_names=["images"], output_names=["logits"], dynamic_shapes=_free(batch),
        )  # fmt: skip
        graph = program.model_proto
    made = next(each.version for each in graph.opset_import if not each.domain)
    if opset is not None and made != opset:
        raise KDScopeError(f"this network needs ONNX opset {made}, and --opset {opset} was asked for; leave it out")
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=value)
    return graph.SerializeToString()


def _read_onnx(path: Path) -> Opened | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _read_torchscript(path: Path) -> Opened:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(io.BytesIO(path.read_bytes()))


def _read_exported(path: Path) -> Opened:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(io.BytesIO(path.read_bytes())).module()


WRITERS = {"onnx": _write_onnx, "torchscript": _write_torchscript, "exported": _write_exported}
READERS = {"onnx": _read_onnx, "torchscript": _read_torchscript, "exported": _read_exported}


class _quiet(warnings.catch_warnings):
    """Exporters log and warn of their own affairs, and fail in many lines: here they fail in one."""

    def __init__(self, format: str, batch: str | int):
        super().__init__()
        self.format, self.batch = format, batch

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        self.disabled = logging.root.manager.disable
        logging.disable(logging.ERROR)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        logging.disable(self.disabled)
        super().__exit__(kind, error, trace)
        if isinstance(error, Exception):
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), kind.__name__)
            hint = "; try --batch 1" if self.batch == "dynamic" else ""
            raise KDScopeError(f"this network cannot be written as {self.format} ({reason[:200]}){hint}") from error
