"""What the analyses of detectors say of several seeds, and of a student alone that these share."""

import numpy as np
import pytest
from made_up import IMAGES, Memory, every_object, network, subject

from kdscope.analyses.base import run_analysis


def some_objects(seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random((IMAGES, 3)) < share


@pytest.fixture
def found(monkeypatch):
    """A function of how many seeds each way of training has: the sources, networks that find more the later named."""
    caches: dict[str, Memory] = {"teacher": network(every_object())}
    monkeypatch.setattr("kdscope.analyses.detection_views.detection_cache", lambda one, split: caches[one.name])

    def sources(**seeds: int):
        teacher, made = subject("teacher", "teacher"), []
        for place, (group, count) in enumerate(seeds.items()):
            for k in range(count):
                made.append(subject(f"{group}-seed{k}", group, k, () if group == "alone" else (teacher,)))
                caches[made[-1].name] = network(some_objects(10 * place + k, 0.4 + 0.2 * place))
        return made

    return sources


def said(report, words: str) -> list[str]:
    return [note for note in report.notes if words in note]


def test_caveats_of_few_seeds_are_of_each_way_of_training(found):
    report = run_analysis("detection", found(alone=2, kd=2, fgd=1), heads=False)
    alone = "one seed of fgd-seed0: intervals are over images, and say nothing of another training"
    assert said(report, "one seed") == [alone]
    assert len(said(report, "fewer than five seeds: the intervals over seeds and images are wide")) == 1
    report = run_analysis("detection", found(alone=5, kd=5), heads=False)
    assert said(report, "one seed of") == said(report, "fewer than") == []


@pytest.mark.parametrize(
    ("alone", "words"), [(1, "over one student alone (alone-seed0), another"), (2, "share 2 students")]
)
def test_gains_over_fewer_students_alone_than_students_say_so_once(found, alone, words):
    report = run_analysis("detection", found(alone=alone, kd=3, fgd=1), heads=False)
    (note,) = said(report, words)
    assert note.startswith("kd: gains")
    report = run_analysis("detection", found(alone=3, kd=3, fgd=1), heads=False)
    assert said(report, "over one student alone") == said(report, "gains share") == []
