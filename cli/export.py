"""`kdscope export`: the trained student alone, as a file for elsewhere."""

from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
  kdscope export runs/kd
  kdscope export runs/kd --format onnx --out student.onnx
  kdscope export runs/kd --out student.pt2 --batch 1 --normalise
"""


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", help="safetensors, onnx, torchscript or exported [what --out ends in, else safetensors].")
@click.option("--out", type=click.Path(path_type=Path), help="File to write [in the run directory, export/].")
@click.option("--batch", default="dynamic", show_default=True, help="Images at once: dynamic, or a fixed number.")
@click.option("--opset", type=int, help="Of ONNX [PyTorch's choice].")
@click.option("--normalise", is_flag=True, help="The graph takes pixels / 255, and normalises them itself.")
def export(run: Path, **options: Any) -> None:
    """Write the trained student as one file, and check it against the network."""
    from kdscope import exporting

    file = exporting.export(run, **options)
    if file.difference is None:
        checked = "not checked: pip install onnxruntime"
    else:
        checked = f"largest difference from the network's logits {file.difference:.1e}"
    click.echo(f"{file.path}: {file.format}, {file.path.stat().st_size / 2**20:.1f} MiB, {checked}")
    click.echo(f"{file.metadata['input']} -> {file.metadata['output']}")
