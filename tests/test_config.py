"""Settings from YAML and from the command line: what is read, what is refused, and in which words."""

import pytest
import yaml

from kdscope.config import Config, load_config, write_yaml
from kdscope.errors import KDScopeError


def read(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a YAML mapping of settings is needed, and it holds nothing"),
        ("- a", "a YAML mapping of settings is needed, and it holds a list"),
        ("data:\n\tname: x", "c.yaml, line 2: not a YAML file"),
        ("epochs: 1\nepochs: 3", "c.yaml, line 2: not a YAML file \\('epochs' is given twice\\)"),
        ("a: !!python/object/apply:os.getcwd []", "not a YAML file"),
        ("data: null", "data: a mapping of settings is needed \\(given: None\\)"),
        ("optim: 3", "optim: a mapping of settings is needed \\(given: 3\\)"),
        ("teachers: T", "teachers: a list is needed"),
        ("terms: {kd: 3}", "terms.kd: a mapping of settings is needed"),
        ("optim: {lr: .inf}", "optim.lr: Input should be a finite number"),
        ("seed: 4294967296", "seed: Input should be less than 4294967296"),
        ("optim: {rate: 1}", "unknown setting 'rate' in .*c.yaml, optim"),
    ],
)
def test_refused(text, message, tmp_path):
    with pytest.raises(KDScopeError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_binary_files_and_folders_are_refused(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path / "c.yaml", tmp_path, tmp_path / "none"):
        with pytest.raises(KDScopeError, match="cannot be read as text"):
            load_config(path)


def test_exponents_are_numbers():
    config = load_config(assignments=["terms.at.weight=1e3", "terms.at.p=2.5E-1", "terms.at.variant=e3"])
    assert config.terms["at"] == {"weight": 1000.0, "p": 0.25, "variant": "e3"}


def test_text_that_looks_like_a_number_stays_text(tmp_path):
    config = Config(model={"options": {"code": "1e3", "flag": "no", "share": 1e-7}})
    assert read(tmp_path, write_yaml(config)) == config
    assert yaml.safe_load(write_yaml(config))["epochs"] == config.epochs


def test_paths_mean_the_same_from_every_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config(
        data={"name": "folder:photos", "root": "images"},
        model={"checkpoint": "a.pt"},
        teachers=[{"run": "runs/t"}, {"model": "resnet8", "checkpoint": "b.pt"}],
    )
    assert config.data.name == f"folder:{tmp_path}/photos"
    assert config.data.root == tmp_path / "images"
    assert config.model.checkpoint == tmp_path / "a.pt"
    assert [t.run or t.checkpoint for t in config.teachers] == [tmp_path / "runs/t", tmp_path / "b.pt"]
