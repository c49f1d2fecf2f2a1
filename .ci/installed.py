"""Run where only the wheel is installed: no module of the checkout may be missing, and all must import."""

import importlib
import pkgutil
import sys
from pathlib import Path

import kdscope

root = Path(sys.argv[1])
assert root not in Path(kdscope.__file__).parents, f"kdscope comes from the checkout: {kdscope.__file__}"

places = {"kdscope": root / "kdscope", "kdscope.cli": root / "cli", "kdscope.analyses": root / "analyses"}
expected = set()
for package, folder in places.items():
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        expected.add(".".join([package, *(part for part in parts if part != "__init__")]))

found = {"kdscope", *(module.name for module in pkgutil.walk_packages(kdscope.__path__, "kdscope."))}
assert found >= expected, f"missing from the wheel: {sorted(expected - found)}"
for name in sorted(found - {"kdscope.__main__"}):
    importlib.import_module(name)
print(f"{len(found)} modules import from the wheel")
