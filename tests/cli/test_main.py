"""The console script: exit statuses, and errors as one line on standard error."""

import sys
from pathlib import Path

import pytest

from kdscope import api
from kdscope.cli.main import main
from kdscope.errors import KDScopeError
from kdscope.training.stop import Interrupted


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (
            Interrupted(Path("runs/a"), "epoch 3 after 7 steps"),
            130,
            "stopped in epoch 3 after 7 steps; go on with: kdscope train --resume",
        ),
        (KeyboardInterrupt(), 130, "kdscope: stopped"),
        (KDScopeError("two\nlines"), 2, "kdscope: two lines"),
    ],
)
def test_errors(error, status, line, monkeypatch, capsys):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(api, "train", fails)
    monkeypatch.setattr(sys, "argv", ["kdscope", "train", "--out", "nowhere"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == status
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"), [(["trian"], "nearest: train"), (["train", "--bach-size", "3"], "--batch-size")]
)
def test_bad_usage(arguments, line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kdscope", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert line in capsys.readouterr().err


def test_kdscope_alone_is_its_help(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["kdscope"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("Usage: ")
