"""Factor transfer: Kim, Park & Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018.

First a paraphraser, an autoencoder of convolutions, learns to reconstruct the teacher's last stage map; its code is the
teacher's factor F_t. Then a translator of the student's map learns, with the student, to give the same factor F_s:
L = || F_t / ||F_t||_2 - F_s / ||F_s||_2 ||_1, each factor of an image being one long vector (equation 3, p = 1).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss, normalize

from kdscope.data import Batch
from kdscope.errors import unknown
from kdscope.features.features import Features
from kdscope.methods.checks import positive
from kdscope.methods.cross_entropy import CrossEntropy
from kdscope.methods.method import METHODS, Method
from kdscope.methods.shapes import exact, same_grid
from kdscope.methods.term import Layers, Phase, Term, check_share

VARIANTS = ("authors-code", "repdistiller")
RECONSTRUCTION_LR = {"authors-code": 0.1, "repdistiller": 0.01}
SLOPE = 0.1  # of the leaky ReLU behind each convolution


def factor_transfer_loss(student_factor: Tensor, teacher_factor: Tensor, variant: str = "authors-code") -> Tensor:
    """Mean absolute difference of two normalised factors; >= 0, and 0 where one is a positive multiple of the other.

    Args:
        student_factor: F_s [B, K, H_s, W_s], the translator's output.
        teacher_factor: F_t [B, K, H_t, W_t], the paraphraser's code; where the grids differ, the finer is averaged.
        variant: "authors-code" normalises the vector of all K H W entries, as the paper does; "repdistiller" first
            takes the mean over channels of the squares, and so compares attention maps of factors.

    >>> F_s = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    >>> F_t = torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]])
    >>> round(float(factor_transfer_loss(F_s, F_t)), 6)  # 1 / sqrt 8
    0.353553
    >>> float(factor_transfer_loss(F_s, F_t, variant="repdistiller"))
    0.0
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS, "term 'ft'")
    factors = same_grid(exact(student_factor), exact(teacher_factor))
    if variant == "repdistiller":
        factors = tuple(factor.square().mean(dim=1, keepdim=True) for factor in factors)
    student, teacher = (normalize(factor.flatten(1), dim=1) for factor in factors)
    return (student - teacher).abs().mean()


class Paraphraser(nn.Module):
    """Three convolutions from C to `code` channels and their mirror image; all 3 x 3, each with a leaky ReLU."""

    def __init__(self, channels: int, code: int):
        super().__init__()
        self.encoder = encoder(channels, code, norm=False)
        widths = (code, code, channels, channels)
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.ConvTranspose2d(widths[i], widths[i + 1], 3, padding=1), nn.LeakyReLU(SLOPE)]
        self.decoder = nn.Sequential(*layers)

    def reconstruction(self, feature_map: Tensor) -> Tensor:
        """The map [B, C, H, W] out of its factor."""
        return self.decoder(self.encoder(feature_map))


def encoder(channels: int, code: int, norm: bool) -> nn.Sequential:
    """What makes a factor [B, code, H, W] of a map [B, channels, H, W]: the paraphraser's first half, a translator."""
    layers: list[nn.Module] = []
    widths = (channels, channels, code, code)
    for i in range(3):
        layers.append(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1))
        if norm:
            layers.append(nn.BatchNorm2d(widths[i + 1]))
        layers.append(nn.LeakyReLU(SLOPE))
    return nn.Sequential(*layers)


class FactorTransfer(Term):
    """The loss of `factor_transfer_loss`, summed over the pairs of layers: by default the last stages alone.

    Args:
        variant: see `factor_transfer_loss`. "repdistiller" also reconstructs with the squared error (authors' code: the
            absolute one) at a tenth of the learning rate, and puts batch norm into the translator.
        rate: channels of a factor as a share of the teacher's; 0.5 in the paper's tables.
        init_share: epochs of the paraphraser as a share of the run's; 5 of 163 in the authors' code, 30 of 240 in
            RepDistiller. With 0 the paraphraser stays as it was drawn.
    """

    name = "ft"
    reads = "features"
    summary = "factors of the last stage"
    maps_only = True

    def __init__(
        self,
        variant: str = "authors-code",
        rate: float = 0.5,
        init_share: float = 5 / 163,
        layers: Layers = "stages:-1",
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS, "term 'ft'")
        check_share(self.name, init_share)
        self.rate = positive(self.name, "rate", rate)
        self.variant, self.init_share, self.layers = variant, init_share, layers
        self.paraphrasers, self.translators = nn.ModuleList(), nn.ModuleList()

    def build(self, student: Features, teacher: Features) -> None:
        for s, t in zip(student.maps.values(), teacher.maps.values(), strict=True):
            code = max(1, round(self.rate * t.shape[1]))
            self.paraphrasers.append(Paraphraser(t.shape[1], code))
            self.translators.append(encoder(s.shape[1], code, norm=self.variant == "repdistiller"))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("paraphraser", self.init_share, learns="term", lr=RECONSTRUCTION_LR[self.variant]),)

    def trained(self, phase: Phase | None) -> Iterable[nn.Parameter]:
        return (self.translators if phase is None else self.paraphrasers).parameters()

    def phase_loss(self, phase: Phase, student: Features | None, teacher: Features, batch: Batch) -> Tensor:
        distance = mse_loss if self.variant == "repdistiller" else l1_loss
        maps = [exact(feature_map) for feature_map in teacher.maps.values()]
        pairs = zip(self.paraphrasers, maps, strict=True)
        return torch.stack([distance(one.reconstruction(feature_map), feature_map) for one, feature_map in pairs]).sum()

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        with torch.no_grad():
            targets = [
                paraphraser.encoder(exact(t))
                for paraphraser, t in zip(self.paraphrasers, teacher.maps.values(), strict=True)
            ]
        factors = [translate(exact(s)) for translate, s in zip(self.translators, student.maps.values(), strict=True)]
        losses = [factor_transfer_loss(s, t, self.variant) for s, t in zip(factors, targets, strict=True)]
        return torch.stack(losses).sum()


METHODS.register("ft")(
    Method(
        terms={CrossEntropy: 1.0, FactorTransfer: 500.0},
        title="Factor transfer",
        citation="Kim, Park & Kwak, NeurIPS 2018, arXiv:1802.04977",
        transfers="a learned code (factor) of the last feature map",
        equation="L = CE + 500 mean |F_s / ||F_s|| - F_t / ||F_t|||; F_t the code of an autoencoder",
        reference="CIFAR-100, last epoch (Tian et al., ICLR 2020): resnet56 -> resnet20 69.84 (student 69.06, KD "
        "70.66), resnet32x4 -> resnet8x4 72.86 (student 72.50), wrn-40-2 -> wrn-16-2 73.25 (student 73.26). CIFAR-10 "
        "(Knowledge-Distillation-Zoo): resnet110 -> resnet20 93.01 (student 92.37)",
        departures="The paper reconstructs with the squared error, its code and so kdscope with the absolute one. The "
        "translator learns with the student's optimiser, not with one of its own. RepDistiller normalises the map "
        "of the factor's squares, so that factors which differ in their channels alone cost nothing: "
        "variant=repdistiller (weight 200, init_share 0.125 there).",
    )
)
