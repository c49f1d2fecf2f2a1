"""What a study draws of all its answers, when it draws it again, and questions that are put once for each data set."""

from types import SimpleNamespace

import pytest

from kdscope.analyses.papers import PAPERS
from kdscope.errors import KDScopeError
from kdscope.files import read_json, write_json
from kdscope.study import cells, load_study
from kdscope.study.ask import _parts, ask, check
from kdscope.study.papers import check_figures, draw_paper
from kdscope.study.place import Place, last_error


@pytest.fixture
def drawn(monkeypatch):
    """A paper that notes for which folder it was drawn, or fails."""
    folders = []
    monkeypatch.setitem(PAPERS._entries, "noted", folders.append)
    monkeypatch.setitem(PAPERS._entries, "broken", lambda folder: 1 / 0)
    assert "rethinkkd" in PAPERS
    return folders


def test_figures_are_drawn_once_for_the_same_answers(drawn, tmp_path):
    study, place = SimpleNamespace(figures="noted"), Place(tmp_path, "study-smoke")
    assert draw_paper(study, place) == []  # nothing was answered
    write_json(place.folder / "fidelity" / "asked.json", {"digest": "1"})
    for _ in range(2):
        (answer,) = draw_paper(study, place)
        assert (answer.label, answer.folder, answer.error) == ("figures", place.folder / "figures", "")
    assert drawn == [place.folder]
    assert read_json(place.folder / "figures" / "asked.json")["of"] == {"fidelity": "1"}
    write_json(place.folder / "fidelity" / "asked.json", {"digest": "2"})
    draw_paper(study, place)
    assert drawn == [place.folder] * 2
    assert draw_paper(SimpleNamespace(figures=""), place) == []


def test_figures_that_fail_are_told_and_tried_again(drawn, tmp_path):
    place = Place(tmp_path, "study-smoke")
    write_json(place.folder / "fidelity" / "asked.json", {"digest": "1"})
    for _ in range(2):
        (answer,) = draw_paper(SimpleNamespace(figures="broken"), place)
        assert answer.error == "division by zero"
    assert last_error(place.folder / "logs" / "figures.log") == "division by zero"
    with pytest.raises(KDScopeError, match="unknown paper's figures 'notes'; nearest: noted"):
        check_figures(SimpleNamespace(figures="notes"))


def test_a_question_is_put_once_for_each_value_of_its_axis():
    runs = [SimpleNamespace(point=p) for p in ({"data": "a", "x": "1"}, {"data": "b"}, {"data": "a"}, {})]
    assert _parts(runs, "data") == [("a", [runs[0], runs[2]]), ("b", [runs[1]]), ("", [runs[3]])]
    assert _parts(runs, "") == [("", runs)]
    assert _parts(runs[:1] + runs[2:3], "data") == [("", [runs[0], runs[2]])]  # one value: no need to name it


def test_an_axis_that_is_none(tmp_path):
    path = tmp_path / "one.yaml"
    grid = "{dataset: {d: {data: digits}}}"
    path.write_text(f"{{title: t, runs: {{a: {{grid: {grid}}}}}, analyses: [{{name: fidelity, per: datasets}}]}}")
    with pytest.raises(KDScopeError, match="unknown axis 'datasets' in study 'one', analysis 'fidelity'"):
        check(load_study(path), None, [])


def test_a_question_of_no_run_is_said_before_anything_is_trained(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("{title: t, runs: {alone: {}}, analyses: [{name: fidelity, runs: [alnoe]}]}")
    study = load_study(path)
    with pytest.raises(KDScopeError, match="unknown run 'alnoe' in study 'one', analysis 'fidelity'; nearest: alone"):
        check(study, None, cells(study))


def test_an_answer_has_one_name_whatever_runs_are_asked_for(tmp_path):
    """Else the folder of a selection would stay, and be read beside those of the whole study."""
    path = tmp_path / "one.yaml"
    grid = "{dataset: {a: {data: digits}, b: {data: 'digits:8'}}}"
    path.write_text(f"{{title: t, runs: {{n: {{grid: {grid}}}}}, analyses: [{{name: fidelity, per: dataset}}]}}")
    study = load_study(path)
    known = {cell.name: cell for cell in cells(study)}
    place, to_do = Place(tmp_path, "one"), SimpleNamespace(state="to do")
    for chosen in (["n-a-seed0"], [*known]):
        states = dict.fromkeys(chosen, to_do)
        answers = ask(study, None, [known[name] for name in chosen], known, place, states)
        assert [answer.label for answer in answers] == ["fidelity-a", "fidelity-b"][: len(chosen)]
