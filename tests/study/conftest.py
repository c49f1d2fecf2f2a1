"""Studies that train in seconds."""

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from small_study import PAIR, SMALL

from kdscope.study import load_study
from kdscope.study.conduct import conduct


@pytest.fixture
def study(tmp_path):
    """Write a study and load it."""

    def make(name="study", **keys):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"title": "t", "settings": SMALL} | keys, sort_keys=False))
        return load_study(path)

    return make


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A study of a teacher and a student, done."""
    place = tmp_path_factory.mktemp("pair")
    (place / "one.yaml").write_text(yaml.safe_dump({"title": "t", "settings": SMALL, "runs": PAIR}))
    return load_study(place / "one.yaml"), conduct(load_study(place / "one.yaml"), place / "root", jobs=1)
