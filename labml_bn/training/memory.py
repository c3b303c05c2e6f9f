"""How the C library treats freed memory while a run trains."""

import contextlib
import ctypes

#: Parameters of glibc's `mallopt`.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Keep freed memory in the process, where glibc would return large blocks to the system.

    Each step allocates the same activations again, and the system would clear each page again. 32 MB is the largest
    block that glibc can keep. Other C libraries have other rules, or no `mallopt`, and are left alone.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - AttributeError if it is not glibc
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
