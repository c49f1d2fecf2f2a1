"""Detectors by name: `build("fcos_resnet10_w16", num_classes=3)` gives a plain torchvision detector.

    FAMILY_resnetD_wW   from scratch and small: ResNet-D of width W (10, 18 or 34 layers), batch norm, an FPN of 64
                        channels; for images of 64 to 256 pixels. Families: fcos, fasterrcnn, retinanet.
    FAMILY_resnetD      torchvision's parts at torchvision's sizes: ResNet-D with an FPN of 256 channels.
    torchvision:NAME    a detector as torchvision builds it, such as torchvision:fcos_resnet50_fpn.
    MODULE:CALLABLE     a user's own, called with num_classes; see `kdscope.detection.adapter` for what it must offer.

`num_classes` counts the classes of objects; torchvision's own count is one more, because label 0 is the background.
All normalise by ImageNet's mean and deviation unless an option says otherwise, so that one transform serves any pair.
"""

import contextlib
import functools
import inspect
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torchvision.models import WeightsEnum
from torchvision.models import detection as zoo
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.resnet import BasicBlock, conv1x1
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from kdscope.errors import KDScopeError, unknown
from kdscope.models import external

FAMILIES = {"fcos": zoo.FCOS, "fasterrcnn": zoo.FasterRCNN, "retinanet": zoo.RetinaNet, "ssd": zoo.ssd.SSD}
OURS = ("fcos", "fasterrcnn", "retinanet")
SOURCES = {
    "fcos": "FCOS (Tian et al., ICCV 2019)",
    "fasterrcnn": "Faster R-CNN (Ren et al., NeurIPS 2015)",
    "retinanet": "RetinaNet (Lin et al., ICCV 2017)",
}
DEPTHS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # of basic blocks
LARGE = (18, 34, 50, 101)
RATIOS = (0.5, 1.0, 2.0)
CHANNELS = 64  # of the feature pyramid of the small detectors


def names() -> list[str]:
    """Common names; any width of the small ones can be built, and any detector of torchvision as torchvision:NAME.

    >>> {"fcos_resnet10_w16", "fasterrcnn_resnet18_w32", "retinanet_resnet50"} <= set(names())
    True
    """
    small = [f"{family}_resnet{d}_w{w}" for family in OURS for d, w in ((10, 8), (10, 16), (18, 32))]
    return sorted(small + [f"{family}_resnet{d}" for family in OURS for d in LARGE])


def summary(name: str) -> str:
    """What the detector of that name is, with its source, in one line.

    >>> summary("fcos_resnet10_w16")
    'FCOS (Tian et al., ICCV 2019), ResNet-10 of width 16 for small images.'
    """
    family, depth, width = check_name(name)
    body = f"width {width} for small images" if width else "torchvision's sizes"
    return f"{SOURCES[family]}, ResNet-{depth} of {body}."


def build(
    name: str,
    num_classes: int,
    *,
    image_size: int | None = None,
    pretrained: bool = False,
    fetch: bool = True,
    **options: Any,
) -> nn.Module:
    """A new detector in training mode, its weights drawn from torch's global generator.

    Args:
        name: as above.
        num_classes: classes of objects, >= 1, without the background.
        image_size: shorter side that images are scaled to, in pixels (SSD has a size of its own); None: 128 for the
            small detectors, and what torchvision's own have (800).
        pretrained: start the backbone from published weights; not for the small ones. Torchvision builds it otherwise
            then: its batch norms are frozen, and its first layers too.
        fetch: False builds that same network without those weights, for weights that are at hand.
        options: of torchvision's constructor (`min_size`, `score_thresh`, `box_detections_per_img`, ...).

    Raises:
        KDScopeError: an unknown name (with the nearest) or option, or weights that cannot be fetched.

    >>> import torch
    >>> detector = build("fcos_resnet10_w8", num_classes=3).eval()
    >>> sorted(detector([torch.zeros(3, 128, 128)])[0])
    ['boxes', 'labels', 'scores']
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise KDScopeError(f"detector {name!r} needs a whole number of classes, at least 1, not {num_classes!r}")
    with _nothing_fetched() if pretrained and not fetch else contextlib.nullcontext():
        return _built(name, num_classes, image_size, pretrained, options)


def _built(name: str, num_classes: int, image_size: int | None, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    if ":" in name:
        return _external(name, num_classes, image_size, pretrained, options)
    family, depth, width = check_name(name)
    if width:
        if pretrained:
            raise KDScopeError(f"detector {name!r} has no published weights; {family}_resnet18 has a backbone's")
        maker = functools.partial(SMALL[family], depth, width)
    else:
        maker = functools.partial(_large, family, depth, pretrained)
    _check_options(name, family, options)
    options = ({} if image_size is None else {"min_size": image_size}) | options
    return external.create(name, maker, (num_classes + 1,), options)


def is_one(name: str) -> bool:
    """Whether a name stands for a detector: one of ours, or one of torchvision's.

    >>> is_one("fcos_resnet10_w16"), is_one("torchvision:ssd300_vgg16"), is_one("resnet20"), is_one("timm:resnet18")
    (True, True, False, False)
    """
    if ":" in name:
        source, _, rest = name.lower().partition(":")
        return source == "torchvision" and bool(_family(rest)) and "_" in rest
    return name.strip().lower().partition("_")[0] in OURS


def check_name(name: str) -> tuple[str, int, int]:
    """Family, depth and width (0: torchvision's) that a name stands for; of a name with ":" nothing is known yet.

    >>> check_name("fcos_resnet10_w16"), check_name("fcos_resnet50")
    (('fcos', 10, 16), ('fcos', 50, 0))
    """
    if ":" in name:
        return "", 0, 0
    match = re.fullmatch(r"([a-z]+)_resnet(\d+)(?:_w([1-9]\d*))?", name.strip().lower())
    if match is None or match[1] not in OURS or int(match[2]) not in (DEPTHS if match[3] else LARGE):
        raise unknown("detector", name, names())
    return match[1], int(match[2]), int(match[3] or 0)


def backbone(depth: int, width: int, levels: tuple[int, ...]) -> BackboneWithFPN:
    """ResNet of basic blocks, `width` channels in its first stage, and an FPN over the stages `levels` (1 to 4).

    The strides of stages 1 to 4 are 4, 8, 16 and 32; a max-pooled level of twice the last stride follows.
    """
    body, channels = OrderedDict(stem=_stem(width)), width
    for stage, blocks in enumerate(DEPTHS[depth], 1):
        out = width * 2 ** (stage - 1)
        body[f"layer{stage}"] = nn.Sequential(
            *(_block(channels if k == 0 else out, out, 2 if k == 0 and stage > 1 else 1) for k in range(blocks))
        )
        channels = out
    names = {f"layer{stage}": str(k) for k, stage in enumerate(levels)}
    network = BackboneWithFPN(nn.Sequential(body), names, [width * 2 ** (s - 1) for s in levels], CHANNELS)
    for module in network.body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _stem(width: int) -> nn.Module:
    convolution = nn.Conv2d(3, width, 7, 2, 3, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))


def _block(before: int, after: int, stride: int) -> BasicBlock:
    changes = stride > 1 or before != after
    shortcut = nn.Sequential(conv1x1(before, after, stride), nn.BatchNorm2d(after)) if changes else None
    return BasicBlock(before, after, stride, shortcut)


def _fcos(depth: int, width: int, num_classes: int, **options: Any) -> nn.Module:
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
    body = backbone(depth, width, (2, 3, 4))
    return zoo.FCOS(body, num_classes, anchor_generator=anchors, **{"min_size": 128} | options)


def _retinanet(depth: int, width: int, num_classes: int, **options: Any) -> nn.Module:
    sizes = tuple(tuple(round(2.5 * stride * 2 ** (k / 3)) for k in range(3)) for stride in (8, 16, 32, 64))
    anchors = AnchorGenerator(sizes, (RATIOS,) * 4)
    # Without a normalisation its head, drawn with deviation 0.01, does not learn from scratch.
    norm = functools.partial(nn.GroupNorm, 16)
    head = RetinaNetHead(CHANNELS, anchors.num_anchors_per_location()[0], num_classes, norm_layer=norm)
    body = backbone(depth, width, (2, 3, 4))
    options = {"min_size": 128, "anchor_generator": anchors, "head": head} | options
    return zoo.RetinaNet(body, num_classes, **options)


def _fasterrcnn(depth: int, width: int, num_classes: int, **options: Any) -> nn.Module:
    options = {
        "min_size": 128,
        "rpn_anchor_generator": AnchorGenerator(tuple((3 * s,) for s in (4, 8, 16, 32, 64)), (RATIOS,) * 5),
        "rpn_pre_nms_top_n_train": 400,
        "rpn_post_nms_top_n_train": 200,
        "rpn_pre_nms_top_n_test": 400,
        "rpn_post_nms_top_n_test": 100,
        "rpn_batch_size_per_image": 128,
        "box_batch_size_per_image": 64,
        "box_roi_pool": MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2),
        "box_head": TwoMLPHead(CHANNELS * 7**2, 128),
        "box_predictor": FastRCNNPredictor(128, num_classes),
    } | options
    return zoo.FasterRCNN(backbone(depth, width, (1, 2, 3, 4)), **options)


SMALL: dict[str, Callable[..., nn.Module]] = {"fcos": _fcos, "fasterrcnn": _fasterrcnn, "retinanet": _retinanet}


def _large(family: str, depth: int, pretrained: bool, num_classes: int, **options: Any) -> nn.Module:
    """As torchvision's builders of ResNet-50 do, which have no other depth; frozen batch norm with weights alone."""
    body = resnet_fpn_backbone(
        backbone_name=f"resnet{depth}",
        weights="DEFAULT" if pretrained else None,
        norm_layer=FrozenBatchNorm2d if pretrained else nn.BatchNorm2d,
        trainable_layers=3 if pretrained else 5,
        **({} if family == "fasterrcnn" else {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}),
    )
    return FAMILIES[family](body, num_classes, **options)


def _external(
    name: str, num_classes: int, image_size: int | None, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    source, _, rest = name.partition(":")
    if source.lower() != "torchvision":
        return external.build(name, num_classes, image_size=image_size or 128, pretrained=pretrained, **options)
    import torchvision

    _check_torchvision(rest)
    weights = {"weights": None, "weights_backbone": "DEFAULT" if pretrained else None, "num_classes": num_classes + 1}
    _check_options(name, _family(rest.lower()), options, "trainable_backbone_layers")
    if image_size is not None and _family(rest.lower()) != "ssd":  # which has one size, that of its name
        options = {"min_size": image_size} | options
    return external.create(name, torchvision.models.get_model, (rest.lower(),), weights | options)


@contextlib.contextmanager
def _nothing_fetched() -> Iterator[None]:
    """Torchvision's builders do all that they do for a network with published weights, and keep the drawn ones."""
    known = WeightsEnum.get_state_dict, nn.Module.load_state_dict
    WeightsEnum.get_state_dict = lambda *_, **__: {}
    nn.Module.load_state_dict = lambda *_, **__: None
    try:
        yield
    finally:
        WeightsEnum.get_state_dict, nn.Module.load_state_dict = known


def published(name: str, num_classes: int, image_size: int | None = None, **options: Any) -> nn.Module:
    """A teacher without a file: torchvision's with all its published weights, which know the 90 labels of COCO, or a
    user's own, whose callable takes `pretrained` and is called with it true.

    Raises:
        KDScopeError: a name that is no detector's, before anything is fetched; a callable without weights of its own.
    """
    import torchvision

    source, _, rest = name.partition(":")
    if source.lower() == "timm":
        raise KDScopeError(f"teacher {name!r} is no detector: those with weights are torchvision:NAME; or give a run")
    if source.lower() != "torchvision":
        return external.build(name, num_classes, image_size=image_size or 128, pretrained=True, **options)
    _check_torchvision(rest)
    return external.create(name, torchvision.models.get_model, (rest.lower(),), {"weights": "DEFAULT"} | options)


def _check_torchvision(name: str) -> None:
    import torchvision

    known = [each for each in torchvision.models.list_models(module=zoo) if _family(each)]
    if name.lower() not in known:
        raise unknown("torchvision detector", name, known)


def _family(name: str) -> str:
    """Which of FAMILIES a name of torchvision begins with; "" for detectors of masks and key points."""
    return next((family for family in FAMILIES if name.startswith(family)), "")


def _check_options(name: str, family: str, options: dict[str, Any], *more: str) -> None:
    """torchvision takes any keyword in silence, so that a misspelt one would have no effect."""
    known = [key for key in inspect.signature(FAMILIES[family]).parameters if key not in ("backbone", "kwargs")] + [
        *more
    ]
    for key in options:
        if key not in known:
            raise unknown("option", key, known, f"detector {name!r}")
