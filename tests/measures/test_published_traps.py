"""What careless definitions make of data in which there is nothing: numbers that others report of noise."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from kdscope.measures.cka import rbf_cka
from kdscope.measures.map_overlap import top_iou
from kdscope.measures.map_threshold import intersection_union, per_image_iou, threshold_masks


@pytest.fixture(scope="module", params=range(3))
def unrelated(request):
    """Two sets of 2,000 maps of 14 x 14 cells that share nothing: noise blurred over 1.6 cells.

    How smooth the maps behind the stated numbers were is not known: this width, alone, was chosen for the ten to agree.
    """
    rng = np.random.default_rng(request.param)
    return [gaussian_filter(rng.normal(size=(2_000, 14, 14)), (0, 1.6, 1.6)) for _ in range(2)]


@pytest.mark.parametrize(("threshold", "stated"), [(0.1, 0.94), (0.3, 0.68), (0.5, 0.32), (0.7, 0.10), (0.9, 0.03)])
def test_a_threshold_of_the_range_decides_the_overlap(threshold, stated, unrelated):
    masks = [threshold_masks(maps, None, threshold) for maps in unrelated]
    found = per_image_iou(*intersection_union(*masks))
    error = np.nanstd(found) / np.sqrt(len(found))
    assert np.nanmean(found) == pytest.approx(stated, abs=0.005 + 2.5 * error)


def test_equal_areas_overlap_by_chance(unrelated):
    areas, iou, _ = top_iou(*unrelated, (0.05, 0.1, 0.15, 0.25, 0.5))
    error = iou.std(axis=0) / np.sqrt(len(iou))
    stated = np.array([0.047, 0.069, 0.092, 0.151, 0.337])
    assert (np.abs(iou.mean(axis=0) - stated) < 0.0005 + 3 * error).all()
    assert areas / (2 - areas) == pytest.approx([0.026, 0.053, 0.081, 0.143, 0.333], abs=0.003)


@pytest.mark.parametrize(("batch", "mean"), [(100, 0.905), (128, 0.926)])
def test_averaging_the_wrong_axes_of_noise_is_nine_tenths(batch, mean):
    # The released code of Stanton et al. takes the 8 to 32 columns of a map for the samples; 0.918 is reported of
    # noise, without the size of the batch, on which it depends.
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        for channels, width in ((16, 32), (32, 16), (64, 8)):
            a, b = rng.normal(size=(2, batch, channels, width, width))
            found.append(rbf_cka(a.mean(axis=(1, 2)).T, b.mean(axis=(1, 2)).T))
    assert np.mean(found) == pytest.approx(mean, abs=0.008)
    assert np.mean(found) == pytest.approx(0.918, abs=0.02)
