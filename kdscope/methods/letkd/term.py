"""letKD: Gorgun, Gurbuz & Alatan, "Knowledge Distillation Layer that Lets the Student Decide", BMVC 2023.

L = CE + mean KL(p_T || softmax(a)) of the KD layer at the last map (letkd-1), and of one more inside (letkd-2).
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdscope.data import Batch
from kdscope.errors import KDScopeError
from kdscope.features.choose import choose
from kdscope.features.features import Features
from kdscope.methods.checks import positive, weight
from kdscope.methods.letkd.controls import check_choices, scores_kept, shuffled, smoothed
from kdscope.methods.letkd.divergence import Targets, divergence
from kdscope.methods.letkd.insert import insert
from kdscope.methods.letkd.layer import KDLayer
from kdscope.methods.letkd.lda import most_components
from kdscope.methods.letkd.prepare import COMPONENTS, TEMPLATES, make_codebook, make_subclasses, templates_for
from kdscope.methods.letkd.targets import Codebook, Subclasses, pooled
from kdscope.methods.shapes import exact
from kdscope.methods.term import Layers, Term, TrainingData

PENULTIMATE, INTERMEDIATE = "kd_penultimate", "kd_intermediate"  # names of the layers within the student
VERSION = 1  # of what is prepared


class LetKD(Term):
    """One or two KD layers in the student, whose matches learn the teacher's assignments.

    Everything of the teacher is computed once, from un-augmented training images: centroids of all patches of its last
    map; and of an inner map a discriminant analysis, clusters of each class in its space, and their score matrix. The
    student is saved and exported with its layers, and needs neither teacher nor labels.

    Where the grids differ, the teacher's map is averaged to the student's in equal cells; where the teacher's is the
    coarser, the student's matches are averaged to it.

    Args:
        penultimate: the layer that is supervised by centroids, as a word, a name, or {student: ..., teacher: ...}; null
            for none.
        intermediate: the same, supervised by sub-classes.
        codes: K of the penultimate layer; null for 4,096, of which only an eighth as many as there are patches then
            have a centroid, and the others are never a target. Its own number must not exceed that of the patches.
        subclasses: of each class at the intermediate layer; K there is that times the number of classes. A class of
            fewer patches has fewer, and the others are never a target.
        sharpness: T of softmax(-T d^2); the authors' is 1, at which targets are nearly one-hot.
        components: of the discriminant analysis; null for 60, or as many as there are.
        alpha_penultimate, alpha_intermediate: what the layers add counts so much; 0 leaves the maps as they are.
        weight_penultimate, weight_intermediate: of the two losses; 0 keeps the layer without supervision.
        scale, value_scale: where the layers' own scales begin.
        variant: "official_code" (rows of the value matrix have length 1) or "paper_text" (each template's value has).
        clustering: "lloyd", 20 iterations over all patches, or "minibatch" (scikit-learn).

    Controls:
        codebook: "kmeans", "patches" (random ones), "gaussian" (normal, with the moments of each channel).
        noise, noise_share: "shuffled" gives that share of places the target of another place of the batch, "smoothed"
            mixes that share of the uniform distribution in.
        scores: "teacher", "hard" (own sub-class alone), "class" (uniform within the class).
        labels: "true", "permuted-analysis" (before everything that is computed once), "permuted-assignment" (of each
            batch).
        permute: not 0: number the templates anew, drawn from this seed, in student and targets alike: a null test,
            which changes nothing but the order of sums.
    """

    name = "letkd"
    reads = "features"
    summary = "a layer of templates in the student, matched as the teacher's centroids are"
    paired = False
    changes_student = True

    def __init__(
        self,
        penultimate: Layers | None = "final-map",
        intermediate: Layers | None = None,
        codes: int | None = None,
        subclasses: int = 8,
        sharpness: float = 1.0,
        components: int | None = None,
        alpha_penultimate: float = 1.0,
        alpha_intermediate: float = 1.0,
        weight_penultimate: float = 1.0,
        weight_intermediate: float = 1.0,
        scale: float = 3.0,
        value_scale: float = 1.0,
        variant: str = "official_code",
        clustering: str = "lloyd",
        codebook: str = "kmeans",
        noise: str = "none",
        noise_share: float = 0.5,
        scores: str = "teacher",
        labels: str = "true",
        permute: int = 0,
    ):
        super().__init__()
        if penultimate is None and intermediate is None:
            raise KDScopeError("term 'letkd' needs a place for its layer: penultimate, intermediate, or both")
        whole = (
            ("codes", codes, 1),
            ("subclasses", subclasses, 1),
            ("components", components, 1),
            ("permute", permute, 0),
        )
        for setting, value, least in whole:
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise KDScopeError(f"term 'letkd': {setting} must be a whole number of at least {least}, not {value!r}")
        check_choices(
            variant=variant, clustering=clustering, codebook=codebook, noise=noise, scores=scores, labels=labels
        )  # fmt: skip
        if weight("letkd", "noise_share", noise_share) > 1:
            raise KDScopeError(f"term 'letkd': noise_share must be a share in [0, 1], not {noise_share!r}")
        self.places = {INTERMEDIATE: intermediate, PENULTIMATE: penultimate}
        self.places = {name: layers for name, layers in self.places.items() if layers is not None}
        self.alphas = {
            INTERMEDIATE: weight("letkd", "alpha_intermediate", alpha_intermediate),
            PENULTIMATE: weight("letkd", "alpha_penultimate", alpha_penultimate),
        }
        self.lambdas = {
            INTERMEDIATE: weight("letkd", "weight_intermediate", weight_intermediate),
            PENULTIMATE: weight("letkd", "weight_penultimate", weight_penultimate),
        }
        self.codes, self.subclasses, self.components = codes, subclasses, components
        self.sharpness = weight("letkd", "sharpness", sharpness)
        self.scales = positive("letkd", "scale", scale), positive("letkd", "value_scale", value_scale)
        self.variant, self.clustering, self.codebook = variant, clustering, codebook
        self.noise, self.noise_share, self.scores, self.labels = noise, noise_share, scores, labels
        self.permute = permute
        self.targets = nn.ModuleDict()

    # What the student gets

    def change(self, student: nn.Module) -> nn.Module:
        places = {name: _one(student, self._layers(name, "student"), "student") for name in self.places}
        return insert(student, places, self._layer)

    def _layer(self, name: str, feature_map: Tensor, classes: int) -> KDLayer:
        count = (self.codes or TEMPLATES) if name == PENULTIMATE else self.subclasses * classes
        layer = KDLayer(feature_map.shape[1], count, self.alphas[name], *self.scales, self.variant)
        if self.permute:
            layer.reorder(self._order(count))
        return layer.to(feature_map.device)

    def _order(self, count: int) -> Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed(self.permute))

    # What is looked at

    def _layers(self, name: str, role: str) -> str:
        layers = self.places[name]
        layers = layers.get(role) if isinstance(layers, Mapping) else layers
        if isinstance(layers, list | tuple) and len(layers) == 1:
            layers = layers[0]
        if not isinstance(layers, str):
            setting = name.removeprefix("kd_")
            raise KDScopeError(f"term 'letkd': {setting} takes one layer of the {role}, such as layer3, not {layers!r}")
        return layers

    def patterns(self, role: str) -> tuple[str, ...]:
        if role == "student":  # what the layers say of their matches; in the order of the network
            return tuple(f"*{name}.codes" for name in self.places)
        return tuple(self._layers(name, role) for name in self.places)

    def look(self, student: nn.Module, teacher: nn.Module) -> None:
        self.seen = {name: _one(teacher, self._layers(name, "teacher"), "teacher") for name in self.places}

    def know(self, data: TrainingData) -> None:
        self.data = data

    def build(self, student: Features, teacher: Features) -> None:
        ours, theirs = self._maps(student, teacher)
        self.grids, self.counts = {}, {}
        for name in self.places:
            self.grids[name] = tuple(map(min, ours[name].shape[2:], theirs[name].shape[2:]))
            pooled(ours[name], self.grids[name]), pooled(theirs[name], self.grids[name])
            self.counts[name] = ours[name].shape[1]
        if PENULTIMATE in self.places:
            self.centroids = self._centroids(len(self.data.labels), self.grids[PENULTIMATE])
        if INTERMEDIATE in self.places:
            most = most_components(len(self.data.labels.unique()), theirs[INTERMEDIATE].shape[1])
            if (self.components or 1) > most:
                raise KDScopeError(
                    f"term 'letkd': components is {self.components}, but discriminant analysis of "
                    f"{len(self.data.labels.unique())} classes and {theirs[INTERMEDIATE].shape[1]} channels has "
                    f"at most {most}"
                )
            self.directions = self.components or min(COMPONENTS, most)

    def _centroids(self, images: int, grid: tuple[int, int]) -> int:
        count = images * grid[0] * grid[1]
        if self.codes is not None and self.codes > count:
            raise KDScopeError(
                f"term 'letkd': codes is {self.codes}, but {images} training images have {count} patches of "
                f"{grid[0]} x {grid[1]}; take fewer, such as {templates_for(count)}"
            )
        if self.codes is None and templates_for(count) < TEMPLATES:
            logging.getLogger("kdscope").info(
                f"letkd: {templates_for(count):,} of {TEMPLATES:,} templates have a centroid, an eighth of the patches "
                f"of {images:,} training images; --set terms.letkd.codes={templates_for(count)} leaves the others out"
            )
        return self.codes or templates_for(count)

    def _maps(self, student: Features, teacher: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """By the layers' names: the student's matches, and the teacher's maps."""
        ours = {name: m for name in self.places for key, m in student.maps.items() if key.endswith(f"{name}.codes")}
        return ours, {name: teacher.maps[layer] for name, layer in self.seen.items()}

    # What is computed once

    def preparation(self) -> dict[str, Any] | None:
        found: dict[str, Any] = {"version": VERSION}
        if self._supervised(PENULTIMATE):
            found["penultimate"] = [self.seen[PENULTIMATE], list(self.grids[PENULTIMATE]), self.centroids]
            found["penultimate"] += [self.codebook, self.clustering]
        if self._supervised(INTERMEDIATE):
            found["intermediate"] = [self.seen[INTERMEDIATE], list(self.grids[INTERMEDIATE]), self.subclasses]
            found["intermediate"] += [self.directions, self.labels == "permuted-analysis"]
        return found if len(found) > 1 else None

    def prepare(self, images: Any, teacher: Callable[[Tensor], Features]) -> dict[str, Tensor]:
        made = {}
        for name in filter(self._supervised, self.places):
            torch.manual_seed(0)  # the codebook is the same with an intermediate layer and without

            def show(image: Tensor, layer: str = self.seen[name]) -> Tensor:
                return teacher(image).maps[layer]

            if name == PENULTIMATE:
                made["centroids"] = make_codebook(
                    images, show, self.grids[name], self.centroids, self.codebook, self.clustering
                )
            else:
                permuted = self.labels == "permuted-analysis"
                made |= make_subclasses(images, show, self.grids[name], self.subclasses, self.directions, permuted)
        return made

    def use(self, prepared: Mapping[str, Tensor]) -> None:
        if self._supervised(PENULTIMATE):
            known = prepared["centroids"].float()
            centroids = known.new_full((self.counts[PENULTIMATE], known.shape[1]), float("nan"))
            centroids[: len(known)] = known
            if self.permute:
                centroids = centroids[self._order(len(centroids)).to(centroids.device)]
            self.targets[PENULTIMATE] = Codebook(centroids, self.sharpness)
        if self._supervised(INTERMEDIATE):
            scores = scores_kept(prepared["scores"], self.subclasses, self.scores)
            if self.permute:
                scores = scores[:, self._order(len(scores)).to(scores.device)]
            parts = (prepared[key] for key in ("mean", "directions", "centres", "there"))
            self.targets[INTERMEDIATE] = Subclasses(*parts, scores)

    def _supervised(self, name: str) -> bool:
        return name in self.places and self.lambdas[name] > 0

    # Every step

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        ours, theirs = self._maps(student, teacher)
        total = 0.0 * exact(student.logits).sum()
        for name in filter(self._supervised, self.places):
            if name not in self.targets:
                raise KDScopeError("term 'letkd' has nothing to teach before `prepare` and `use`")
            scores = pooled(ours[name], self.grids[name])
            total = total + self.lambdas[name] * divergence(scores, self._targets(name, theirs[name], batch))
        return total

    def _targets(self, name: str, feature_map: Tensor, batch: Batch) -> Targets:
        """p_T of the teacher's map [B, D, H, W], as the controls want it."""
        seen = pooled(exact(feature_map), self.grids[name]).flatten(2).transpose(1, 2)
        labels = batch.label
        if self.labels == "permuted-assignment":
            labels = labels[torch.randperm(len(labels), device=labels.device)]
        labels = labels[:, None].expand(seen.shape[:2])
        if self.noise == "shuffled":
            seen, labels = shuffled(seen, labels, self.noise_share)

        def some(first: int, end: int, last: bool) -> tuple[Tensor, Tensor]:
            target, information = self.targets[name](seen[first:end], labels[first:end], last)
            if self.noise == "smoothed":
                return smoothed(target, self.noise_share, 2 if last else 1)
            return target, information

        return some


def _one(network: nn.Module, pattern: str, role: str) -> str:
    """The one layer that a pattern names."""
    try:
        found = choose(network, [pattern])
    except KDScopeError as error:
        raise KDScopeError(f"term 'letkd': {role}: {error}") from None
    if len(found) != 1:
        raise KDScopeError(f"term 'letkd': {pattern!r} names {len(found)} layers of the {role}, not one")
    return found[0]
