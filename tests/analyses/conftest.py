"""The subjects that need no training (`told.py`) are for the tests of analyses and of figures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "analyses"))
