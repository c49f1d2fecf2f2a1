"""The gradient of all that learns is no longer than it may be."""

import pytest
import torch

import kdscope


@pytest.mark.parametrize(("limit", "norm"), [(1e-3, 1e-3), (1e6, None)])
def test_one_step_is_as_long_as_the_limit_allows(tiny_data, tmp_path, limit, norm):
    """Plain gradient descent moves by lr times the gradient: by lr times the limit, where the gradient is longer."""
    optim = {"lr": 0.5, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
    options = tiny_data | {"epochs": 1, "batch_size": 48, "augment": "none"}
    torch.manual_seed(0)
    start = torch.cat([p.detach().flatten() for p in kdscope.models.build("resnet8", 4, image_size=16).parameters()])
    ends = {}
    for clip in (limit, None):
        run = kdscope.train(tmp_path / str(clip), **options | {"optim": optim | {"clip_norm": clip}})
        ends[clip] = torch.cat([p.detach().flatten() for p in run.model().parameters()])
    whole, clipped = ends[None] - start, ends[limit] - start
    if norm is None:
        assert torch.equal(clipped, whole)
    else:
        assert clipped.double().norm() == pytest.approx(0.5 * norm, rel=1e-3)
        assert torch.cosine_similarity(clipped, whole, 0) > 0.999
