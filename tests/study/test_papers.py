"""What a study draws of all its answers, when it draws it again, and questions that are put once for each data set."""

from types import SimpleNamespace

import pytest

from kdscope.analyses.papers import PAPERS
from kdscope.errors import KDScopeError
from kdscope.files import read_json, write_json
from kdscope.study import load_study
from kdscope.study.ask import _parts, check
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
    cells = [SimpleNamespace(point=p) for p in ({"data": "a", "x": "1"}, {"data": "b"}, {"data": "a"}, {})]
    assert _parts(cells, "data") == [("a", [cells[0], cells[2]]), ("b", [cells[1]]), ("", [cells[3]])]
    assert _parts(cells, "") == [("", cells)]
    assert _parts(cells[:1] + cells[2:3], "data") == [("", [cells[0], cells[2]])]  # one value: no need to name it


def test_an_axis_that_is_none(tmp_path):
    path = tmp_path / "one.yaml"
    grid = "{dataset: {d: {data: digits}}}"
    path.write_text(f"{{title: t, runs: {{a: {{grid: {grid}}}}}, analyses: [{{name: fidelity, per: datasets}}]}}")
    with pytest.raises(KDScopeError, match="unknown axis 'datasets' in study 'one', analysis 'fidelity'"):
        check(load_study(path))
