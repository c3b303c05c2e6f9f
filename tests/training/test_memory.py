"""Memory that is freed stays in the process."""

import platform
import subprocess
import sys

import pytest

#: The page faults of allocating 6 blocks of 8 MB, after they were freed before.
CODE = """
import ctypes, resource
from labml_bn.training.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    blocks = [libc.malloc(8 * 2**20) for _ in range(6)]
    for block in blocks:
        ctypes.memset(block, 1, 8 * 2**20)
    for block in blocks[::-1]:
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(10):
    before = faults()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again() -> None:
    def page_faults(keep: bool) -> int:
        code = CODE.format(keep=keep)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
        return int(run.stdout)

    assert page_faults(keep=True) < 100
    assert page_faults(keep=False) > 1000
