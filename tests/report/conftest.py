"""One Chromium for all tests of the page, which fail where a page errs, asks for anything, or speaks to the reader."""

import importlib.util
import shutil
from pathlib import Path

import pytest

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-quic"]
WITHIN = ("file:", "data:", "blob:")


@pytest.fixture(scope="session")
def made_up():
    """The generator of reports that no training made."""
    spec = importlib.util.spec_from_file_location("made_up_reports", Path(__file__).with_name("made_up.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def chromium():
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_file(chromium):
    """Open a file of ours, and wait until it is awake; at the end it must have been silent."""
    contexts, wrong = [], []

    def opened(path: Path, width: int = 1280, height: int = 900, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda r: None if r.url.startswith(WITHIN) else wrong.append(f"asked for {r.url}"))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def written(made_up, tmp_path_factory):
    """A made-up report and the file of its page, made once for each set of options."""
    from kdscope.report.page import render

    known = {}

    def make(**options):
        key = tuple(sorted(options.items()))
        if key not in known:
            payload = made_up.payload(**options)
            path = tmp_path_factory.mktemp("report") / "report.html"
            path.write_text(render(payload), encoding="utf-8")
            known[key] = payload, path
        return known[key]

    return make


@pytest.fixture(scope="session")
def done(tiny_data, tmp_path_factory):
    """The folder of a study, run once for all: a teacher, a student alone and one taught by kd, with two seeds each."""
    import yaml

    from kdscope.study import load_study
    from kdscope.study.conduct import conduct

    place = tmp_path_factory.mktemp("report")
    settings = {
        "data": "test-tiny",
        "batch_size": 16,
        "epochs": 2,
        "device": "cpu",
        "optim.lr": 0.02,
        "model": "resnet8",
    }
    runs = {
        "teacher": {"settings": {"model": "resnet14"}},
        "alone": {},
        "kd": {"settings": {"method": "kd"}, "teachers": "teacher"},
    }
    asked = [{"name": "fidelity"}, {"name": "attention-iou"}, {"name": "similarity"}, {"name": "calibration"}]
    text = {"title": "Does it <b>help</b>?", "citation": "somebody", "about": "It is small.", "claims": ["It helps."]}
    text |= {"settings": settings, "seeds": 2, "runs": runs, "analyses": asked}
    (place / "one.yaml").write_text(yaml.safe_dump(text, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdscope.figures.draw", lambda *_: [])  # most of the time, and no report reads them
        ended = conduct(load_study(place / "one.yaml"), place / "studies", jobs=1)
    assert not ended.failed, ended
    return ended.place.folder
