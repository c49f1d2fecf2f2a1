"""What a network costs: parameters, size, arithmetic and time. One number of each, of one network on one device."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdscope.errors import KDScopeError
from kdscope.models.watch import evaluating


@dataclass(frozen=True)
class Profile:
    """The cost of a network in eval mode. Times are of the machine at hand, and of `batch_size`."""

    parameters: int
    trainable: int
    megabytes: float  # of parameters and buffers in their own precision, 10^6 bytes
    flops: int  # of one image; two for each multiply and add of convolutions and matrix products, as PyTorch counts
    latency_ms: float  # median time of one batch
    throughput: float  # images a second at that median
    batch_size: int
    image_size: int
    device: str

    @property
    def macs(self) -> int:
        """Multiply-adds of one image: what most papers call FLOPs."""
        return self.flops // 2


def profile(
    model: nn.Module, image_size: int, *, batch_size: int = 1, device: str | torch.device = "cpu", repeats: int = 20
) -> Profile:
    """Count and time `model` on black images [batch_size, 3, image_size, image_size], in eval mode, without gradients.

    The network works where `device` says and is brought back; its mode, weights and buffers stay as they were.

    Args:
        model: any network on images.
        image_size: side of the images, in pixels.
        batch_size: images in a batch, >= 1; latency is of the batch, `flops` of one image.
        device: where to time.
        repeats: batches timed, >= 1, after a quarter as many (and at least 2) that are not.

    Raises:
        KDScopeError: if the network does not run on such images, or a number is out of range.

    >>> from kdscope.models import build
    >>> cost = profile(build("resnet20", num_classes=100), 32, repeats=1)
    >>> cost.parameters, round(cost.macs / 1e6, 1), cost.latency_ms > 0
    (278324, 40.8, True)
    """
    if min(image_size, batch_size, repeats) < 1:
        raise KDScopeError(
            f"a profile needs image_size, batch_size and repeats >= 1, not {image_size}, {batch_size}, {repeats}"
        )
    device = torch.device(device)
    first = next(model.parameters(), torch.zeros(()))
    home = first.device
    images = torch.zeros(batch_size, 3, image_size, image_size, device=device, dtype=first.dtype)
    try:
        with evaluating(model):
            model.to(device)
            flops, seconds = _flops(model, images), _seconds(model, images, repeats)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise KDScopeError(
            f"this {type(model).__name__} did not run on images {list(images.shape)}: {reason}"
        ) from error
    finally:
        model.to(home)
    state = [*model.parameters(), *model.buffers()]
    return Profile(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        megabytes=sum(tensor.numel() * tensor.element_size() for tensor in state) / 1e6,
        flops=flops // batch_size,
        latency_ms=1e3 * seconds,
        throughput=batch_size / seconds,
        batch_size=batch_size,
        image_size=image_size,
        device=str(device),
    )


def _flops(model: nn.Module, images: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops()


def _seconds(model: nn.Module, images: torch.Tensor, repeats: int) -> float:
    """The median time of one batch, with the device idle before and after it."""
    times = []
    warm_up = max(2, repeats // 4)
    for _ in range(warm_up + repeats):
        _wait(images.device)
        start = time.perf_counter()
        model(images)
        _wait(images.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm_up:])


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)
