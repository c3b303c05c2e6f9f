"""Memory that is freed stays in the process."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from labml_bn.training.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
def faults():
    [torch.ones(2_000_000) for _ in range(6)]  # 8 MB each, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.set_num_threads(1)
for _ in range(100):
    before = faults()
for _ in range(20):
    after = faults()
print((after - before) // 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_no_page_faults() -> None:
    def page_faults(keep: bool) -> int:
        code = CODE.format(keep=keep)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
        return int(run.stdout)

    assert page_faults(keep=True) < 20 < page_faults(keep=False)
