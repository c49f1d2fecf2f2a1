"""`kdscope extract`: write what a network says of its images to a feature cache."""

from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
  kdscope extract runs/kd
  kdscope extract runs/kd --layer 'layer3.*' --full-maps --dry-run
  kdscope extract --model torchvision:resnet50 --checkpoint r50.pt --data folder:photos --image-size 224 --out r50
"""


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="A model that kdscope did not train, by its name.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Its weights: safetensors, or a plain state dict.")
@click.option("--data", help="The data to ask it about; a run has its own.")
@click.option("--image-size", type=int, help="Pixels to scale the images of --data to; folders of many sizes need it.")
@click.option("--split", "splits", multiple=True, help="train, validation, test; repeatable. Default: train and test.")
@click.option("--view", default="none", show_default=True, help="Augmentation that the images are shown under.")
@click.option("--view-seed", default=0, show_default=True)
@click.option("--layer", "layers", multiple=True, help="Layer pattern; repeatable. Default: stages and penultimate.")
@click.option("--maps", "kind", flag_value="maps", help="Keep attention maps: activation, CAM, Grad-CAM; of a ViT.")
@click.option("--pair", "kind", flag_value="pair", help="Of a detector: beside its teacher, feature errors and rows.")
@click.option("--full-maps", "reduction", flag_value="full", help="Keep whole feature maps.")
@click.option("--dtype", type=click.Choice(["float16", "bfloat16", "float32"]), help="Of features.")
@click.option("--batch-size", type=int, help="Images at a time [256; of a detector 16].")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--out", type=click.Path(path_type=Path), help="Cache to make. Default: in the run directory.")
@click.option("--dry-run", is_flag=True, help="Print layers, shapes and bytes, and write nothing.")
def extract(run: Path | None, model: str | None, splits: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Write what a network says of its images to a feature cache."""
    from kdscope import api
    from kdscope.errors import KDScopeError
    from kdscope.training.ranks import is_first

    if (run is None) == (model is None):
        raise KDScopeError("give either a run directory, or --model NAME with --checkpoint FILE and --data NAME")
    splits = splits or ("train", "test")
    options = {key: value for key, value in options.items() if value not in (None, ())}
    for split in splits:
        place = out if out is None or len(splits) == 1 else out.with_name(f"{out.stem}-{split}")
        result = api.extract(run if run is not None else model, split=split, out=place, progress=True, **options)
        if not is_first():
            continue
        if options["dry_run"]:
            _print_plan(split, result)
        else:
            click.echo(f"{result.path}: {len(result):,} images, layers {', '.join(result.layers)}")


def _print_plan(split: str, plan: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from kdscope.features.plan import size

    table = Table(title=f"{split}: {plan.images:,} images", title_justify="left")
    for heading, justify in (
        ("layer", "left"),
        ("shape", "left"),
        ("dtype", "left"),
        ("an image", "right"),
        ("all", "right"),
    ):
        table.add_column(heading, justify=justify)
    for array in plan.arrays:
        shape = "x".join(map(str, array.shape)) or "1"
        table.add_row(array.name, shape, array.dtype, size(array.bytes), size(array.bytes * plan.images))
    table.add_section()
    table.add_row("total", "", "", size(plan.bytes_per_image), size(plan.total))
    Console().print(table)
