"""What the README shows is run: its Python as it stands, its commands as far as the parser goes."""

import re
import shlex
from pathlib import Path

import pytest

from kdscope.cli.main import cli

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) < 15
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "fidelity" / "fidelity.csv").is_file()


@pytest.mark.parametrize("line", re.findall(r"^    kdscope (.+)$", README, re.MULTILINE))
def test_the_commands_of_the_readme_parse(line):
    verb, *arguments = shlex.split(line)
    command = cli.get_command(None, verb)
    command.make_context(verb, arguments)
