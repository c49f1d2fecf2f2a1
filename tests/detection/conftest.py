"""The modules beside the tests (`trees.py`: made-up datasets on the disk) are for the tests of detection."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
