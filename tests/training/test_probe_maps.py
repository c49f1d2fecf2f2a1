"""Probes that keep maps: of the same images at each epoch, and without a trace in the training."""

import numpy as np

import kdscope
from kdscope.sources import of_run

QUICK = {"data": "digits:8", "model": "resnet8", "batch_size": 256, "epochs": 1, "probe_every": 1}


def test_maps_of_each_epoch_and_a_training_that_does_not_notice(tmp_path):
    run = kdscope.train(tmp_path / "maps", **QUICK, probe_size=8, probe_maps=["maps", "causal"])
    plain = kdscope.train(tmp_path / "plain", **QUICK, probe_size=8)
    assert run.summary["weights_hash"] == plain.summary["weights_hash"]
    subject, other = of_run(run), of_run(plain)
    assert subject.group == other.group
    for kind, splits in {"features": 2, "maps": 2, "causal": 1}.items():
        assert [len(subject.probe_epochs(part, kind)) for part in ("test", "train")] == [2, 2 * (splits - 1)]
    assert other.probe_epochs("test", "maps") == []
    first, last = (subject.probe(epoch, "test", "maps") for epoch in (0, 1))
    assert first.index.tolist() == last.index.tolist() == subject.probe(1, "test").index.tolist()
    assert not np.allclose(first.array("maps/cam/layer3")[:], last.array("maps/cam/layer3")[:])
    causal = subject.probe(1, "test", "causal")
    assert causal.array("deletion/smooth-random/input/mean").shape == (8, 11)
    assert np.allclose(causal.logits, last.logits, atol=1e-4)
