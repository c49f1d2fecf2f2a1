"""Memory that is freed stays with the process: a large tensor that comes again costs no page faults."""

import resource
import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from kdscope.training.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 * 2**20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def told(how):
    output = subprocess.run(
        [sys.executable, "-c", CODE, how], check=True, capture_output=True, text=True
    ).stdout.split()
    return output[0], int(output[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_pages_are_faulted_in_once():
    kept, faults = told("keep")
    if kept != "True":
        pytest.skip("no glibc here")
    plain = told("plain")[1]
    assert faults * resource.getpagesize() < 2**26  # less than one of the ten tensors
    assert faults < plain / 5
