"""The method that docs/extending.md shows is found, trains and obeys the rules."""

import re
import sys
from pathlib import Path

import pytest

import kdscope
from kdscope.methods import METHODS


def test_the_method_of_the_guide_trains(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    (tmp_path / "pooled_match.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    monkeypatch.syspath_prepend(tmp_path)
    import pooled_match  # noqa: F401

    try:
        quick = {"data": "digits:8", "model": "resnet8", "batch_size": 256, "epochs": 1}
        teacher = kdscope.train(tmp_path / "teacher", **quick)
        run = kdscope.train(tmp_path / "run", teachers=[teacher], method="kd+pooled-match", **quick)
    finally:
        METHODS._entries.pop("pooled-match")
        sys.modules.pop("pooled_match")
    row = run.metrics[0]
    assert row["pooled-match"] > 0
    total = 0.1 * row["cross-entropy"] + 0.9 * row["kd"] + 10 * row["pooled-match"]
    assert row["loss"] == pytest.approx(total, rel=1e-6)
