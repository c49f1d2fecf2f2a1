"""A method and a measure from another package: the very code of docs/extending.md, installed beside kdscope."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
TRIAL = """
import kdscope
from kdscope.analyses import ANALYSES
from kdscope.measures import MEASURES
from kdscope.methods import METHODS

assert type(METHODS["pooled-match"]).__name__ == "Method" and MEASURES["second-choice"].card.unit == "share"
quick = dict(data="digits:8", model="resnet8", epochs=1, device="cpu")
teacher = kdscope.train("teacher", **quick)
student = kdscope.train("student", teachers=[teacher], method="pooled-match", **quick)
print(sorted(student.config.terms))
table = kdscope.analyze("fidelity", student, splits="test").table
row = table[table["measure"] == "second-choice"].iloc[0]
logits = [run.cache_path("test") for run in (teacher, student)]
first, second = (kdscope.FeatureCache(path).logits for path in logits)
print(row["value"] == (first.argsort(1)[:, -2] == second.argmax(1)).mean(), row["n"] == len(first))
"""


def install(folder):
    """The package of the page: its modules, and what pip writes of its entry points."""
    method, measure = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[:2]
    (folder / "pooled_match.py").write_text(method)
    (folder / "second_choice.py").write_text(measure)
    told = folder / "pooled_match-0.1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: pooled-match\nVersion: 0.1\n")
    groups = re.findall(r'\[project\.entry-points\."([\w.]+)"\]\n([\w-]+) = "([\w:]+)"', PAGE)
    assert len(groups) == 2
    (told / "entry_points.txt").write_text("".join(f"[{group}]\n{name} = {place}\n" for group, name, place in groups))


def test_a_method_and_a_measure_of_another_package(tmp_path):
    install(tmp_path)
    settings = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRIAL], cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["['cross-entropy', 'pooled-match']", "True True"]
