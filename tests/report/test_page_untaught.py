"""The explorer of networks that nobody taught: side by side, without cells of fidelity and without overlap."""

import base64

import numpy as np
import pytest

from kdscope.report.page import render

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(made_up, open_file, tmp_path):
    def open_with(*roles):
        payload = made_up.payload(runs=3, images=60, charts=0, rows=3)
        payload.explorer.models = [model for model in payload.explorer.models if model.role in roles]
        payload.explorer.pairs = []
        (tmp_path / "report.html").write_text(render(payload), encoding="utf-8")
        page = open_file(tmp_path / "report.html")
        page.wait_for_selector(".overlap[aria-busy=false]", state="attached")
        return payload.explorer, page

    return open_with


def test_a_network_without_a_teacher_is_shown_with_its_answers_and_its_map(opened):
    explorer, page = opened("alone")
    labels, (own,) = np.frombuffer(base64.b64decode(explorer.labels), "<u2"), explorer.models
    prediction = np.frombuffer(base64.b64decode(own.prediction), "<u2")
    assert page.locator(".panel[data-role] canvas:visible").count() == 1
    assert explorer.classes[prediction[0]] in page.text_content(".panel[data-role=alone] .answer")
    assert page.text_content(".image-title").split(" · ")[1:] == [explorer.classes[labels[0]]]
    for what in (".cells", ".panel.meeting", ".overlap"):
        assert not page.is_visible(what)
    orders = page.eval_on_selector_all('[name="order"] option', "all => all.map((one) => one.value)")
    assert orders == ["index", "sure-down", "sure-up"]
    page.select_option('[name="answer"]', index=2)
    assert int(page.text_content(".chosen").split(" of ")[0]) == (prediction != labels).sum()


def test_several_networks_without_a_teacher_stand_side_by_side(opened):
    explorer, page = opened("student", "alone")
    assert page.locator(".panel[data-role]:visible bdi[title]").first.text_content() == explorer.models[0].name
    assert page.locator(".panel[data-role] canvas:visible").count() == 2
    box = page.locator(".panel[data-role] canvas").first.bounding_box()
    assert box["width"] <= 26 * 16
