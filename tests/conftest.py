"""One thread a process: the networks of the tests are small, and a forked process has none of its parent's threads."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
