"""Which rows of a head count, and how much: the same for every loss that compares what two heads say of a row."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kdscope.detection.batch import PROPOSED, DetectionBatch, DetectionFeatures, Rows, RowTargets
from kdscope.detection.methods.term import DetectionTerm
from kdscope.errors import KDScopeError, unknown

HEADS = ("dense", "rpn", "roi")
PROPOSALS = {"student": ("roi",), "teacher": (PROPOSED,), "union": ("roi", PROPOSED)}  # whose are the rows of "roi"


def heads_of(
    term: str, student: DetectionFeatures, teacher: DetectionFeatures, heads: Sequence[str] = ()
) -> tuple[str, ...]:
    """The heads that `term` compares: those named, or all; an error where one is lacking or its rows differ."""
    wanted = tuple(heads) or tuple({**student.rows, **teacher.rows})
    if not wanted:
        raise KDScopeError(f"term {term!r} compares what heads say, and these detectors give maps alone; take fgd")
    for role, rows in (("student", student.rows), ("teacher", teacher.rows)):
        for head in wanted:
            if head not in rows:
                has = ", ".join(rows) or "none"
                raise KDScopeError(
                    f"term {term!r}: the {role} has no head {head!r}, only {has}; name a shared one (heads)"
                )
    for head in wanted:
        ours, theirs = student.rows[head].logits, teacher.rows[head].logits
        for k, what, need in ((1, "scores for each row", "label map"), (0, "rows", "set of anchors")):
            if ours.shape[k] != theirs.shape[k]:
                raise KDScopeError(
                    f"term {term!r}: head {head!r} of the student has {ours.shape[k]} {what} and that of the teacher "
                    f"{theirs.shape[k]}; both need one {need}"
                )
    return wanted


def check_heads(term: str, heads: Sequence[str]) -> tuple[str, ...]:
    """`heads` as a tuple, where it is a sequence of names of HEADS; none is all that the student has."""
    if not isinstance(heads, list | tuple) or not set(heads) <= set(HEADS):
        raise KDScopeError(f"term {term!r}: heads takes some of {', '.join(HEADS)}, not {heads!r}")
    return tuple(heads)


def row_weights(targets: RowTargets, background: float | None = None) -> Tensor:
    """The share of each row in an average over rows [R], float32: they sum to 1, or to 0 where no row counts.

    Args:
        targets: of the rows of one head.
        background: how many background rows count for each row with an object (for one, where there is none). The rest
            is not drawn at random but shared out: every background row weighs the same, so that the weight is what
            drawing would give on average, without its noise. None leaves the detector's own sample as it is.

    >>> import torch
    >>> targets = RowTargets(torch.tensor([1, 0, 0, 0, 0, -1]), torch.zeros(6, 4), torch.arange(6) < 5, "sigmoid",
    ...                      (1.0, 1.0, 1.0, 1.0), 1.0)
    >>> row_weights(targets, background=1.0)
    tensor([0.5000, 0.1250, 0.1250, 0.1250, 0.1250, 0.0000])
    """
    objects, others = (
        (targets.sampled & (targets.labels > 0)).float(),
        (targets.sampled & (targets.labels == 0)).float(),
    )
    if background is not None:
        others = others * (background * objects.sum().clamp(min=1) / others.sum().clamp(min=1)).clamp(max=1)
    weights = objects + others
    return weights / weights.sum().clamp(min=1e-12)


def background_of(head: str, background: float) -> float | None:
    """`background` for a one-stage head, whose loss counts all its rows; a two-stage head has drawn a sample."""
    return background if head == "dense" else None


def targets_of(term: str, batch: DetectionBatch, head: str) -> RowTargets:
    """The targets of the rows of `head`."""
    if head not in batch.targets:
        raise KDScopeError(f"term {term!r}: the batch has no targets for the rows of head {head!r}")
    return batch.targets[head]


def class_deltas(rows: Rows, labels: Tensor) -> Tensor:
    """The regression of each row [R, 4]: that of its own class where there is one of each (row -1 and 0: any).

    >>> import torch
    >>> deltas = torch.arange(16.0).view(2, 2, 4)
    >>> class_deltas(Rows(torch.zeros(2, 2), deltas), torch.tensor([1, 0]))[:, 0]
    tensor([4., 8.])
    """
    if rows.deltas.dim() == 2:
        return rows.deltas
    chosen = labels.clamp(min=0).view(-1, 1, 1).expand(-1, 1, rows.deltas.shape[2])
    return rows.deltas.gather(1, chosen).squeeze(1)


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of all `parts`, one part after another."""
    if len(parts) == 1:
        return parts[0]
    return Rows(torch.cat([part.logits for part in parts]), torch.cat([part.deltas for part in parts]))


def joined_targets(parts: Sequence[RowTargets]) -> RowTargets:
    """The targets of the rows of all `parts`, of one head; what each is divided by adds up."""
    if len(parts) == 1:
        return parts[0]
    labels, deltas, sampled = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("labels", "deltas", "sampled")
    )
    number = sum(part.normaliser for part in parts)
    return replace(parts[0], labels=labels, deltas=deltas, sampled=sampled, normaliser=number)


class RowTerm(DetectionTerm):
    """Base of the terms that compare what heads say of shared rows: one part for each of its heads.

    Args:
        heads: of "dense", "rpn" and "roi"; none is all.
        proposals: of a two-stage detector, whose proposals the rows of "roi" are: those that the "student" sampled, as
            many that it samples from what the "teacher" proposes, or the "union" of both. The detector's own loss is
            of the student's, whatever is compared. Boxes that are in both samples count twice in the union.
    """

    def __init__(self, heads: Sequence[str] = (), proposals: str = "student"):
        super().__init__()
        self.heads = check_heads(self.name, heads)
        if proposals not in PROPOSALS:
            raise unknown("proposals", str(proposals), PROPOSALS, f"term {self.name!r}")
        self.proposals = proposals

    def build(self, student: DetectionFeatures, teacher: DetectionFeatures) -> None:
        self.parts = heads_of(self.name, student, teacher, self.heads)
        if self.proposals != "student" and "roi" not in self.parts:
            raise KDScopeError(
                f"term {self.name!r}: proposals={self.proposals} chooses the rows of head 'roi', and only "
                f"{', '.join(self.parts)} is compared; leave it out"
            )
        self.asks = tuple(source for head in self.parts for source in self._sources(head))

    def compared(
        self, student: DetectionFeatures, teacher: DetectionFeatures, batch: DetectionBatch
    ) -> Iterator[tuple[str, Rows, Rows, RowTargets]]:
        """Of each head its name, what student and teacher say of its rows, and the targets of these."""
        for head in self.parts:
            sources = heads_of(self.name, student, teacher, self._sources(head))
            ours, theirs = (joined_rows([said.rows[source] for source in sources]) for said in (student, teacher))
            yield head, ours, theirs, joined_targets([targets_of(self.name, batch, source) for source in sources])

    def _sources(self, head: str) -> tuple[str, ...]:
        return PROPOSALS[self.proposals] if head == "roi" else (head,)
