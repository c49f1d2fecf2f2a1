"""Studies that are run: what is made once, what fails and what waits."""

import csv
import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_study import PAIR

from kdscope.errors import KDScopeError
from kdscope.run import Run
from kdscope.study import cells
from kdscope.study.conduct import conduct, place_of
from kdscope.study.place import remaining


def ended(root):
    """When each run of a root was finished, by its folder."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (root / "runs").glob("*/summary.json")}


def test_a_study_trains_its_runs_and_writes_its_tables(pair):
    _, done = pair
    assert not done.failed
    teacher, student = (Run(done.place.run(cell)) for cell in done.cells)
    assert student.config.teachers[0].run == teacher.path
    assert student.config.teachers[0].weights_hash == teacher.summary["weights_hash"]
    with (done.place.folder / "runs.csv").open() as lines:
        rows = {row["name"]: row for row in csv.DictReader(lines)}
    assert float(rows["s-seed0"]["test_accuracy"]) == student.summary["test_accuracy"]
    assert (rows["s-seed0"]["state"], rows["s-seed0"]["epochs"]) == ("done", "1")
    with (done.place.folder / "table.csv").open() as lines:
        table = {row["group"]: row for row in csv.DictReader(lines)}
    assert table["t"]["accuracy"] == f"{100 * teacher.summary['test_accuracy']:.2f}"
    assert done.place.log(done.cells[0]).read_text().splitlines()[-1].startswith(f"{teacher.name}: test accuracy")


def test_the_name_of_a_run_is_the_hash_of_what_it_was_trained_with(pair):
    """The planned key, and the key of what the run itself wrote down, are one."""
    _, done = pair
    known = {cell.name: cell for cell in done.cells}
    for cell in done.cells:
        assert done.place.run(cell).name == f"{cell.name}-{cell.key}"
        done.place.check(cell, known)


def test_a_second_study_takes_the_runs_that_are_there(pair, study):
    _, done = pair
    before = ended(done.place.root)
    runs = {"teacher": PAIR["t"], "kd": PAIR["s"] | {"teachers": "teacher"}, "longer": {"settings": {"epochs": 2}}}
    again = conduct(study("two", runs=runs), done.place.root, jobs=1)
    after = ended(done.place.root)
    assert not again.failed
    assert {name: after[name] for name in before} == before
    (new,) = set(after) - set(before)
    assert new.startswith("longer-seed0-")
    assert again.place.run(again.cells[0]) == done.place.run(done.cells[0])


def test_run_again_trains_nothing_and_asks_nothing_twice(pair):
    made, done = pair
    before = ended(done.place.root)
    assert not conduct(made, done.place.root, jobs=1).failed
    assert {name: when for name, when in ended(done.place.root).items() if name in before} == before


def test_an_analysis_is_asked_once_for_the_same_runs(pair, study):
    _, done = pair
    question = {"name": "calibration", "runs": ["s"], "options": {"splits": "test"}}
    made = study("asked", runs=PAIR, analyses=[question])
    first = conduct(made, done.place.root, jobs=1)
    (answer,) = first.answers
    assert {"s-seed0", "t-seed0"} <= set(answer.report.table.b)  # as the study names them, without their keys
    text = (answer.folder / "summary.txt").read_text()
    (second,) = conduct(made, done.place.root, jobs=1).answers
    assert second.report is None
    assert (answer.folder / "summary.txt").read_text() == text
    other = study("asked", runs=PAIR, analyses=[question | {"options": {"splits": "train"}}])
    assert conduct(other, done.place.root, jobs=1).answers[0].report is not None


@pytest.mark.slow
def test_with_several_jobs_the_last_run_too_has_one_thread(study, tmp_path):
    """Were it otherwise, a study that was stopped before its last run would end with other numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        done = conduct(study(runs={"a": {}}), tmp_path, jobs=2)
    finally:
        torch.set_num_threads(threads)
    environment = json.loads((done.place.run(done.cells[0]) / "environment.json").read_text())
    assert environment["threads"] == 1


def test_a_run_that_fails_keeps_its_log_and_stops_nothing_but_its_students(study, tmp_path):
    runs = {
        "absent": {"settings": {"data": f"folder:{tmp_path}/nothing"}},
        "pupil": {"settings": {"method": "kd"}, "teachers": "absent"},
        "fine": {},
    }
    made = study(runs=runs, analyses=[{"name": "calibration", "runs": ["absent"]}])
    done = conduct(made, tmp_path / "root", jobs=1)
    states = done.states
    assert {name: state.state for name, state in states.items()} == {
        "absent-seed0": "failed", "pupil-seed0": "waiting", "fine-seed0": "done",
    }  # fmt: skip
    assert "nothing" in states["absent-seed0"].error
    assert states["pupil-seed0"].error == "waits for absent-seed0"
    log = done.place.log(done.cells[0]).read_text()
    assert "Traceback" in log
    assert log.splitlines()[-1] == f"failed: {states['absent-seed0'].error}"
    assert done.failed
    assert done.answers[0].error == "none of its runs is done"


def test_an_analysis_that_fails_keeps_its_log(pair, study):
    _, done = pair
    made = study("wrong", runs=PAIR, analyses=[{"name": "calibration", "options": {"splits": "tset"}}])
    again = conduct(made, done.place.root, jobs=1)
    assert "tset" in again.answers[0].error
    assert "Traceback" in (again.place.folder / "logs" / "analysis-calibration.log").read_text()
    assert again.failed


def test_a_run_that_was_edited_by_hand_is_noticed_and_left(study, tmp_path):
    made = study(runs={"a": {}, "b": {"settings": {"epochs": 2}}})
    conduct(made, tmp_path, jobs=1, only=["a"])
    place, known = place_of(made, tmp_path, None), {cell.name: cell for cell in cells(made)}
    config = place.run(known["a-seed0"]) / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.02", "lr: 0.03"))
    done = conduct(made, tmp_path, jobs=1)
    assert done.states["a-seed0"].state == "failed"
    error = done.states["a-seed0"].error
    assert "was changed after the run was made" in error
    assert "optim.lr is 0.03, and by the run's key 0.02" in error
    assert done.states["b-seed0"].state == "done"


def test_weights_that_were_edited_by_hand_are_noticed_and_teach_nobody(study, tmp_path):
    made = study(runs=PAIR, analyses=[{"name": "calibration", "options": {"splits": "test"}}])
    teacher = conduct(made, tmp_path, jobs=1, only=["t"], analyses=False)
    place, (cell,) = teacher.place, teacher.cells
    weights = Run(place.run(cell)).weights
    tensors = load_file(weights)
    os.utime(weights)  # a copy of the folder, say: the same weights at another time are nothing to complain of
    assert place.state(cell, {}).state == "done"
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, weights)
    done = conduct(made, tmp_path, jobs=1)
    states = {name: (state.state, state.error) for name, state in done.states.items()}
    assert states["t-seed0"][0] == "failed"
    assert re.search(r"model.safetensors was changed after the run had ended: its hash is \w{12}", states["t-seed0"][1])
    assert states["s-seed0"] == ("waiting", "waits for t-seed0")
    assert done.failed
    weights.write_bytes(b"no weights")
    assert "was changed" in place.state(cell, {}).error
    weights.unlink()
    assert "model.safetensors is gone" in place.state(cell, {}).error


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"name": "fidelty"}, "unknown analysis 'fidelty'; nearest: fidelity"),
        ({"name": "fidelity", "options": {"split": "test"}}, r"unknown option 'split' in study .*; nearest: splits"),
    ],
)
def test_a_question_that_is_none_is_said_before_anything_is_trained(study, tmp_path, question, message):
    with pytest.raises(KDScopeError, match=message):
        conduct(study(runs={"a": {}}, analyses=[question]), tmp_path / "root", jobs=1)
    assert not (tmp_path / "root").exists()


def test_only_some_and_what_they_learn_from(study, tmp_path):
    runs = PAIR | {"other": {}, "at": {"settings": {"method": "at"}, "teachers": "t", "seeds": 2}}
    made = study(runs=runs | {"t": PAIR["t"] | {"seeds": 1}})
    done = conduct(made, tmp_path, jobs=1, only=["at-seed1"])
    assert [cell.name for cell in done.cells] == ["t-seed0", "at-seed1"]
    assert len(ended(tmp_path)) == 2
    with pytest.raises(KDScopeError, match=r"no run of the study is called 'otter'; nearest: other"):
        conduct(made, tmp_path, only=["otter"])


def test_too_many_runs_want_a_word(study, tmp_path, monkeypatch):
    monkeypatch.setattr("kdscope.study.conduct.LIMIT", 1)
    made = study(runs={"a": {"seeds": 2}})
    with pytest.raises(KDScopeError, match=r"2 runs to train, more than 1; .* --yes"):
        conduct(made, tmp_path / "root", jobs=1)
    assert not (tmp_path / "root").exists()
    assert len(conduct(made, tmp_path / "root", jobs=1, only=["a-seed1"]).cells) == 1
    assert not conduct(made, tmp_path / "root", jobs=1, yes=True).failed


def test_what_is_left_is_judged_by_runs_of_its_kind(study, tmp_path):
    made = study(runs={"a": {"seeds": 3, "settings": {"epochs": 4}}, "b": {"settings": {"epochs": 10}}})
    place, known = place_of(made, tmp_path, None), {cell.name: cell for cell in cells(made)}
    states = {name: place.state(cell, known) for name, cell in known.items()}
    assert {state.state for state in states.values()} == {"to do"}
    assert remaining([*known.values()], states) is None
    state = type(states["a-seed0"])
    states |= {"a-seed0": state("done", 4, 8.0), "a-seed1": state("running", 1, 2.0), "b-seed0": state("failed")}
    # Two seconds an epoch: three epochs of a-seed1, four of a-seed2, none of what failed.
    assert remaining([*known.values()], states) == pytest.approx(14.0)
