"""Guard bytes around every array that numpy makes: a write beside one takes its process down, with words that say so.

Python's own debug allocator lays them, and looks at them when the memory is freed; `ENVIRONMENT` turns it on in a
process that is started. It is in C, as numpy's allocators have to be: they are called in the middle of errors. numpy
keeps the memory of small arrays for later ones, unless it is told to take it from elsewhere (NEP 49).
"""

from __future__ import annotations

import ctypes
import gc
import re
from importlib import import_module

ENVIRONMENT = {"PYTHONMALLOC": "debug"}
"""Turns on the allocator that lays guard bytes."""

DAMAGE = {
    r"bad trailing pad byte": "memory past the end of an array",
    r"bad leading pad byte|bad ID: Allocated using": "memory before the beginning of an array",
    r"free\(\): |malloc\(\)|realloc\(\): |corrupted |double free|munmap_chunk": "memory that is not its own",
}
"""What was written to, by the last words of Python's allocator and of glibc."""

_RAW = 0
"""CPython's domain for memory that is asked for without its lock."""
_SET_HANDLER = 304
"""Where `PyDataMem_SetHandler` stands in the table of numpy's C API."""


class _Allocator(ctypes.Structure):
    """CPython's `PyMemAllocatorEx`; numpy's `PyDataMemAllocator` has the same fields."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("context", "malloc", "calloc", "realloc", "free"))


class _Handler(ctypes.Structure):
    """numpy's `PyDataMem_Handler`."""

    _fields_ = (("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("allocator", _Allocator))


_HANDLER = _Handler(name=b"tinyllm_guarded", version=1)


def guard_arrays() -> None:
    """From now on numpy's arrays, in this context, have guard bytes around them, if `ENVIRONMENT` is this process's."""
    numpy_c = import_module("numpy._core._multiarray_umath")
    python = ctypes.pythonapi
    python.PyMem_GetAllocator.restype = None
    python.PyMem_GetAllocator(_RAW, ctypes.byref(_HANDLER.allocator))
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    python.PyCapsule_New.restype = ctypes.py_object
    python.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    table = ctypes.cast(python.PyCapsule_GetPointer(numpy_c._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[_SET_HANDLER] or 0)
    set_handler(python.PyCapsule_New(ctypes.addressof(_HANDLER), b"mem_handler", None))
    gc.freeze()  # what is there stays: the collections between checks pass it over


def free_arrays() -> None:
    """Free what a check left behind in cycles, so that what it did to memory is found before the next begins."""
    gc.collect()


def damage(said: str) -> str:
    """What the last words of a process tell about memory that it wrote to; empty where they tell nothing."""
    for words, what in DAMAGE.items():
        if re.search(words, said):
            size = re.search(r"(\d+) bytes originally requested", said)
            return f"{what}{f' of {size[1]} bytes' if size and 'array' in what else ''} was written"
    return ""
