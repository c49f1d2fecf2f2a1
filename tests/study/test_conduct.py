"""Studies that are run: what is made once, what fails and what waits, and what a person is told."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from kdscope.cli.main import cli, main
from kdscope.demo import demo
from kdscope.errors import KDScopeError
from kdscope.run import Run
from kdscope.study import cells, load_study, names
from kdscope.study.conduct import conduct, place_of
from kdscope.study.papers import FIGURES
from kdscope.study.place import remaining

SMALL = {"data": "digits:8", "model": "resnet8", "epochs": 1, "batch_size": 512, "device": "cpu", "optim.lr": 0.02}


@pytest.fixture
def study(tmp_path):
    """Write a study and load it."""

    def make(name="study", **keys):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"title": "t", "settings": SMALL} | keys, sort_keys=False))
        return load_study(path)

    return make


def ended(root):
    """When each run of a root was finished, by its folder."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (root / "runs").glob("*/summary.json")}


PAIR = {"t": {"settings": {"model": "resnet14"}}, "s": {"settings": {"method": "kd"}, "teachers": "t"}}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A study of a teacher and a student, done."""
    place = tmp_path_factory.mktemp("pair")
    (place / "one.yaml").write_text(yaml.safe_dump({"title": "t", "settings": SMALL, "runs": PAIR}))
    return load_study(place / "one.yaml"), conduct(load_study(place / "one.yaml"), place / "root", jobs=1)


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


def test_quickstart_at_its_smallest(tmp_path):
    shown = {row["training"]: row for row in demo(tmp_path, "smoke").rows}  # the demo is this study
    done = conduct(load_study("quickstart"), tmp_path, "smoke", jobs=1)
    assert not done.failed
    assert [(answer.label, answer.report) for answer in done.answers] == [("fidelity", None)]  # it was asked already
    table = pd.read_csv(done.answers[0].folder / "fidelity.csv")
    agreement = table[(table.measure == "agreement") & (table.pair == "teacher-student") & (table.split == "test")]
    assert set(agreement.b) == {"kd-seed0", "at-seed0", "ensemble-seed0"}
    assert (agreement.ci_low <= agreement.value).all()
    kd = agreement[agreement.b == "kd-seed0"].iloc[0]
    assert shown["kd"]["agreement %"] == f"{100 * kd.value:.1f} [{100 * kd.ci_low:.1f}, {100 * kd.ci_high:.1f}]"
    assert shown["alone"]["accuracy %"] == f"{100 * done.states['alone-seed0'].score:.1f}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in names() if name != "quickstart"])
def test_every_study_at_its_smallest(name, tmp_path):
    done = conduct(load_study(name), tmp_path, "smoke")
    assert {cell: state for cell, state in done.states.items() if state.state != "done"} == {}
    assert done.answers
    assert [(answer.label, answer.error) for answer in done.answers if answer.error] == []
    drawn = [answer.folder for answer in done.answers if answer.label == FIGURES]
    for answer in done.answers:
        assert answer.folder in drawn or len(answer.report.table) > 0
    if drawn:  # the figures of a paper: its claims have a verdict each, and the study says what they are
        claims = pd.read_csv(done.place.folder / "claims.csv")
        assert set(claims["claim"]) <= set(load_study(name).claims)
        assert set(claims["verdict"]) <= {"survives", "does not survive", "cannot be told"}
        assert len(list(drawn[0].glob("*.png"))) > 10
    with (done.place.folder / "table.csv").open() as lines:
        assert all(0 <= float(row["accuracy"]) <= 100 for row in csv.DictReader(lines))


EPOCHS, RUNS = 4, 5


def kept(root):
    """Of each finished run: when its weights were written, and all its files that say what was learned."""
    found = {}
    for summary in (root / "runs").glob("*/summary.json"):
        weights = summary.parent / "checkpoints" / "model.safetensors"
        texts = tuple((summary.parent / name).read_text() for name in ("config.yaml", "metrics.csv", "summary.json"))
        found[summary.parent.name] = (weights.stat().st_mtime_ns, weights.read_bytes(), *texts)
    return found


def epochs_of(root):
    """How many epochs all runs of a root have behind them."""
    return sum(len(path.read_text().splitlines()) - 1 for path in (root / "runs").glob("*/metrics.csv"))


def trained(root):
    """Name, hash of the weights, accuracy and epochs of each run."""
    for path in sorted((root / "runs").iterdir()):
        run = Run(path)
        yield run.name, run.summary["weights_hash"], run.summary["test_accuracy"], run.metrics


def numbers(root):
    """What the runs and the analyses of a root say, without how long they took."""
    for *said, rows in trained(root):
        yield *said, [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    for path in sorted(root.glob("killed/*/*.csv")):
        yield path.name, path.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_three_moments_it_goes_on_repeats_nothing_and_ends_with_the_same_numbers(tmp_path):
    """SIGKILL to the whole group of processes, three times, at random; what was finished before is not touched."""
    file = tmp_path / "killed.yaml"
    runs = {"t": {"settings": {"model": "resnet14"}, "seeds": 1}, "s": PAIR["s"] | {"seeds": 2}, "alone": {"seeds": 2}}
    settings = SMALL | {"epochs": EPOCHS, "batch_size": 64}
    questions = [{"name": "fidelity", "options": {"splits": "test"}}]
    file.write_text(yaml.safe_dump({"title": "t", "settings": settings, "runs": runs, "analyses": questions}))

    def command(root):
        return [sys.executable, "-m", "kdscope", "study", "run", str(file), "--root", str(root), "--jobs", "2"]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True, timeout=400)
    epoch = sum(row[-1]["seconds"] for *_, row in trained(tmp_path / "whole")) / (RUNS * EPOCHS)
    chance = random.Random(20)
    root, seen = tmp_path / "killed", {}
    # Within the epoch after a random one, with enough of them left that the study does not end before.
    for goal in sorted(chance.sample(range(1, RUNS * EPOCHS - 4), 3)):
        process = subprocess.Popen(
            command(root), start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while epochs_of(root) < goal and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, epoch))
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        now = kept(root)
        assert {name: now[name] for name in seen} == seen
        seen = now
    assert 0 < len(seen) < RUNS
    last = subprocess.run(command(root), capture_output=True, text=True, timeout=400)
    assert last.returncode == 0, last.stderr
    assert f"{RUNS} of {RUNS} runs are done" in last.stdout
    assert f"{len(seen)} runs are there, {RUNS - len(seen)} to train" in last.stderr
    now = kept(root)
    assert {name: now[name] for name in seen} == seen
    whole = [*numbers(tmp_path / "whole")]
    assert whole[-1][0] == "fidelity.csv"
    assert [*numbers(root)] == whole
