"""Networks that teach the next generation of themselves: one loss each, with `chain="generations"`.

The first generation learns from the labels alone; every later one starts anew, with the one before it as its teacher.
Born-again networks (Furlanello, Lipton, Tschannen, Itti & Anandkumar, ICML 2018) learn from the teacher alone at T = 1;
Tf-KD_self (Yuan, Tay, Li, Wang & Feng, CVPR 2020, section 5) is 0.05 CE + 0.95 T^2 KL.
"""

from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.kd import KD
from kdscope.methods.method import METHODS, Method

_ABOUT = {
    "family": "schedule",
    "transfers": "probabilities of all classes, from the generation before",
    "chain": "generations",
}

METHODS.register("self-kd")(
    Method(
        terms={CrossEntropy: 0.1, KD: 0.9},
        title="Self-distillation over generations",
        citation="Hinton, Vinyals & Dean, 2015, arXiv:1503.02531; generations of Furlanello et al., ICML 2018",
        equation="0.1 CE(z_k, y) + 0.9 T^2 KL(softmax(z_(k-1) / T) || softmax(z_k / T)), T = 4",
        departures="No paper's preset: the loss of `kd` in the chain of born-again networks",
        cost="Each generation is a whole training of the student.",
        **_ABOUT,
    )
)

METHODS.register("born-again")(
    Method(
        terms={KD: 1.0},
        settings={"kd": {"temperature": 1.0}},
        title="Born-again networks",
        citation="Furlanello, Lipton, Tschannen, Itti & Anandkumar, ICML 2018, arXiv:1805.04770",
        equation="KL(softmax(z_(k-1)) || softmax(z_k))",
        reference="DenseNets: validation error 3.5 % on CIFAR-10 and 15.5 % on CIFAR-100 (abstract; the latter an "
        "ensemble of generations)",
        departures="The gradient is that of the paper's cross-entropy with the teacher's probabilities, from which KL "
        "differs by a constant. With labels too (BAN+L): `cross-entropy: {weight: 1}`. Ensembles of generations are a "
        "matter of evaluation",
        cost="Each generation is a whole training of the student.",
        **_ABOUT,
    )
)

METHODS.register("tf-kd-self")(
    Method(
        terms={CrossEntropy: 0.05, KD: 0.95},
        settings={"kd": {"temperature": 6.0}},
        title="Teacher-free KD from oneself",
        citation="Yuan, Tay, Li, Wang & Feng, CVPR 2020, arXiv:1909.11723",
        equation="0.05 CE(z_s, y) + 0.95 T^2 KL(softmax(z_t / T) || softmax(z_s / T)), T = 6, z_t of generation 1",
        reference="CIFAR-100, 200 epochs: ResNeXt-29 81.03 -> 82.08 (the authors' README)",
        departures="KL is averaged over images; the authors' code averages over classes too and multiplies by a number "
        "of each network (50 for ResNet-18, which is 0.5 here at 100 classes; 1 for MobileNetV2, which is 0.01). T = 6 "
        "is theirs for ResNet-18, 20 for MobileNetV2",
        cost="Two trainings of the student.",
        **_ABOUT,
    )
)
