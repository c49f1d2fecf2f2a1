"""The orbit of an image: all views that an augmentation can make of it, numbered, where they are few.

Crop and flip ("standard") makes (2 * 4 + 1)^2 * 2 = 162 views, so that what a teacher says of all of them can be
computed once and looked up: every view of an epoch is one of them, to the last bit.
"""

import torch
from torch import Tensor

from kdscope.data.augment import Parameters, View
from kdscope.data.standard import Standard
from kdscope.errors import KDScopeError

SHIFTS = 2 * Standard.margin + 1
COUNTS = {"none": 1, "standard": SHIFTS * SHIFTS * 2}


def count_views(augment: str) -> int:
    """How many views of an image an augmentation makes.

    Raises:
        KDScopeError: an augmentation of which there is no list; only those of "none" and "standard" can be listed.

    >>> count_views("standard")
    162
    """
    if augment not in COUNTS:
        raise KDScopeError(
            f"augmentation {augment!r} makes too many views of an image to keep something for each; "
            "use standard or none, or compute for each batch"
        )
    return COUNTS[augment]


def nth_view(augment: str, number: Tensor) -> Parameters:
    """The parameters (`View.parameters`) of the views with these numbers, int64 [B] in 0 .. `count_views` - 1.

    >>> {name: value.tolist() for name, value in nth_view("standard", torch.tensor([0, 80, 161])).items()}
    {'dy': [0, 4, 8], 'dx': [0, 4, 8], 'flip': [False, False, True]}
    """
    count = count_views(augment)
    if ((number < 0) | (number >= count)).any():
        raise KDScopeError(f"augmentation {augment!r} has views 0 to {count - 1}")
    if count == 1:
        return {}
    shift = number // 2
    return {"dy": shift // SHIFTS, "dx": shift % SHIFTS, "flip": number % 2 == 1}


def view_number(view: View) -> Tensor:
    """Which view of the orbit each image was given: int64 [B], the inverse of `nth_view`, on the host.

    >>> drawn = {"dy": torch.tensor([4]), "dx": torch.tensor([4]), "flip": torch.tensor([False])}
    >>> view_number(View("standard", 0, 0, torch.tensor([7]), drawn))  # the image as it is
    tensor([80])
    """
    if count_views(view.augment) == 1:
        return torch.zeros_like(view.index)
    drawn = view.parameters
    return (drawn["dy"] * SHIFTS + drawn["dx"]) * 2 + drawn["flip"].long()
