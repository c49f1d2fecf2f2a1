"""What the attention heads of a finished MHGD run make of each image: keys and queries, of which graphs are products.

`extract_graph` keeps for some images of a split, for each pair of consecutive layers (named FRONT-BACK, as the teacher
calls them) and each of three ways to look:

    graph/teacher/key/PAIR    [N, A, D]  the teacher's vectors, seen by the heads that were trained on them
    graph/student/key/PAIR    [N, A, D]  the student's vectors, aligned with the teacher's, by the same heads
    graph/untrained/key/PAIR  [N, A, D]  the teacher's, by heads as they are drawn, whose batch norms know these images

and `query` beside each `key`. Scores of a batch of images are products, S[a, i, j] = key_i . query_j, whichever images
stand in it.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from kdscope.data import Batches, Dataset, Split
from kdscope.data.batches import Batch
from kdscope.errors import KDScopeError
from kdscope.features.cache import FeatureCache
from kdscope.features.causal import spread
from kdscope.features.hooks import Capture, unwrap
from kdscope.features.produce import Job, Producer, extract_arrays
from kdscope.methods.mhgd import MultiHeadGraph
from kdscope.methods.mhgd_heads import AttentionHeads, moments

IMAGES = 2048
NETWORKS = ("teacher", "student", "untrained")


class Seen(NamedTuple):
    """A term with its trained heads, the teacher that they were trained on, and the layers of both networks."""

    term: MultiHeadGraph
    teacher: nn.Module
    student_layers: tuple[str, ...]
    teacher_layers: tuple[str, ...]


@dataclass(frozen=True)
class Attention:
    """The heads of a run: `key` tells them from others without loading a network, which `load` does."""

    key: str
    load: Callable[[], Seen]


def extract_graph(
    model: nn.Module,
    dataset: Dataset,
    split: str | Split,
    out: str | Path,
    *,
    attention: Attention,
    images: int = IMAGES,
    **options: Any,
) -> FeatureCache:
    """Keys and queries of the images of a split, as the heads see them in `model` and in the teacher.

    Args:
        model: the student of that run, or another network with its layers, such as one trained alone.
        dataset, split, out: as in `kdscope.features.extract.extract_features`.
        attention: whose heads (`kdscope.training.attention.attentions_of`).
        images: how many, evenly spread over the split.
        options: of `kdscope.features.produce.Job`.

    Raises:
        KDScopeError: layers that `model` does not have, or of other widths; what an extraction may raise.
    """
    part = dataset.split(split) if isinstance(split, str) else split
    job = Job(**{"limit": spread(len(part), images), **options})
    seen = attention.load()
    for network in (seen.term, seen.teacher):
        network.to(job.device).eval()
    shown = Batches(
        part.subset(job.limit), dataset, augment=job.view, batch_size=job.batch_size, seed=job.view_seed,
        device=job.device,
    )  # fmt: skip
    producer = GraphProducer(unwrap(model), seen, attention.key, untrained(seen, shown))
    return extract_arrays(model, dataset, part, out, producer, job)


@torch.no_grad()
def untrained(seen: Seen, shown: Batches) -> list[AttentionHeads]:
    """Heads as they are drawn, with batch norms that know the teacher's vectors of these images."""
    vectors = []
    with Capture(seen.teacher, seen.teacher_layers) as listen:
        for batch in shown.epoch():
            vectors.append(seen.term.vectors(listen(batch.image).maps.values()))
    known = [moments(torch.cat(layer)) for layer in zip(*vectors, strict=True)]
    drawn = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for trained, (front, back) in zip(seen.term.heads, pairwise(known), strict=True):
            heads = AttentionHeads(len(front[0]), len(back[0]), trained.heads).to(front[0].device).eval()
            heads.calibrate(front, back)
            drawn.append(heads)
    return drawn


class GraphProducer(Producer):
    """Logits of the network, and what the heads make of its maps and of the teacher's."""

    kind: ClassVar[str] = "graph"

    def __init__(self, model: nn.Module, seen: Seen, key: str, untrained: list[AttentionHeads]):
        self.seen, self.key, self.untrained = seen, key, untrained
        self._student = Capture(model, seen.student_layers, detach=True)
        self._teacher = Capture(seen.teacher, seen.teacher_layers, detach=True)
        self.pairs = [f"{front}-{back}" for front, back in pairwise(seen.teacher_layers)]
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> "GraphProducer":
        for capture in (self._student, self._teacher):
            self._hooks.enter_context(capture)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._hooks.close()

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        student, teacher = self._student(batch.image), self._teacher(batch.image)
        term = self.seen.term
        with torch.autocast(batch.image.device.type, enabled=False):
            theirs = term.vectors(teacher.maps.values())
            try:
                ours = term.aligned(student.maps.values(), theirs)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise KDScopeError(f"the network's layers do not fit the heads of that run: {reason}") from error
            looks = zip(NETWORKS, (theirs, ours, theirs), (term.heads, term.heads, self.untrained), strict=True)
            made = {"logits": student.logits.float()}
            for name, vectors, each in looks:
                for k, (pair, heads) in enumerate(zip(self.pairs, each, strict=True)):
                    made[f"graph/{name}/key/{pair}"] = heads.keys(vectors[k + 1])
                    made[f"graph/{name}/query/{pair}"] = heads.queries(vectors[k])
        return made

    def identity(self, first: Mapping[str, Tensor]) -> dict[str, Any]:
        term = self.seen.term
        how = {"heads": term.count, "tanh": term.bound is torch.tanh, "graph": term.graph, "key": self.key}
        return {"layers": self.pairs, "reduction": "graph", "dtype": "float32", "target": None, "attention": how}
