"""Half-image KD: each of m teachers is shown its own vertical strip of the image that the student sees whole.

C. Guo, S. Zhong, X. Liu, Q. Feng & Y. Ma, "Why does knowledge distillation work? Rethink its attention and fidelity
mechanism", Expert Systems with Applications 262:125579, 2025 (arXiv 2405.00739), appendix C: the left half of each
training image goes to teacher 1, the right half to teacher 2, which makes them attend to different places by force. The
loss is that of `kd`. No code was released, and the paper does not say how half an image fills the input of a network.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from kdscope.errors import KDScopeError, unknown
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.kd import KD
from kdscope.methods.method import METHODS, Method

FILLS = ("resize", "mask")


def strip(image: Tensor, k: int, m: int, fill: str = "resize") -> Tensor:
    """Strip k of m of each image [B, C, H, W], from left to right, in the shape of the whole image.

    Columns round(k W / m) to round((k + 1) W / m) - 1: the strips of all k are the image, and no column is in two.

    Args:
        fill: "resize" scales the strip to the full width (bilinear); "mask" leaves it where it is, among zeros, which
            are the mean colour of normalised images.

    Raises:
        KDScopeError: images narrower than m pixels, or an unknown fill.

    >>> image = torch.arange(4.0).expand(1, 1, 1, 4)
    >>> strip(image, 1, 2, "mask").flatten().tolist(), strip(image, 1, 2).flatten().tolist()
    ([0.0, 0.0, 2.0, 3.0], [2.0, 2.25, 2.75, 3.0])
    """
    if fill not in FILLS:
        raise unknown("fill", fill, FILLS, "term 'kd-half'")
    height, width = image.shape[-2:]
    if width < m:
        raise KDScopeError(f"images of {width} pixels in width cannot be cut into a strip for each of {m} teachers")
    first, end = round(k * width / m), round((k + 1) * width / m)
    if m == 1:
        return image
    if fill == "mask":
        shown = torch.zeros_like(image)
        shown[..., first:end] = image[..., first:end]
        return shown
    return interpolate(image[..., first:end], size=(height, width), mode="bilinear", align_corners=False)


class HalfImageKD(KD):
    """The soft part of `kd`, from teachers that each saw a strip of what augmentation made of the image."""

    name = "kd-half"
    summary = "logits, each teacher's of its own strip of the image"

    def __init__(self, temperature: float = 4.0, scale_gradient: bool = True, fill: str = "resize"):
        super().__init__(temperature, scale_gradient)
        if fill not in FILLS:
            raise unknown("fill", str(fill), FILLS, "term 'kd-half'")
        self.fill = fill

    def shown(self, image: Tensor, k: int, m: int) -> Tensor:
        return strip(image, k, m, self.fill)


METHODS.register("kd-half")(
    Method(
        terms={CrossEntropy: 0.1, HalfImageKD: 0.9},
        title="Half-image distillation",
        citation="Guo, Zhong, Liu, Feng & Ma, Expert Systems with Applications 262:125579, 2025, arXiv:2405.00739",
        family="logits",
        transfers="probabilities of all classes; each teacher is shown its own strip of the image, the student all",
        equation="0.1 CE(z_s(x), y) + 0.9 T^2 mean_k KL(softmax(z_k(strip_k(x)) / T) || softmax(z_s(x) / T)), T = 4, "
        "with ensemble mean-loss",
        reference="CIFAR-100, ResNet-50 twice -> ResNet-18, two teachers of weak augmentation and a student of strong: "
        "training fidelity KD -> half-image KD 78.59 -> 59.21, IoU of the teachers' attention 0.556 -> 0.306 "
        "(Guo et al., table C.2); accuracies were not published",
        departures="A strip is scaled to the full width, for networks are trained on whole inputs; `fill: mask` leaves "
        "it in its place among zeros. The paper says neither. It has two teachers; here m see m strips, and one "
        "alone sees all, as in `kd`. The strips are of the augmented image: a mirrored one has its left half at the "
        "right. Fidelity is measured on whole images, to which the student was not taught to agree with its teachers",
    )
)
