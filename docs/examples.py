"""For mkdocstrings: examples at the end of our docstrings, which have no heading of their own, are shown as code."""

import re

import griffe


class Examples(griffe.Extension):
    """Puts `Examples:` before a paragraph that begins with a prompt."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        parts = re.split(r"\n\n(?=>>>)", obj.docstring.value, maxsplit=1) if obj.docstring else []
        if len(parts) < 2:
            return
        text, example = parts
        indented = "\n".join(f"    {line}" if line else "" for line in example.splitlines())
        obj.docstring.value = f"{text}\n\nExamples:\n{indented}\n"
