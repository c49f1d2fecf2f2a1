"""A wider network of the same kind with as many parameters, or multiply-adds, as another: the fair rival of a student
that got new layers.
"""

from kdscope.errors import KDScopeError
from kdscope.models.cost import profile
from kdscope.models.zoo import build


def matching_multiplier(
    name: str, num_classes: int, *, parameters: int | None = None, macs: int | None = None, image_size: int = 32
) -> float:
    """The width multiplier at which `build(name, num_classes, multiplier=...)` is nearest to a number of parameters.

    Args:
        name: a network that has the option `multiplier` (the CIFAR ResNets).
        parameters, macs: the wanted number of parameters, or of multiply-adds of one image; one of the two.
        image_size: of that image.

    Returns:
        The multiplier, to three decimals; the count grows with it, so that it is found by bisection in [1/16, 16].

    Raises:
        KDScopeError: both or none wanted; a network without that option; a number that no multiplier comes near (10 %).

    >>> wide = matching_multiplier("resnet20", 100, parameters=810_806)  # resnet20 with the layer of letkd-1
    >>> sum(p.numel() for p in build("resnet20", 100, multiplier=wide).parameters())
    813419
    """
    if (parameters is None) == (macs is None):
        raise KDScopeError("matching_multiplier takes either parameters or macs")
    wanted = parameters if macs is None else macs

    def count(multiplier: float) -> int:
        network = build(name, num_classes, image_size=image_size, multiplier=multiplier)
        return (
            profile(network, image_size, repeats=1).macs
            if macs is not None
            else sum(p.numel() for p in network.parameters())
        )

    low, high = 1 / 16, 16.0
    while high - low > 5e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if count(middle) > wanted else (middle, high)
    near = min((round(low, 3), round(high, 3)), key=lambda multiplier: abs(count(multiplier) - wanted))
    if abs(count(near) - wanted) > 0.1 * wanted:
        raise KDScopeError(f"no width of {name!r} comes near {wanted:,}; the nearest has {count(near):,}")
    return near
