"""Teacher assistants: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020.

A chain of networks of falling size, teacher -> assistant -> ... -> student, each of which learns from the one before it
with Hinton's loss. Which assistants is a setting of the run; where none is named, one is taken whose parameter count is
nearest the geometric mean of the two. The authors find an assistant best whose accuracy, not size, lies halfway.
"""

from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.kd import KD
from kdscope.methods.method import METHODS, Method

METHODS.register("takd")(
    Method(
        terms={CrossEntropy: 0.1, KD: 0.9},
        title="Teacher-assistant distillation",
        citation="Mirzadeh, Farajtabar, Li, Levine, Matsukawa & Ghasemzadeh, AAAI 2020, arXiv:1902.03393",
        family="schedule",
        transfers="probabilities of all classes, by way of networks of middling size",
        equation="(1 - l) CE(z_s, y) + l T^2 KL(softmax(z_t / T) || softmax(z_s / T)) along teacher -> assistants -> "
        "student, l = 0.9, T = 4",
        reference="ResNet-110 -> ResNet-20 -> ResNet-8, student alone / KD / TAKD: CIFAR-10 88.52 / 88.65 / 88.98, "
        "CIFAR-100 61.37 / 61.41 / 61.82 (quoted from memory of the paper)",
        departures="l and T are those of `kd`; the authors search them (l in 0.05 to 1, T in 1 to 20) and the seed, "
        "for accuracy on the test images. Their code further averages KL over classes too, C times too small; starts "
        "at a tenth of the learning rate, because its test for the first half of the epochs is never true; trains "
        "without augmentation; and normalises CIFAR-10 with the statistics of CIFAR-100",
        cost="Each assistant is a whole training.",
        chain="assistants",
    )
)
