"""Boxes as masks on a grid: Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022, eq. 2-3.

The binary mask M is 1 inside of any box, and the scale mask divides by the cells of the box, so that a small object
weighs as much as a large one; where boxes overlap, the smallest wins. Outside, every cell weighs 1 / #background.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from kdscope.detection.batch import filled


def stacked(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes of each image [n, 4] as one tensor [N, B, 4], filled up with boxes without width; B >= 1.

    >>> stacked([torch.ones(2, 4), torch.ones(0, 4)]).shape
    torch.Size([2, 3, 4])
    """
    return pad(pad_sequence(list(boxes), batch_first=True), (0, 0, 0, 1))


def box_masks(boxes: Tensor, frame: Tensor | tuple[int, int], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """M * S inside of the boxes and (1 - M) * S outside, each [N, H, W] in float32, without a gradient.

    A box covers the cells from floor(left) to ceil(right), both included, as in the authors' code: up to a cell more on
    the right and at the bottom than it touches. H_r W_r counts these cells before the grid cuts them, so that a box of
    the whole image weighs 1 / ((H + 1) (W + 1)). The boxes are cut to the frame first, where the code would index from
    the other end. A box without width, height or finite corners, or outside of the frame, covers nothing. Cells of the
    padding are background, as in that code; the analyses leave them out.

    Args:
        boxes: (x1, y1, x2, y2) in pixels [N, B, 4], from `stacked`.
        frame: (height, width) in pixels of what the grid covers, one for all images, or a tensor of them [N, 2].
        grid: (H, W) of the feature map.

    >>> inside, outside = box_masks(torch.tensor([[[8.0, 8.0, 24.0, 24.0]]]), (64, 64), (8, 8))
    >>> int((inside > 0).sum()), round(float(inside.max()), 4), round(float(outside.max()), 4)
    (9, 0.1111, 0.0182)
    """
    frame = filled(frame, boxes) if isinstance(frame, tuple) else frame.to(boxes)
    height, width = frame.reshape(-1, 1, 2).unbind(-1)
    rows, top_bottom = _cells(boxes[..., 1], boxes[..., 3], height, grid[0])
    columns, left_right = _cells(boxes[..., 0], boxes[..., 2], width, grid[1])
    cells = rows.unsqueeze(3) & columns.unsqueeze(2)  # [N, B, H, W]
    inside = (cells / (top_bottom * left_right)[..., None, None]).amax(1)
    outside = (inside == 0).to(inside)
    return inside, outside / outside.sum((1, 2), keepdim=True).clamp(min=1)


def _cells(low: Tensor, high: Tensor, length: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Which of `count` cells along one side each box covers [N, B, count], and how many it would without an end."""
    low, high = low.clamp(min=0).minimum(length), high.clamp(min=0).minimum(length)
    # The product first: it is exact for whole pixels, so that an edge on the border of two cells stays there.
    first, last = (low * count / length).floor(), (high * count / length).ceil()
    cell = torch.arange(count, device=low.device)
    covered = (cell >= first.unsqueeze(2)) & (cell <= last.unsqueeze(2)) & (high > low).unsqueeze(2)
    return covered, (last - first + 1).nan_to_num(1.0).clamp(min=1)
