"""What a person sees of a run: that its bar stands still because held-out images are being scored."""

import kdscope
from kdscope.training.log import TrainingLog


def test_scoring_is_said_at_the_end_of_the_epochs_that_are_scored(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(TrainingLog, "scoring", lambda log: said.append("scoring"))
    monkeypatch.setattr(TrainingLog, "epoch", lambda log, done, row: said.append("test_accuracy" in row))
    kdscope.train(tmp_path / "run", data="digits", model="resnet8", epochs=3, eval_every=2, batch_size=512)
    assert said == [False, "scoring", True, "scoring", True]


def test_the_bar_says_it_until_the_next_step():
    log = TrainingLog("run", 10, show=False, score="accuracy")
    log.epoch(5, {"test_accuracy": 0.5})
    log.scoring()
    assert log._bar.tasks[0].fields["state"] == "scoring | test accuracy 50.0 %"
