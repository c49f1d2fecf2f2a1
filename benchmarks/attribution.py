"""Layer integrated gradients against the passes of the head that it needs; overlap of maps against a loop over images.

    python benchmarks/attribution.py [--rounds 5] [--steps 32]

Layer gradients: ResNet18 at 32 px, `layer3`, a fixed number of steps, against as many forward and backward passes of
the part of the network above the layer; beside it captum's `LayerIntegratedGradients`, which runs the whole network
each time. Overlap: top-area IoU at all areas of 2,000 pairs of 14 x 14 maps against the same sets in a Python loop.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from captum.attr import LayerIntegratedGradients

from kdscope import models
from kdscope.attention.cut import Cut
from kdscope.attention.integrated import integrated_gradients
from kdscope.measures.map_overlap import counts_of, top_iou

BATCH, LAYER = 8, "layer3"


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> float:
    """Median over rounds of ours / theirs, in turn, after one round that does not count."""
    ratios = [seconds(ours) / seconds(theirs) for _ in range(rounds + 1)]
    return statistics.median(ratios[1:])


def layer_gradients(rounds: int, steps: int) -> None:
    torch.manual_seed(0)
    network = models.build("resnet18", 100).eval().requires_grad_(False)
    images, classes = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 100, (BATCH,))
    black = torch.zeros_like(images)
    cut = Cut(network, LAYER, images)
    activation = cut.below(images).detach()

    def passes() -> None:
        for _ in range(steps):
            point = activation.clone().requires_grad_()
            logits = cut.above(point)
            (logits.gather(1, classes[:, None]).sum() - logits.mean(1).sum()).backward()

    def ours() -> None:
        integrated_gradients(network, images, classes, black, layer=cut, steps=steps, most=steps, batch_size=BATCH)

    def captum() -> None:
        LayerIntegratedGradients(network, network.get_submodule(LAYER)).attribute(
            images, black, target=classes, n_steps=steps, method="riemann_middle", internal_batch_size=BATCH
        )

    print(
        f"layer IG, {steps} steps: {compare(ours, passes, rounds):.2f} of the head's own passes (target 1.3); ", end=""
    )
    print(f"captum's LayerIntegratedGradients: {compare(captum, passes, rounds):.2f}")


def loop(a: np.ndarray, b: np.ndarray) -> None:
    """The same sets, image by image."""
    for one, other in zip(a, b, strict=True):
        first, second = np.argsort(-one.ravel()), np.argsort(-other.ravel())
        for count in counts_of(one.size):
            mine, its = set(first[:count]), set(second[:count])
            len(mine & its) / len(mine | its)


def overlap(rounds: int) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 2000, 14, 14))
    ratio = compare(lambda: loop(a, b), lambda: top_iou(a, b), rounds)
    print(f"top-area IoU at {len(counts_of(196))} areas, 2,000 pairs: {ratio:.1f} times as fast as the loop")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=32)
    options = parser.parse_args()
    layer_gradients(options.rounds, options.steps)
    overlap(options.rounds)


if __name__ == "__main__":
    main()
