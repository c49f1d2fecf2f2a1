"""The methods for detectors, by name: presets of weighted terms, which add up as those of classifiers do (`fgd+kd`)."""

from collections.abc import Mapping
from typing import Any

from kdscope.detection.methods.at import DetectionAttentionTransfer
from kdscope.detection.methods.chen import BoundedBox, SoftClass
from kdscope.detection.methods.fgd import FGD
from kdscope.detection.methods.inherit import Inherit
from kdscope.detection.methods.kd import DetectionKD
from kdscope.detection.methods.mimicry import Hint, Mimicry
from kdscope.detection.methods.own import DetectorLoss
from kdscope.methods import method as presets
from kdscope.methods.method import Method
from kdscope.registry import Registry

DETECTION_METHODS: Registry[Method] = Registry("detection method", group="kdscope.detection.methods")


def resolve(method: str, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """The complete settings of each term of `method`, as `kdscope.methods.resolve` does for classifiers.

    >>> resolve("none")
    {'detection': {'classification': 1.0, 'regression': 1.0, 'weight': 1.0}}
    """
    return presets.resolve(method, overrides, DETECTION_METHODS)


DETECTION_METHODS.register("none")(
    Method(
        terms={DetectorLoss: 1.0},
        title="No distillation",
        citation="the detector's own paper: the control of every table",
        family="baseline",
        transfers="nothing",
        equation="L = the detector's own losses",
    )
)

DETECTION_METHODS.register("fgd")(
    Method(
        terms={DetectorLoss: 1.0, FGD: 1.0},
        title="Focal and global distillation, with the official weights",
        citation="Yang, Li, Jiang, Gong, Yuan, Zhao & Yuan, CVPR 2022, arXiv:2111.11837",
        family="features",
        transfers="maps of the pyramid inside and outside of boxes, attention, and relations of all places",
        equation="L = L_det + sum_l alpha fg + beta bg + gamma (|dA^S| + |dA^C|) + lambda |R(F_T) - R(f(F_S))|^2",
        reference="COCO box mAP, 24 epochs (the authors' code): RetinaNet-R50 37.4 -> 40.7, Faster R-CNN-R50 38.4 -> "
        "42.0, FCOS-R50 38.5 -> 42.7, RepPoints-R50 38.6 -> 42.0, GFL-R50 40.2 -> 43.5",
        departures="Weights are those of the student's family at 800 x 1333 pixels and 256 channels (lambda_, alpha, "
        "beta, gamma; `family`); they do not transfer to small maps or raw features, where the sums destroy the "
        "student: see fgd-normalised and calibrate. Boxes are placed in the padded frame: the authors' code divides by "
        "the size without padding, which is box_reference=image. Boxes are cut to the frame before they index. Teacher "
        "and student have context blocks of their own, both trained, as in the code; variant=paper shares one. The "
        "inheriting strategy is a method of its own, so that its controls can begin likewise: fgd+inherit.",
    )
)

DETECTION_METHODS.register("fgd-normalised")(
    Method(
        terms={DetectorLoss: 1.0, FGD: 1.0},
        settings={
            "fgd": {
                **{"alpha": 0.0416, "beta": 0.0205, "gamma": 0.417, "lambda_": 2.83, "temperature": 0.5},
                **{"normalize": True, "reduction": "mean"},
            }
        },
        title="Focal and global distillation of normalised maps",
        citation="Yang et al., CVPR 2022, arXiv:2111.11837; weights of kdscope",
        family="features",
        transfers="maps of the pyramid inside and outside of boxes, attention, and relations of all places",
        equation="as fgd, of maps divided by the teacher's root mean square, the sums divided by their sizes",
        departures="The maps of each level are divided by the teacher's root mean square of some training images, and "
        "the sums by constants of the shapes, so that one set of weights suits networks trained from scratch at any "
        "size. The weights are the official ones' balance on maps of unit variance at COCO's sizes, of which the "
        "global part is 85 %, rescaled by what such maps give. Maps of a trained teacher are no noise, and are larger "
        "where objects are: in the first epoch of the demo the global part is 64 % of FGD and the foreground 27 %. "
        "Beside it belongs `mimicry`, the uniform control.",
    )
)

DETECTION_METHODS.register("inherit")(
    Method(
        terms={DetectorLoss: 1.0, Inherit: 1.0},
        title="Begin with the teacher's neck and head",
        citation="the inheriting strategy of Yang et al., CVPR 2022, arXiv:2111.11837, by itself",
        family="schedule",
        transfers="weights outside of the backbone, before the first step",
        equation="L = the detector's own losses; theta_S = theta_T outside of the backbone in the first step",
        departures="A method of its own, for any other to be added to: fgd+inherit is the paper's, mimicry+inherit and "
        "inherit alone its controls. First convolutions of the neck stay as they are where the backbones' widths "
        "differ; a head of another shape is an error.",
    )
)

DETECTION_METHODS.register("mimicry")(
    Method(
        terms={DetectorLoss: 1.0, Mimicry: 4.5},
        title="Uniform mimicry of maps: the control of FGD",
        citation="the plain form of Li, Jin & Yan, CVPR 2017; weights of kdscope",
        family="features",
        transfers="maps of the pyramid, all places alike",
        equation="L = L_det + 4.5 sum_l |F_T - f(F_S)|^2 / sum_l C H_l W_l, of maps divided by the teacher's RMS",
        departures="Adapter, normalisation and levels are those of fgd-normalised, and the weight gives the loss the "
        "size that fgd-normalised has in the first step of a small FCOS (4.7 beside 2.8 of the detector), so that the "
        "two differ in masks, attention and context alone.",
    )
)

DETECTION_METHODS.register("chen2017")(
    Method(
        terms={DetectorLoss: 1.0, SoftClass: 0.5, BoundedBox: 0.5, Hint: 0.5},
        settings={"detection": {"classification": 0.5}, "hint": {"normalize": True}},
        title="Hints, weighed soft labels and bounded regression",
        citation="Chen, Choi, Yu, Han & Chandraker, NeurIPS 2017",
        family="features",
        transfers="maps by an adapter, class probabilities, and boxes as far as the teacher is better",
        equation="L = mu hard + (1 - mu) soft_w + smoothL1 + nu L_b + gamma sum_l mean (V - Z)^2, all 0.5",
        reference="PASCAL VOC mAP@.5 with a VGG16 teacher, as later accounts quote it: Tucker student 54.7 -> 59.4; "
        "by part CLS 57.4, CLS-W 57.7, L2 54.6, L2-B 55.9, Hints 56.9, Hints-A 58.0. The paper's claim is the order "
        "CLS-W > CLS, L2-B > L2, Hints-A > Hints",
        departures="The paper gives neither mu nor the margin m: 0.5 and 0. nu and gamma are as later accounts and "
        "public ports have them, not checked against the paper. The bound and its margin are in squared raw deltas, "
        "because the coders of proposals and boxes differ in scale up to 100 times in squares; on the box head the "
        "bound at m = 0 is therefore not quite that of its own units. The paper is of Faster R-CNN and has no form "
        "without anchors: on FCOS, whose distances in strides are as long as the object and whose own loss is an IoU, "
        "L_b is of distances divided by the target's width and height. The bound is decided "
        "for each box; a public port decides it on the mean of the batch. Hints are of all levels, averaged over their "
        "elements, of maps divided by the teacher's root mean square, since the paper says neither which layers nor in "
        "what units: raw maps of a small FCOS make the hint 25 times the detector's own loss. w_0 = 1.5 makes the "
        "soft loss smallest at w P_t, not at P_t. The one logit of the proposal network is taken as two classes.",
    )
)

DETECTION_METHODS.register("at")(
    Method(
        terms={DetectorLoss: 1.0, DetectionAttentionTransfer: 300.0},
        title="Attention transfer on the levels of the pyramid",
        citation="Zagoruyko & Komodakis, ICLR 2017, arXiv:1612.03928",
        family="features",
        transfers="activation-based attention maps of the pyramid",
        equation="L = L_det + 300 sum_l mean_{N,HW} (q_s,l - q_t,l)^2 with Q = sum_c F_c^2, q = vec(Q) / ||vec(Q)||_2",
        departures="The loss is that of classifiers, whose weight of 1000 makes it six times the detector's own loss "
        "in the first step of a small FCOS; 300 makes it twice that. It is a sum over levels, and on "
        "the six of an untrained SSDLite 30 times that: calibrate it. There is no published number for detectors.",
    )
)

DETECTION_METHODS.register("kd")(
    Method(
        terms={DetectorLoss: 1.0, DetectionKD: 1.0},
        title="Knowledge distillation of the logits of shared rows",
        citation="Hinton, Vinyals & Dean, 2015, arXiv:1503.02531; on shared proposals as Chen et al., NeurIPS 2017",
        family="logits",
        transfers="class probabilities of the same anchors, places and proposals",
        equation="L = L_det + sum_heads mean_rows T^2 KL(p_t(T) || p_s(T)), T = 1",
        departures="Teacher and student are asked about the same rows, those that the student's own loss counts. "
        "One-stage heads have a probability for each class, whose divergences are summed, and their background rows "
        "weigh three times the rows with objects, not a thousand times.",
    )
)
