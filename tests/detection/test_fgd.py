"""FGD against numbers worked out by hand, against a plain loop over boxes, and against its own closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscope.detection.batch import DetectionBatch, DetectionFeatures, Rows
from kdscope.detection.methods.fgd import FGD, OFFICIAL, attention, attention_loss, family_of, feature_loss, global_loss
from kdscope.detection.methods.gcblock import GlobalContext
from kdscope.detection.methods.masks import box_masks, stacked
from kdscope.errors import KDScopeError

SIDE = st.floats(-30, 130, width=32)


def close(value, expected, atol=1e-5):
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=value.dtype), atol=atol, rtol=0)


def boxes(*each):
    return torch.tensor(each, dtype=torch.float32).reshape(-1, 4)


def masks(image_boxes, frame, grid):
    inside, outside = box_masks(stacked([image_boxes]), frame, grid)
    return inside[0], outside[0]


def batch_of(image_boxes, side=(4, 4), sizes=None):
    image_boxes = tuple(image_boxes)
    n = len(image_boxes)
    labels = tuple(torch.ones(len(each), dtype=torch.int64) for each in image_boxes)
    images = torch.zeros(n, 3, *side)
    return DetectionBatch(images, sizes or (tuple(side),) * n, image_boxes, labels, torch.arange(n))


def features(*maps):
    return DetectionFeatures({4 * 2**k: each for k, each in enumerate(maps)})


def fixed_case():
    i = torch.arange(32).view(1, 2, 4, 4)
    return (i % 3) / 2, (i % 5) / 4, boxes([0, 0, 1.5, 1.5])


def built(student, teacher, **settings):
    term = FGD(**settings)
    term.build(student, teacher)
    return term


# Attention


def test_attention_has_mean_one_and_the_values_of_equations_4_to_7():
    feature_map = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    places, channels = attention(feature_map, 0.5)
    close(places.sum((1, 2)), torch.full((3,), 24.0), atol=1e-4)
    close(channels.sum(1), torch.full((3,), 5.0))
    close(attention(torch.tensor([[[[1.0, 0.0]]]]))[0], [[[1.761594, 0.238406]]])
    by_hand = [[math.exp(2 * v) for v in row] for row in ((1, 0), (3, 2))]
    total = sum(map(sum, by_hand))
    close(attention(torch.tensor([[[[1.0, 0.0], [-3.0, 2.0]]]]))[0][0], torch.tensor(by_hand) * 4 / total)


def test_attention_of_a_constant_is_uniform_and_so_is_that_of_an_infinite_temperature():
    signs = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1).expand(2, 2, 3, 3)
    for value in (*attention(0.7 * signs), *attention(torch.randn(2, 4, 3, 3), 1e8)):
        close(value, torch.ones_like(value))


def test_attention_of_k_times_a_map_at_k_times_the_temperature_is_the_same():
    feature_map = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for ours, scaled in zip(attention(feature_map, 0.5), attention(7 * feature_map, 3.5), strict=True):
        close(scaled, ours)


# Masks


def test_masks_of_two_overlapping_boxes():
    inside, outside = masks(boxes([8, 8, 24, 24], [16, 16, 56, 56]), (64, 64), (8, 8))
    assert int((inside > 0).sum()) == 41
    close(inside[1:4, 1:4], torch.full((3, 3), 1 / 9))  # the smaller box wins where both are
    close(inside.unique(), [0, 1 / 36, 1 / 9])
    close(inside.sum(), 1.888889)
    close(outside.unique(), [0, 0.043478])
    close(outside.sum(), 1.0)


def test_masks_cover_every_cell_that_a_box_touches_and_up_to_one_more():
    inside, _ = masks(boxes([9, 9, 23, 23]), (64, 64), (8, 8))
    close(inside[1:4, 1:4], torch.full((3, 3), 1 / 9))
    assert int((inside > 0).sum()) == 9


def test_masks_of_a_box_of_the_whole_image_and_of_no_box():
    inside, outside = masks(boxes([0, 0, 64, 64]), (64, 64), (8, 8))
    close(inside, torch.full((8, 8), 1 / 81))
    close(inside.sum(), 0.790123)
    assert outside.sum() == 0
    inside, outside = masks(boxes(), (64, 64), (8, 8))
    assert inside.sum() == 0
    close(outside, torch.full((8, 8), 1 / 64))


def test_whole_pixels_on_the_border_of_two_cells_stay_there():
    inside, _ = masks(boxes([48, 0, 56, 8]), (800, 800), (100, 100))  # 56 / 800 * 100 is above 7 in floating point
    assert inside[0].nonzero().flatten().tolist() == [6, 7]


def test_boxes_of_a_padded_image_are_placed_in_the_padded_frame_or_as_in_the_authors_code():
    box = boxes([400, 0, 700, 8])
    right, _ = masks(box, (800, 1344), (100, 168))
    shifted, _ = masks(box, (800, 800), (100, 168))
    for found, first, last in ((right, 50, 88), (shifted, 84, 147)):
        columns = found[0].nonzero().flatten()
        assert (int(columns[0]), int(columns[-1]), len(columns)) == (first, last, last - first + 1)
    both = ((right > 0) & (shifted > 0)).sum() / ((right > 0) | (shifted > 0)).sum()
    close(both, 0.051, atol=5e-4)

    batch = batch_of([box / 100, box / 100], side=(8, 14), sizes=((8, 8), (8, 14)))
    t, s = torch.ones(2, 1, 4, 7), torch.zeros(2, 1, 4, 7)
    values = {
        reference: built(features(s), features(t), box_reference=reference, alpha=1)(features(s), features(t), batch)
        for reference in ("padded", "image")
    }
    # With maps that differ by 1 everywhere, a box gives the share of its cells that the grid has: all of columns 2..4
    # in the padded frame, and four of columns 3..7 where the first image's own eight pixels are the frame.
    close(values["padded"]["foreground"], 1.0)
    close(values["image"]["foreground"], (1.0 + 4 / 5) / 2)


@pytest.mark.parametrize(
    "bad",
    [
        [10, 10, 10, 40],  # no width
        [10, 40, 30, 10],  # upside down
        [-30, 5, -10, 20],  # left of the image
        [70, 5, 90, 20],  # right of it
        [float("nan"), 0, 30, 30],
    ],
)
def test_a_box_that_is_none_covers_nothing_and_changes_no_other(bad):
    good = boxes([8, 8, 24, 24])
    alone, both = masks(good, (64, 64), (8, 8)), masks(torch.cat([boxes(bad), good]), (64, 64), (8, 8))
    for ours, theirs in zip(alone, both, strict=True):
        assert torch.equal(ours, theirs)


def test_a_box_that_leaves_the_image_is_cut_first():
    for outside, cut in (([-20, 8, 24, 90], [0, 8, 24, 64]), ([-9, -9, 1e9, float("inf")], [0, 0, 64, 64])):
        assert torch.equal(masks(boxes(outside), (64, 64), (8, 8))[0], masks(boxes(cut), (64, 64), (8, 8))[0])


def loop_masks(image_boxes, frame, grid):
    """The same, box by box and cell by cell, as the paper and the authors' code describe it."""
    (height, width), (rows, columns) = frame, grid
    inside = torch.zeros(grid)
    for x1, y1, x2, y2 in image_boxes.double().tolist():
        x1, x2 = (min(max(x, 0), width) for x in (x1, x2))
        y1, y2 = (min(max(y, 0), height) for y in (y1, y2))
        if x2 <= x1 or y2 <= y1:
            continue
        left, right = math.floor(x1 * columns / width), math.ceil(x2 * columns / width)
        top, bottom = math.floor(y1 * rows / height), math.ceil(y2 * rows / height)
        value = 1 / ((right - left + 1) * (bottom - top + 1))
        for row in range(top, min(bottom + 1, rows)):
            for column in range(left, min(right + 1, columns)):
                inside[row, column] = max(inside[row, column], value)
    background = int((inside == 0).sum())
    return inside, (inside == 0).float() / max(1, background)


@settings(max_examples=60, deadline=None)
@given(
    image_boxes=st.lists(st.lists(st.tuples(SIDE, SIDE, SIDE, SIDE), max_size=6), min_size=1, max_size=3),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_masks_of_all_boxes_at_once_are_those_of_a_loop(image_boxes, grid):
    frame = (96, 128)  # powers of two along one side, and not along the other
    each = [torch.round(boxes(*b) * 4) / 4 for b in image_boxes]  # quarters of a pixel: no edge is a rounding away
    inside, outside = box_masks(stacked(each), frame, grid)
    for k, image in enumerate(each):
        ours, theirs = loop_masks(image, frame, grid)
        close(inside[k], ours, atol=1e-6)
        close(outside[k], theirs, atol=1e-6)


# The losses


def test_the_fixed_case_of_four_by_four():
    s, t, box = fixed_case()
    places, channels = attention(t)
    close(places[0, 0], [0.433639, 0.714949, 1.178752, 1.943434])
    close(channels[0], [0.984376, 1.015624])
    inside, outside = box_masks(stacked([box]), (4, 4), (4, 4))
    foreground, background = feature_loss(s, t, attention(t), [inside, outside])
    close(foreground, 0.717528)
    close(background, 0.390540)
    close(attention_loss(attention(s), attention(t)), 8.158380)
    close(global_loss(GlobalContext(2)(s), GlobalContext(2)(t)), 8.8125)
    term = built(features(s), features(t), alpha=1e-3, beta=5e-4, gamma=1e-3, lambda_=5e-6)
    parts = term(features(s), features(t), batch_of([box]))
    assert tuple(parts) == term.parts == ("foreground", "background", "attention", "global")
    close(sum(parts.values()), 0.009115241, atol=1e-9)


def test_two_images_are_averaged_and_two_levels_are_summed():
    s, t, box = fixed_case()
    weights = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0, "lambda_": 1.0}
    expected = {"foreground": 0.717528, "background": 0.390540, "attention": 8.158380, "global": 8.8125}
    twice = [each.repeat(2, 1, 1, 1) for each in (s, t)]
    two_images = built(features(twice[0]), features(twice[1]), **weights)
    values = two_images(features(twice[0]), features(twice[1]), batch_of([box, box]))
    two_levels = built(features(s, s), features(t, t), **weights)
    levels = two_levels(features(s, s), features(t, t), batch_of([box]))
    for part, value in expected.items():
        close(values[part], value)
        close(levels[part], 2 * value)


def test_a_map_that_is_all_foreground():
    t, s = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]]]), torch.zeros(1, 2, 2, 2)
    places, channels = attention(t)
    close(channels[0], [0.755081, 1.244919])
    close(places.flatten(), [0.898061, 0.330378, 0.330378, 2.441183])
    weights = {"alpha": 1, "beta": 1, "gamma": 1, "lambda_": 1}
    batch = batch_of([boxes([0, 0, 0.9, 0.9])], side=(2, 2))
    parts = built(features(s), features(t), **weights)(features(s), features(t), batch)
    for part, value in (("foreground", 3.208601), ("background", 0.0), ("attention", 3.372203), ("global", 5.0)):
        close(parts[part], value)


def written_out(s, t, each, frame, temperature):
    """The four losses of one level as loops over images, in float64: the paper, line by line."""
    n, c, h, w = s.shape
    totals = dict.fromkeys(("foreground", "background", "attention", "global"), 0.0)
    for image in range(n):
        inside, outside = (mask.double() for mask in loop_masks(each[image], frame, (h, w)))
        focus = []
        for f in (s[image], t[image]):
            places = (f.abs().sum(0) / c / temperature).exp()
            channels = (f.abs().sum((1, 2)) / (h * w) / temperature).exp()
            focus.append((h * w * places / places.sum(), c * channels / channels.sum()))
        (places_s, channels_s), (places_t, channels_t) = focus
        squares = (t[image] - s[image]) ** 2 * places_t[None] * channels_t[:, None, None]
        totals["foreground"] += (squares * inside).sum().item() / n
        totals["background"] += (squares * outside).sum().item() / n
        apart = (places_t - places_s).abs().sum() + (channels_t - channels_s).abs().sum()
        totals["attention"] += apart.item() / n
        totals["global"] += ((t[image] - s[image]) ** 2).sum().item() / n  # R is the identity in the first step
    return totals


@pytest.mark.parametrize("seed", range(5))
def test_random_cases_are_what_the_equations_written_out_give(seed):
    generator = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(2, 8, 7, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    corners = torch.rand(2, 2, 2, 2, generator=generator).sort(dim=2).values * torch.tensor([72.0, 56.0])
    each = [(corners[0].flatten(1) * 4).round() / 4, (corners[1, :1].flatten(1) * 4).round() / 4]  # two boxes, and one
    term = built(features(s), features(t), alpha=1, beta=1, gamma=1, lambda_=1, temperature=0.7).double()
    found = term(features(s), features(t), batch_of(each, side=(56, 72)))
    for part, value in written_out(s, t, each, (56, 72), 0.7).items():
        close(found[part], value, atol=1e-5)


def test_equal_maps_lose_nothing():
    t = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    parts = built(features(t), features(t))(features(t), features(t), batch_of([boxes([0, 0, 2, 2]), boxes()]))
    assert [value.item() for value in parts.values()] == [0.0] * 4


def test_global_loss_with_biased_context():
    s, t, _ = fixed_case()
    ours, theirs = GlobalContext(2), GlobalContext(2)
    with torch.no_grad():
        for block in (ours, theirs):
            block.key.weight.zero_()
        ours.value[3].bias.copy_(torch.tensor([1.0, -1.0]))
    close(global_loss(ours(s), theirs(t)), 40.3125)


def test_global_context_is_the_equation_written_out():
    generator = torch.Generator().manual_seed(3)
    block, f = GlobalContext(4).double(), torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    flat = f.flatten(2)
    first, norm, _, last = block.value
    for n in range(2):
        scores = torch.stack([(block.key.weight.flatten() * flat[n, :, j]).sum() for j in range(6)])
        share = scores.exp() / scores.exp().sum()  # the bias of W_k changes no softmax
        context = sum(share[j] * flat[n, :, j] for j in range(6))
        hidden = first.weight.flatten(1) @ context + first.bias
        normed = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + norm.eps).sqrt()
        hidden = (normed * norm.weight.flatten() + norm.bias.flatten()).clamp(min=0)
        added = last.weight.flatten(1) @ hidden + last.bias
        close(block(f)[n], f[n] + added[:, None, None], atol=1e-12)


def test_gradient_of_the_focal_part_is_in_closed_form_and_passes_no_attention():
    generator = torch.Generator().manual_seed(4)
    s, t = (torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    s.requires_grad_()
    inside, outside = box_masks(stacked([boxes([1, 1, 8, 6]), boxes()]), (8, 10), (4, 5))
    places, channels = attention(t)
    foreground, background = feature_loss(s, t, (places, channels), [inside, outside])
    (0.7 * foreground + 0.3 * background).backward()
    mask = 0.7 * inside.double() + 0.3 * outside.double()
    expected = 2 * (places * mask)[:, None] * channels[:, :, None, None] * (s.detach() - t) / 2
    close(s.grad, expected, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(5)
    t = torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64)
    s = torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    term = built(features(s), features(t), alpha=1, beta=1, gamma=1, lambda_=1).double()
    with torch.no_grad():
        for parameter in term.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    batch = batch_of([boxes([0, 0, 2, 3]), boxes()])
    for part in term.parts:
        assert torch.autograd.gradcheck(lambda x, part=part: term(features(x), features(t), batch)[part], s)


def test_the_teacher_gets_no_gradient_and_both_context_blocks_do():
    s, t, box = fixed_case()
    s, t = s.clone().requires_grad_(), t.clone().requires_grad_()
    term = built(features(s), features(t.detach()))
    sum(term(features(s), features(t.detach()), batch_of([box])).values()).backward()
    assert s.grad.abs().sum() > 0
    for blocks in (term.relations, term.teacher_relations):
        assert blocks["4"].value[3].bias.grad.abs().sum() > 0


def test_the_paper_variant_shares_one_context_block():
    s, t, box = fixed_case()
    code, paper = (built(features(s), features(t), variant=variant, lambda_=1) for variant in ("code", "paper"))
    assert len(list(code.parameters())) == 2 * len(list(paper.parameters()))
    with torch.no_grad():
        paper.relations["4"].value[3].bias.fill_(3.0)  # the same for both, so that it is no difference
        code.relations["4"].value[3].bias.fill_(3.0)
    batch = batch_of([box])
    close(paper(features(s), features(t), batch)["global"], 8.8125)
    shifted = s + 3.0
    close(code(features(s), features(t), batch)["global"], (shifted - t).square().sum(), atol=1e-4)


# The term


def test_unequal_widths_get_a_convolution_before_anything_else():
    s, t = torch.randn(1, 3, 4, 4), torch.randn(1, 2, 4, 4)
    term = built(features(s), features(t), gamma=1, alpha=0, beta=0, lambda_=0)
    assert term.parts == ("attention",)
    adapted = term.levels.adapters["4"](s)
    value = term(features(s), features(t), batch_of([boxes()]))["attention"]
    close(value, attention_loss(attention(adapted), attention(t)))
    assert not built(features(t), features(t)).levels.adapters  # equal widths: the map itself


def test_normalised_maps_are_divided_by_the_teachers_root_mean_square():
    s, t, box = fixed_case()
    settings = {"alpha": 1, "beta": 1, "gamma": 1, "lambda_": 1}
    rms = t.square().mean().sqrt()
    expected = built(features(s), features(t), **settings)(features(s / rms), features(t / rms), batch_of([box]))
    term = built(features(s), features(t), normalize=True, **settings)
    for part in (t[:, :1], t[:, 1:]):  # two batches add up: the mean is over all elements
        term.observe(features(part), batch_of([box]))
    found = term(features(s), features(t), batch_of([box]))
    again = built(features(s), features(t), normalize=True, **settings)
    again.load_state_dict(term.state_dict())  # as a resumed run does
    for part, value in expected.items():
        close(found[part], value)
        close(again(features(s), features(t), batch_of([box]))[part], value)


def test_normalised_losses_do_not_see_the_scale_of_a_pair():
    s, t, box = fixed_case()
    values = []
    for k in (1.0, 50.0):
        term = built(features(s), features(t), normalize=True)
        term.observe(features(k * t), batch_of([box]))
        values.append(sum(term(features(k * s), features(k * t), batch_of([box])).values()))
    close(values[1], values[0], atol=1e-8)


def test_mean_divides_by_constants_of_the_shapes_over_all_levels():
    generator = torch.Generator().manual_seed(6)
    shapes = ((4, 4), (8, 2))  # channels and side of each level: those of SSD have different widths
    ours, theirs = ([torch.randn(1, c, n, n, generator=generator) for c, n in shapes] for _ in range(2))
    s, t, batch = features(*ours), features(*theirs), batch_of([boxes([0, 0, 2, 2])])
    settings = {"alpha": 1, "beta": 1, "gamma": 1, "lambda_": 1}
    sums, means = (built(s, t, reduction=r, **settings)(s, t, batch) for r in ("sum", "mean"))
    sizes = {"foreground": 6, "background": 6, "attention": 16 + 4 + 4 + 8, "global": 4 * 16 + 8 * 4}
    for part, size in sizes.items():
        close(means[part] * size, sums[part], atol=1e-4)


def test_official_weights_are_chosen_by_the_heads_of_the_student():
    rows = Rows(torch.zeros(1, 1), torch.zeros(1, 4))
    with_centreness = Rows(torch.zeros(1, 1), torch.zeros(1, 4), torch.zeros(1))
    for heads, family in (
        ({"rpn": rows, "roi": rows}, "two-stage"),
        ({"dense": with_centreness}, "fcos"),
        ({"dense": rows}, "retinanet"),
    ):
        s = DetectionFeatures({4: torch.zeros(1, 2, 4, 4)}, heads)
        assert family_of(s) == family
        term = built(s, s)
        official = OFFICIAL[family]
        assert term.weights == dict(
            zip(term.parts, (official.alpha, official.beta, official.gamma, official.lambda_), strict=True)
        )
        assert term.temperature == official.temperature
    term = built(s, s, family="yolox", alpha=7.0)
    assert term.weights == {"foreground": 7.0, "background": 1e-3, "attention": 1e-3, "global": 1e-5}


def test_official_weights_are_those_of_the_authors_configs():
    assert {name: tuple(vars(weights).values()) for name, weights in OFFICIAL.items()} == {
        "two-stage": (5e-5, 2.5e-5, 5e-5, 5e-7, 0.5),
        "retinanet": (1e-3, 5e-4, 5e-4, 5e-6, 0.5),
        "gfl": (1e-3, 5e-4, 5e-4, 5e-6, 0.5),
        "solo": (1e-3, 5e-4, 5e-4, 5e-6, 0.5),
        "reppoints": (1.6e-3, 8e-4, 8e-4, 8e-6, 0.5),
        "fcos": (1.6e-3, 8e-4, 8e-4, 8e-6, 0.8),
        "yolox": (2e-3, 1e-3, 1e-3, 1e-5, 0.5),
    }


def test_the_balance_of_the_parts_is_that_of_the_official_weights_on_noise_of_coco_size():
    """Unit-variance maps of RetinaNet, 256 channels, 800 x 1344 pixels, three boxes; E (T - S)^2 = 2."""
    channels, grids = 256, [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    cells = [h * w for h, w in grids]
    # A box's mask sums to 1 and attention is 1 on average: 2 C a level and box, 2 C a level for the background.
    raw = {"foreground": 3 * 5 * 2 * channels, "background": 5 * 2 * channels, "global": 2 * channels * sum(cells)}
    # The logarithm of the attention is normal with the deviation of a mean of |F| (of C or HW values) over T = 0.5, and
    # E |x - y| of two normal numbers of deviation d is 2 d / sqrt(pi).
    spread = math.sqrt(1 - 2 / math.pi) / 0.5 * 2 / math.sqrt(math.pi)
    raw["attention"] = sum(n * spread / channels**0.5 + channels * spread / n**0.5 for n in cells)
    assert [round(raw[part], -2) for part in ("foreground", "background", "attention")] == [7700, 2600, 2000]
    official = dict(zip(FGD.balanced, (1e-3, 5e-4, 5e-4, 5e-6), strict=True))
    whole = sum(official[part] * size for part, size in raw.items())
    for part, (_, share) in FGD.balanced.items():
        assert share == pytest.approx(official[part] * raw[part] / whole, abs=0.007), part
    assert sum(share for _, share in FGD.balanced.values()) == pytest.approx(1)


def test_magnitudes_of_random_maps_at_128_pixels():
    """Raw sums of unit-variance maps, 64 channels on grids of 16, 8, 4 and 2: 1.2e3, 4.0e2, 1.4e2, 4.3e4."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.randn(1, 64, n, n, generator=generator) for n in (16, 8, 4, 2)] for _ in range(2))
    s, t = features(*ours), features(*theirs)
    batch = batch_of([boxes([10, 10, 50, 40], [60, 60, 110, 120], [80, 10, 100, 30])], side=(128, 128))
    parts = built(s, t, alpha=1, beta=1, gamma=1, lambda_=1)(s, t, batch)
    parts = {part: value.item() for part, value in parts.items()}
    # four levels, E (T - S)^2 = 2 and the background a mean over places: 2 C a level; the global part 2 C HW.
    assert parts["global"] == pytest.approx(2 * 64 * 340, rel=0.03)
    assert parts["background"] == pytest.approx(2 * 64 * 4, rel=0.3)
    assert 0.5e3 < parts["foreground"] < 1.6e3
    assert 0.7e2 < parts["attention"] < 2.1e2


def test_sums_beyond_the_range_of_half_precision_stay_finite():
    s, t = torch.zeros(1, 64, 32, 32, dtype=torch.bfloat16), torch.full((1, 64, 32, 32), 3.0, dtype=torch.bfloat16)
    value = built(features(s), features(t), lambda_=1)(features(s), features(t), batch_of([boxes()]))["global"]
    assert value.dtype == torch.float32
    assert value.item() == 9 * 64 * 32 * 32


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "message"),
    [
        (
            {8: (4, 4)},
            {8: (4, 5)},
            {},
            "term 'fgd': at stride 8 the student's map is 1 x 4 x 4 and the teacher's 1 x 4 x 5",
        ),
        ({8: (4, 4)}, {16: (4, 4)}, {}, "the student has no map of stride 16, only 8; take another teacher"),
        (
            {8: (4, 4), 16: (2, 2)},
            {8: (4, 4), 16: (2, 2), 32: (1, 1)},
            {},
            "no map of stride 32, only 8, 16; take --set terms.fgd.strides=[8,16]",
        ),
        ({8: (4, 4)}, {8: (4, 4)}, {"strides": [8, 64]}, "the student has no map of stride 64, only 8"),
        ({}, {}, {}, "term 'fgd' compares feature maps, and neither detector gives any"),
    ],
)
def test_levels_that_cannot_be_paired_are_said_in_one_line(student, teacher, settings, message):
    s, t = (DetectionFeatures({k: torch.zeros(1, 2, *grid) for k, grid in maps.items()}) for maps in (student, teacher))
    with pytest.raises(KDScopeError) as error:
        built(s, t, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_levels_that_both_have_can_be_named():
    s = DetectionFeatures({8: torch.zeros(1, 2, 4, 4), 16: torch.zeros(1, 2, 2, 2)})
    t = DetectionFeatures({8: torch.ones(1, 2, 4, 4), 32: torch.zeros(1, 2, 1, 1)})
    term = built(s, t, strides=[8], alpha=0, beta=0, gamma=0, lambda_=1)
    close(term(s, t, batch_of([boxes()]))["global"], 32.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "retina"}, "unknown family 'retina' in term 'fgd'; nearest: retinanet"),
        ({"box_reference": "pad"}, "unknown box_reference 'pad' in term 'fgd'; nearest: padded"),
        ({"variant": "codes"}, "unknown variant 'codes' in term 'fgd'; nearest: code"),
        ({"reduction": "average"}, "unknown reduction 'average' in term 'fgd'"),
        ({"alpha": -1}, "term 'fgd': alpha must be a number of at least 0, not -1"),
        ({"temperature": 0}, "term 'fgd': temperature must be a number above 0, not 0"),
        ({"strides": 8}, "term 'fgd': strides takes different whole numbers such as [8,16,32], not 8"),
        ({"normalize": 1}, "term 'fgd': normalize must be true or false, not 1"),
        ({"alpha": 0, "beta": 0, "gamma": 0, "lambda_": 0}, "are all 0, which leaves nothing"),
    ],
)
def test_bad_settings_are_said_when_the_term_is_made(settings, message):
    with pytest.raises(KDScopeError, match="term 'fgd'") as error:
        FGD(**settings)
    assert message in str(error.value)


def test_normalising_needs_a_teacher_that_was_seen_and_says_something():
    s, t, box = fixed_case()
    term = built(features(s), features(t), normalize=True)
    with pytest.raises(KDScopeError, match="observe"):
        term(features(s), features(t), batch_of([box]))
    for silent, what in ((1e-9 * t, "as good as zero"), (t / 0, "not finite")):
        term.observe(features(silent), batch_of([box]))
        with pytest.raises(KDScopeError, match=f"map of stride 4 is {what}"):
            term(features(s), features(t), batch_of([box]))
