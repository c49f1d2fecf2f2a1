"""What is drawn of a whole study once its questions are answered: by the name that its YAML gives as `figures:`."""

from collections.abc import Callable
from pathlib import Path

from kdscope.registry import Registry

# Each takes the folder of a study, ROOT/STUDY-SCALE, and gives the files that it wrote into it.
PAPERS: Registry[Callable[[Path], list[Path]]] = Registry("paper's figures", "kdscope.analyses", "kdscope.papers")
