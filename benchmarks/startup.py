"""`kdscope --help` against `python -c pass`: what a user waits before anything happens.

python benchmarks/startup.py [--rounds 15]
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    script = shutil.which("kdscope", path=str(Path(sys.executable).parent)) or shutil.which("kdscope")
    pairs = [(seconds([script, "--help"]), seconds([sys.executable, "-c", "pass"])) for _ in range(rounds)]
    ours, plain = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"kdscope --help: {ours:.3f} s, python -c pass: {plain:.3f} s, {ours / plain:.1f} times")


if __name__ == "__main__":
    main()
