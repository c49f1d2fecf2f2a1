"""`kdscope calibrate`: weights of a distillation of detectors, measured on the networks and images that it is for."""

from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
  kdscope calibrate --data scenes:100 --teacher runs/teacher --student fcos_resnet10_w8 --method fgd-normalised
  kdscope calibrate --config runs/fgd/config.yaml --by gradient
  kdscope calibrate --config chen.yaml --share hint=2 --share soft-class=1
"""


@click.command(epilog=f"\b\nExamples:\n{EXAMPLES}")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file with a run's settings.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of the run, as of train.")
@click.option("--data", help="scenes, coco:DIR, ...")
@click.option("--model", "--student", "model", help="Detector that would learn.")
@click.option("--teacher", "teachers", multiple=True, help="Run directory, NAME@CHECKPOINT or torchvision:NAME.")
@click.option("--method", help="What is weighed (kdscope list detection-methods), or a sum.")
@click.option("--batch-size", type=int, help="Images in a step [8].")
@click.option("--seed", type=int, help="Of weights, order and augmentation [0].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--batches", type=int, default=8, show_default=True, help="Training batches to measure on.")
@click.option("--ratio", type=float, default=2.0, show_default=True, help="Distillation over the detector's own loss.")
@click.option("--by", default="loss", show_default=True, help="loss, or gradient of the parameters under the maps.")
@click.option("--share", "shares", multiple=True, metavar="TERM=NUMBER", help="Of a term; the others are left alone.")
def calibrate(batches: int, ratio: float, by: str, shares: tuple[str, ...], device: str, **options: Any) -> None:
    """Print the settings with which distillation starts at a chosen size beside the detector's own loss.

    Nothing is trained and nothing written: give what it prints to `kdscope train`.
    """
    from kdscope import api
    from kdscope.detection.calibration import calibrated
    from kdscope.detection.methods.calibrate import settings_of

    given = {key: value for key, value in options.items() if value not in (None, ())}
    config = api.settings(given.pop("config", None), given.pop("assignments", ()), given.pop("teachers", ()), **given)
    named = dict(_share(share) for share in shares)
    for setting in settings_of(calibrated(config, batches=batches, ratio=ratio, by=by, shares=named, device=device)):
        click.echo(f"--set {setting}")


def _share(text: str) -> tuple[str, float]:
    from kdscope.errors import KDScopeError

    term, _, number = text.partition("=")
    try:
        return term, float(number)
    except ValueError:
        raise KDScopeError(f"--share {text}: write TERM=NUMBER, such as hint=2") from None
