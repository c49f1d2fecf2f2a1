"""Deletion and insertion: a map is called causal only after what it points at was changed (Petsiuk et al., BMVC 2018).

Deletion removes the pixels of an image from the greatest value of a map to the least, insertion puts them back in that
order. Where the map shows what the network uses, the probability of the class falls early, or rises early. The network
need not be the one that the map is of: deleting by the teacher's map what the *student* sees says whether it uses the
same evidence (attribution transfer).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdscope.attention.imputation import blur, noisy_linear
from kdscope.attention.masks import to_grid
from kdscope.errors import KDScopeError, unknown

MODES = ("deletion", "insertion")
IMPUTATIONS = ("noisy-linear", "blur")
NOISE = 0.2  # Rong et al. 2022, in units of the normalised image


def ranks(attribution: Tensor) -> Tensor:
    """The rank of each position in [0, 1), 0 the greatest value: float32 [B, H, W]. Ties by position.

    >>> ranks(torch.tensor([[[1.0, 3.0], [2.0, 0.0]]])).tolist()
    [[[0.5, 0.0], [0.25, 0.75]]]
    """
    flat = attribution.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, place).div(flat.shape[1]).view(attribution.shape)


def intervention_curve(
    model: nn.Module,
    images: Tensor,
    attribution: Tensor,
    classes: Tensor,
    *,
    mode: str = "deletion",
    imputation: str = "noisy-linear",
    shares: Sequence[float] = tuple(k / 10 for k in range(11)),
    seed: int = 0,
    batch_size: int = 512,
) -> Tensor:
    """The probability of a class as more and more of each image is removed, or put back.

    Args:
        model: images to logits, in eval mode.
        images: [B, 3, H, W], normalised. attribution: [B, h, w], of whatever grid. classes: int64 [B].
        mode: `deletion` or `insertion`.
        imputation: what stands in place of a pixel: `noisy-linear` (ROAD) or `blur` (sigma an eighth of the side).
        shares: of the pixels that are removed (or put back), [F].
        seed: of the noise, which is the same for all images, maps and networks, so that they can be compared.

    Returns:
        float32 [B, F], probabilities. NaN for an image whose map has a value that is not finite.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    >>> x = torch.randn(2, 3, 4, 4)
    >>> curve = intervention_curve(net, x, torch.rand(2, 4, 4), torch.tensor([0, 1]), shares=(0.0, 0.5, 1.0))
    >>> curve.shape, torch.allclose(curve[:, 0], net(x).softmax(1)[[0, 1], [0, 1]])
    (torch.Size([2, 3]), True)
    """
    if mode not in MODES:
        raise unknown("intervention", mode, MODES)
    if imputation not in IMPUTATIONS:
        raise unknown("imputation", imputation, IMPUTATIONS)
    if attribution.dim() != 3 or len(attribution) != len(images):
        raise KDScopeError(f"maps of shape {list(attribution.shape)} for {len(images)} images; they are [B, h, w]")
    place = ranks(to_grid(attribution, *images.shape[2:]))
    known = attribution.flatten(1).isfinite().all(1)
    noise = NOISE * torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(seed)).to(images)
    blurred = blur(images, max(images.shape[2:]) / 8) if imputation == "blur" else None
    columns = []
    with torch.no_grad():
        for share in shares:
            removed = place < share if mode == "deletion" else place >= share
            probabilities = []
            for rows in torch.arange(len(images), device=images.device).split(batch_size):
                if blurred is not None:
                    shown = torch.where(removed[rows][:, None], blurred[rows], images[rows])
                else:
                    shown = noisy_linear(images[rows], removed[rows], noise)
                found = model(shown).float().softmax(1)
                probabilities.append(found.gather(1, classes[rows][:, None])[:, 0])
            columns.append(torch.cat(probabilities))
    return torch.stack(columns, 1).where(known[:, None], float("nan"))
