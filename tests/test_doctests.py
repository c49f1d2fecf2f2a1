"""Every example in every docstring of the installed package is run."""

import doctest
import importlib
import pkgutil

import pytest

import kdscope

MODULES = sorted(module.name for module in pkgutil.walk_packages(kdscope.__path__, "kdscope."))


@pytest.mark.parametrize("name", ["kdscope", *MODULES])
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert failed == 0
