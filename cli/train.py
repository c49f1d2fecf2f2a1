"""`kdscope train`: train a network, alone or from teachers."""

from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
  kdscope train --data digits --model resnet56 --out runs/teacher
  kdscope train --data digits --teacher runs/teacher --student resnet20 --method kd --out runs/kd
  kdscope train --data scenes:100 --teacher runs/wide --student fcos_resnet10_w8 --method mimicry --out runs/mimicry
  kdscope train --resume runs/kd
"""


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory to make.")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with the run in this directory.")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file with settings.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any setting of a run's config.yaml, such as optim.lr=0.05.",
)
@click.option("--data", help="digits, cifar10, folder:PATH, ..., with boxes scenes, coco:DIR, ... [digits].")
@click.option("--augment", help="none, standard, weak, strong, randaugment:M [standard].")
@click.option("--validation", type=float, help="Share of train that is held out to choose the epoch.")
@click.option("--download", is_flag=True, default=None, help="Allow the dataset to be downloaded.")
@click.option("--batch-size", type=int, help="Images in a step, over all devices [128; detectors 8].")
@click.option("--model", "--student", "model", help="Network to train, such as resnet20 or fcos_resnet10_w8.")
@click.option(
    "--teacher", "teachers", multiple=True, help="Run directory, NAME@CHECKPOINT or torchvision:NAME; repeatable."
)
@click.option("--method", help="none, kd, ... (kdscope list methods, detection-methods), or a sum, as kd+at.")
@click.option("--peer", "peers", multiple=True, help="Network that learns beside the student (dml); repeatable.")
@click.option("--assistant", "assistants", multiple=True, help="Teacher assistant (takd), largest first; repeatable.")
@click.option("--generations", type=int, help="Times that a network is distilled into itself (born-again).")
@click.option("--ensemble", help="Several teachers: mean-probability, mean-logit or mean-loss.")
@click.option("--epochs", type=int, help="Times through the training part [30].")
@click.option("--seed", type=int, help="Of weights, order and augmentation [0].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="[auto: the GPU if there is one].")
@click.option("--devices", type=int, help="Devices to train on together.")
@click.option("--precision", type=click.Choice(["auto", "32", "bf16", "16"]), help="[auto: bf16 on a GPU].")
@click.option("--compile", is_flag=True, default=None, help="torch.compile the training step.")
@click.option("--eval-every", type=int, help="Score held-out images every N epochs [1; detectors 0: at the end alone].")
@click.option("--probe-every", type=int, help="Look at a fixed probe set every N epochs [0; with cka 1].")
@click.option("--probe", help="What is kept of it: cache, cka (with the teachers, no features), cache+cka [cache].")
@click.option("--tensorboard", is_flag=True, default=None, help="Log to TensorBoard in the run directory.")
def train(out: Path | None, resume: Path | None, **options: Any) -> None:
    """Train a network, alone or from teachers, and leave a run directory."""
    from kdscope import api
    from kdscope.errors import KDScopeError
    from kdscope.training.ranks import is_first

    given = {key: value for key, value in options.items() if value not in (None, ())}
    if resume is not None:
        if given or out is not None:
            extra = ", ".join(f"--{key.replace('_', '-')}" for key in [*given, *(["out"] if out else [])])
            raise KDScopeError(f"--resume takes its settings from the run; leave out {extra}")
        run = api.resume(resume)
    elif out is None:
        raise KDScopeError("--out DIR is missing: the run directory to make (or --resume DIR to go on with one)")
    else:
        run = api.train(out, config=given.pop("config", None), assignments=given.pop("assignments", ()), **given)
    if not is_first():
        return
    summary = run.summary
    click.echo(
        f"{run.path}: {run.task.told(summary)} ({summary['rule']}, epoch "
        f"{summary['epoch']} of {run.config.epochs}), {summary['parameters']:,} parameters, {summary['seconds']:.0f} s"
    )
