"""Pages of memory: ranges of addresses that are reserved and made usable bit by bit, with guards between them.

Whoever touches a page that is not usable is stopped there and then (SIGSEGV) instead of damaging what lies beyond.
"""

import ctypes
import mmap
import sys

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.pointers import symbol

PAGE = max(mmap.PAGESIZE, 4096)

_NONE, _READ_WRITE = 0, 3  # PROT_NONE; PROT_READ | PROT_WRITE
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0x40  # MAP_NORESERVE
_DONT_NEED = 4  # MADV_DONTNEED

_i64, _i32 = types.int64, types.int32
_MAP_PRIVATE, _MAP_ANONYMOUS = mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS
_mmap = symbol("mmap", _i64, _i64, _i64, _i32, _i32, _i32, _i64)
_munmap = symbol("munmap", _i32, _i64, _i64)
_mprotect = symbol("mprotect", _i32, _i64, _i64, _i32)
_madvise = symbol("madvise", _i32, _i64, _i64, _i32)


def reserve_addresses(size: int) -> int:
    """Return the start of a range of addresses with no memory behind it yet.

    Raises:
        MemoryError: the process may not have that many addresses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    address = libc.mmap(None, size, _NONE, flags, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise MemoryError(f"cannot reserve {size} bytes of addresses (is `ulimit -v` set?)")
    return int(address)


def make_usable(address: int, size: int) -> None:
    """Put memory, zeros, behind reserved addresses from the start of a page on.

    Raises:
        MemoryError: there is none left.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if libc.mprotect(address, size, _READ_WRITE) != 0:
        raise MemoryError(f"there is no memory left for {size} bytes")


@jit
def whole_pages(size):
    """Return the size of the pages that ``size`` bytes take."""
    return (size + PAGE - 1) // PAGE * PAGE


@jit
def unmap_pages(start, size):
    """Give whole pages back to the system, addresses and all."""
    if size > 0:
        _munmap(start, whole_pages(size))


@jit
def map_pages(size, alignment):
    """Return the start of pages with ``size`` bytes of zeros, a multiple of ``alignment``; 0 if there is no memory."""
    flags = _i32(_MAP_PRIVATE | _MAP_ANONYMOUS)
    size = whole_pages(size)
    start = _mmap(0, size + alignment - PAGE, _i32(_READ_WRITE), flags, _i32(-1), 0)
    if start == -1:
        return 0
    pages = (start + alignment - 1) // alignment * alignment
    unmap_pages(start, pages - start)
    unmap_pages(pages + size, start + alignment - PAGE - pages)
    return pages


@jit
def commit_pages(address, size):
    """Put memory behind reserved addresses, from compiled code; return whether there was some."""
    return _mprotect(address, size, _i32(_READ_WRITE)) == 0


@jit
def close_pages(address, size):
    """Take the memory behind addresses away again: nobody may touch them from now on."""
    _madvise(address, size, _i32(_DONT_NEED))
    _mprotect(address, size, _i32(_NONE))
