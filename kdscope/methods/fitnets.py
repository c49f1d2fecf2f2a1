"""FitNets: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.

A middle layer of the teacher is a hint: a regressor r on the student's guided layer learns to say it. In the paper this
comes first and alone, L_HT = 1/2 ||u_h(x) - r(v_g(x))||^2 (equation 3), and the student so begun is then trained with
the labels and the teacher's softened probabilities, whose share falls. Popular code trains all at once.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from kdscope.data import Batch
from kdscope.errors import KDScopeError, unknown
from kdscope.features.features import Features
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.kd import KD
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import exact
from kdscope.methods.term import Layers, Phase, Term, check_share

VARIANTS = ("paper", "repdistiller")


def hint_loss(prediction: Tensor, hint: Tensor, variant: str = "paper") -> Tensor:
    """Distance of the regressor's maps from the teacher's; >= 0, and 0 where they are equal.

    Args:
        prediction: r(v_g) [B, C, H, W].
        hint: u_h [B, C, H, W].
        variant: "paper" is 1/2 ||u - r||^2 of the channels at each place, averaged over places and images: equation 3
            over HW, so that a step of SGD does not grow with the grid. "repdistiller" is the mean square of all
            elements, to which the weight 100 belongs; that is 2 / C of the other.

    >>> import torch
    >>> one = torch.ones(2, 4, 3, 3)
    >>> float(hint_loss(one, 0 * one)), float(hint_loss(one, 0 * one, variant="repdistiller"))
    (2.0, 1.0)
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS, "term 'fitnets'")
    squares = (exact(prediction) - exact(hint)).square()
    return 0.5 * squares.sum(1).mean() if variant == "paper" else squares.mean()


def regressor(
    channels_in: int, channels_out: int, grid_in: tuple[int, int], grid_out: tuple[int, int], rectify: bool = True
) -> nn.Sequential:
    """A convolution with batch norm, and ReLU where `rectify`, from maps on `grid_in` to maps on `grid_out`.

    A whole ratio n >= 2 of the grids is a stride: a kernel of n + 1 down, a transposed one of n + 2 up. For any other
    the kernel makes up the difference, k = 1 + |H_in - H_out| (section 2.2). Equal grids give a 1x1 convolution.

    Raises:
        KDScopeError: if one side of the grid grows and the other shrinks.

    >>> import torch
    >>> regressor(2, 3, (8, 9), (4, 7))(torch.ones(2, 2, 8, 9)).shape
    torch.Size([2, 3, 4, 7])
    """
    sides = list(zip(grid_in, grid_out, strict=True))
    if all(a >= b for a, b in sides):
        kernel, stride, padding = zip(*(_down(a, b) for a, b in sides), strict=True)
        conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding)
    elif all(a <= b for a, b in sides):
        kernel, stride, padding = zip(*(_up(a, b) for a, b in sides), strict=True)
        conv = nn.ConvTranspose2d(channels_in, channels_out, kernel, stride, padding)
    else:
        raise KDScopeError(
            f"term 'fitnets': no regressor leads from a grid of {grid_in[0]} x {grid_in[1]} to one of {grid_out[0]} x "
            f"{grid_out[1]}, which is larger on one side and smaller on the other; choose other `layers`"
        )
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU() if rectify else nn.Identity())


def _down(size: int, target: int) -> tuple[int, int, int]:
    """Kernel, stride and padding of a convolution from `size` places to `target`, which are no more."""
    if size % target:
        return 1 + size - target, 1, 0
    n = size // target
    return (n + 1, n, 1) if n > 1 else (1, 1, 0)


def _up(size: int, target: int) -> tuple[int, int, int]:
    """The same of a transposed convolution, to no fewer places."""
    if target % size:
        return 1 + target - size, 1, 0
    n = target // size
    return (n + 2, n, 1) if n > 1 else (1, 1, 0)


class FitNets(Term):
    """The hint loss of one pair of layers, by default the last stage but one of both networks.

    With `init_share` above 0 the hints are a training of their own, of the student up to the guided layer and the
    regressor, for that share of the run's epochs, and have no part in the main one; at 0 all is trained at once.
    """

    name = "fitnets"
    reads = "features"
    summary = "a middle map, by a regressor"
    maps_only = True
    least_images = 2

    def __init__(self, init_share: float = 0.0, variant: str = "paper", layers: Layers = "stages:-2"):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'fitnets'")
        check_share(self.name, init_share)
        self.init_share, self.variant, self.layers = init_share, variant, layers

    def build(self, student: Features, teacher: Features) -> None:
        self.regressors = nn.ModuleList()
        for s, t in zip(student.maps.values(), teacher.maps.values(), strict=True):
            # r ends as the hint does (section 2.2): a pre-activation network's map has both signs. A map of zeros,
            # which a fresh network may give of a black image, does not tell.
            rectify = self.variant == "repdistiller" or bool((t >= 0).all() and (t > 0).any())
            self.regressors.append(regressor(s.shape[1], t.shape[1], s.shape[2:], t.shape[2:], rectify))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("hints", self.init_share, learns="student"),)

    def trained(self, phase: Phase | None) -> Iterable[nn.Parameter]:
        return self.parameters() if phase is not None or self.in_main else ()

    @property
    def in_main(self) -> bool:
        return self.init_share == 0

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        each = zip(self.regressors, student.maps.values(), teacher.maps.values(), strict=True)
        return sum(hint_loss(r(exact(s)), t, self.variant) for r, s, t in each)


_REFERENCE = (
    "trained all at once, CIFAR-100, last epoch (Tian et al., ICLR 2020): resnet56 -> resnet20 69.21 (student 69.06, "
    "KD 70.66), resnet32x4 -> resnet8x4 73.50 (student 72.50), vgg13 -> vgg8 71.02 (student 70.36)"
)

METHODS.register("fitnets")(
    Method(
        terms={CrossEntropy: 1.0, KD: 4.0, FitNets: 1.0},
        settings={
            "kd": {"temperature": 3.0, "scale_gradient": False, "anneal": "linear"},
            "fitnets": {"init_share": 30 / 240},
        },
        title="FitNets: hints first, then distillation",
        citation="Romero, Ballas, Kahou, Chassang, Gatta & Bengio, ICLR 2015, arXiv:1412.6550",
        transfers="a middle map as initialisation, then logits",
        equation="first L = 1/2 ||u_h - r(v_g)||^2, then L = CE + lambda KL(p_t(T) || p_s(T)), lambda falling from 4",
        reference=_REFERENCE,
        departures="The regressor has batch norm, without which SGD needs another rate for each pair; the loss is "
        "averaged over places (the paper's RMSProp does not see its scale). lambda falls to 0, the paper's to 1. The "
        "hints take an eighth of the run's epochs in addition.",
    )
)

METHODS.register("fitnets-joint")(
    Method(
        terms={CrossEntropy: 1.0, FitNets: 100.0},
        settings={"fitnets": {"variant": "repdistiller"}},
        title="FitNets: hints and labels at once",
        citation="Romero et al., ICLR 2015, arXiv:1412.6550, as trained by Tian, Krishnan & Isola, ICLR 2020",
        transfers="a middle map",
        equation="L = CE + 100 mean (F_t - ReLU(BN(conv(F_s))))^2",
        reference=_REFERENCE,
        departures="Grids of any ratio have a regressor; the public code stops at other ratios than 2 where the "
        "student's map is the smaller. The middle stage is counted from the deep end.",
    )
)
