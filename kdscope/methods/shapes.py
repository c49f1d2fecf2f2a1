"""What feature terms do to maps before they compare them: pool to a common grid, pool to a vector, line up channels."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from kdscope.errors import KDScopeError


def need_maps(term: str, **roles: Mapping[str, Tensor]) -> None:
    """Raise unless all features, by role and layer, are maps [B, C, H, W]."""
    for role, maps in roles.items():
        for layer, features in maps.items():
            if features.dim() != 4:
                raise KDScopeError(
                    f"term {term!r} needs feature maps [C, H, W], and layer {layer!r} of the {role} gives "
                    f"{list(features.shape[1:])}; take one before the pooling, such as --set terms.{term}.layers=stages"
                )


def exact(features: Tensor) -> Tensor:
    """Features in float32 where they are of a smaller type; float64 stays float64, so that losses can be checked."""
    return features.float() if features.dtype.itemsize < 4 else features


def to_grid(feature_map: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map [B, C, H, W] averaged to `grid` (h, w); one that is there already is returned as it is."""
    return feature_map if tuple(feature_map.shape[2:]) == tuple(grid) else adaptive_avg_pool2d(feature_map, grid)


def same_grid(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps [B, C, H, W], the finer averaged to the grid of the coarser.

    >>> import torch
    >>> s, t = same_grid(torch.ones(1, 2, 4, 4), torch.ones(1, 3, 2, 2))
    >>> s.shape, t.shape
    (torch.Size([1, 2, 2, 2]), torch.Size([1, 3, 2, 2]))
    """
    grid = tuple(min(sizes) for sizes in zip(student_map.shape[2:], teacher_map.shape[2:], strict=True))
    return to_grid(student_map, grid), to_grid(teacher_map, grid)


def vector(features: Tensor) -> Tensor:
    """Features as float32 vectors [B, D]: maps [B, C, H, W] and tokens [B, N, D] averaged over places.

    >>> import torch
    >>> vector(torch.ones(2, 5, 3, 3)).shape, vector(torch.ones(2, 7)).shape
    (torch.Size([2, 5]), torch.Size([2, 7]))
    """
    if features.dim() == 4:
        features = exact(features).mean(dim=(2, 3))
    elif features.dim() == 3:
        features = exact(features).mean(dim=1)
    return exact(features)


def conv1x1(channels_in: int, channels_out: int, norm: bool = True) -> nn.Module:
    """A linear map of channels without bias, by default with batch norm: what lines up unequal widths."""
    conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out)) if norm else conv
