"""What `kdscope study` tells a person: status, plan, and one line for each fault."""

import re
import sys

import pytest
import yaml
from small_study import PAIR, SMALL

from kdscope.cli.main import cli, main
from kdscope.errors import KDScopeError
from kdscope.study import cells, load_study


def call(capsys, *arguments):
    """The exit status, standard output and standard error of the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kdscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    return stop.value.code, *capsys.readouterr()


def test_status_and_plan_of_a_study(pair, capsys, tmp_path):
    made, done = pair
    unlike = {"settings": {"method": "at"}, "teachers": {"run": "t", "seed": 0}, "seeds": 2}
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump({"title": "t", "settings": SMALL, "runs": PAIR | {"u": unlike}}))
    code, out, _ = call(capsys, "study", "status", path, "--root", done.place.root)
    assert code == 0
    assert "2 done, 2 to do; about" in out
    code, out, _ = call(capsys, "study", "plan", path, "--root", done.place.root)
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["u"][1:4] == ["2", "of", "2"]
    assert rows["s"][1:4] == ["0", "of", "1"]
    assert 0 < float(rows["u"][5]) < 20  # seconds a step
    assert "2 runs to train: " in out
    assert made.title == "t"


@pytest.mark.parametrize("words", [["status"], ["plan", "--no-time"]])
def test_status_and_plan_fit_100_columns_with_names_whole(capsys, tmp_path, words):
    code, out, _ = call(capsys, "study", *words, "rethinkkd", "--scale", "smoke", "--root", tmp_path)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
    shown = {line.split()[0] for line in out.splitlines() if line.strip()}
    for cell in cells(load_study("rethinkkd"), "smoke"):
        assert (cell.name if words == ["status"] else cell.group) in shown


def test_a_plan_says_which_data_are_missing(capsys, tmp_path):
    path = tmp_path / "one.yaml"
    runs = {"a": {"settings": {"data": f"folder:{tmp_path}/nothing"}}}
    path.write_text(yaml.safe_dump({"title": "t", "settings": SMALL, "runs": runs}))
    code, out, _ = call(capsys, "study", "plan", path, "--root", tmp_path)
    assert code == 0
    assert f"a was not timed: {tmp_path}/nothing" in out


ONE = {"title": "t", "settings": SMALL, "runs": {"a": {}}, "scales": {"smoke": {}, "paper": {}}}
WRONG = {  # what the file says, further words of the command, and what is answered
    "a circle": ({"title": "t", "runs": {k: {"teachers": v} for k, v in ("ab", "ba")}}, [], "circle: a -> b -> a"),
    "no runs": ({"title": "t", "runs": {}}, [], "has no runs; its grid is empty"),
    "an empty axis": ({"title": "t", "runs": {"a": {"grid": {"epochs": []}}}}, [], "run 'a': its grid is empty"),
    "too many": (ONE | {"seeds": 3}, [], "has 3 runs to train, more than 2; .*--yes"),
    "a key": ({"title": "t", "runs": {"a": {"seed": 3}}}, [], "unknown setting 'seed' in .*; nearest: seeds"),
    "a path": ({"title": "t", "runs": {"../a": {}}}, [], "'../a' is no name for a run"),
    "no mapping": (["a", "b"], [], "a YAML mapping of settings is needed, and it holds a list"),
    "nothing": (None, [], "a YAML mapping of settings is needed, and it holds nothing"),
    "a selection": (ONE, ["--only", "b*"], r"no run of the study is called 'b\*'; nearest: a"),
    "a scale": (ONE, ["--scale", "papr"], "unknown scale 'papr' in study 'bad'; nearest: paper"),
    "jobs": (ONE, ["--jobs", "0"], "0 jobs can train nothing; give --jobs 1 or more"),
    "an address": (ONE, ["--ray-address", "auto"], "--ray-address is for --backend ray"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_the_command_says_what_is_wrong_on_one_line(capsys, tmp_path, monkeypatch, fault):
    monkeypatch.setattr("kdscope.study.conduct.LIMIT", 2)
    text, words, message = WRONG[fault]
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(text))
    code, out, err = call(capsys, "study", "run", path, "--root", tmp_path / "root", *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("kdscope: ")
    assert re.search(message, err), err
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("name", ["../../no/such", "no/such.yaml", "quikstart", "..", ""])
def test_a_study_that_is_not_there_is_said_on_one_line(capsys, tmp_path, name):
    code, _, err = call(capsys, "study", "run", name, "--root", tmp_path / "root")
    assert code == 2
    assert err.count("\n") == 1
    assert re.search("no such study file|unknown study", err), err
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("name", ["runs", "..", "a b"])
def test_a_study_file_whose_name_is_none_for_its_folder(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(ONE))
    with pytest.raises(KDScopeError, match=r"cannot be called 'runs'|is no name for a study"):
        load_study(path)


def test_verbs_are_listed():
    assert "study" in cli.list_commands(None)
