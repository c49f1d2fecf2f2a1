"""letKD: a layer of templates inside the student, its targets, and the presets `letkd-1` and `letkd-2`.

layer.py the KD layer; insert.py puts it into any network; kmeans.py, lda.py, subclass.py what is computed once from
the teacher, and prepare.py in which order; targets.py what the layer is shown; term.py the term.
"""

from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.letkd.layer import KDLayer, kd_layers
from kdscope.methods.letkd.term import LetKD
from kdscope.methods.method import METHODS, Method

__all__ = ["KDLayer", "LetKD", "kd_layers"]

CITATION = "Gorgun, Gurbuz & Alatan, BMVC 2023, arXiv:2309.02843"
DEPARTURES = (
    "The form of the released code is the default; `variant=paper_text` gives each template's value length 1, not "
    "each output channel. Algorithm 1 prints softmax(d), the code softmax(-d), and so does kdscope. A patch takes the "
    "nearest sub-class of its own class; the code takes sub-class 0 of class 0 where all of its own are the farthest. "
    "The code chooses the best epoch on test; kdscope reports the last. With fewer patches than 8 x 4,096 only an "
    "eighth as many templates as patches have a centroid. CIFAR-10 has 9 discriminant components here, 8 there. Where "
    "the student's grid is the finer, its matches are averaged (not in the paper). `codes`, `sharpness`, `noise`, "
    "`codebook`, `scores`, `labels`, `permute` and the weights are control arms (docs/controls.md)."
)
COST = "4,096 templates cost a student as small as resnet20 82 % more multiply-adds, and 67 MB for each tensor of them."

METHODS.register("letkd-1")(
    Method(
        terms={CrossEntropy: 1.0, LetKD: 1.0},
        title="KD layer that lets the student decide, at the last map",
        citation=CITATION,
        transfers="which of 4,096 centroids of the teacher's patches each place is near",
        equation="CE + mean KL(p_T || softmax(a)); a = s1 cos(w_k, x), p_T = softmax(-||z - c_k||^2), "
        "x' = x + s2 W p / ||p||, p = ReLU(BN(a))",
        reference="CIFAR-100, 5 trials, best epoch on test (authors): resnet56 -> resnet20 72.44 (KD 70.66, student "
        "69.06), resnet110 -> resnet20 72.68, resnet110 -> resnet32 74.40, resnet32x4 -> resnet8x4 76.70, wrn-40-2 -> "
        "wrn-16-2 76.29, wrn-40-2 -> wrn-40-1 75.01; with alpha 0 (no layer at inference) resnet56 -> resnet20 71.84",
        departures=DEPARTURES,
        cost=COST,
    )
)
METHODS.register("letkd-2")(
    Method(
        terms={CrossEntropy: 1.0, LetKD: 1.0},
        settings={"letkd": {"intermediate": "entries:-1"}},
        title="KD layers that let the student decide, at the last map and inside",
        citation=CITATION,
        transfers="as letkd-1, and which sub-classes of the teacher each place of an inner map is taken for",
        equation="letkd-1 + mean KL(s_T[h] || softmax(a')); h the nearest of the label's 8 sub-classes, in the space "
        "of a discriminant analysis, s_T[h] what its patches are nearest to",
        reference="CIFAR-100, 5 trials, best epoch on test (authors): resnet56 -> resnet20 73.27 (KD 70.66, student "
        "69.06), resnet110 -> resnet20 73.38, resnet110 -> resnet32 74.62, resnet32x4 -> resnet8x4 77.09, wrn-40-2 -> "
        "wrn-16-2 76.56, wrn-40-2 -> wrn-40-1 75.19",
        departures=DEPARTURES,
        cost=COST,
    )
)
