"""A run of bound nodes as one call of the library: records, made once, over slots whose sizes each step tells."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyllm.plugins import BoundNode, Run, numpy_dtype
from tinyllm_native.arrays import are_neighbours, contiguous, int32
from tinyllm_native.library import library
from tinyllm_native.linear import structure
from tinyllm_native.records import DTYPES, Record, Temporary, record
from tinyllm_native.threads import thread_count
from tinyllm_native.values import NotLinked, Size, Symbol, Value

KERNELS = ("native", "rounded")
"""Names of the kernels that the library has; what others do is not said by records."""


class Linker:
    """Makes records of a run. `builders` of an op add them and say what its outputs are."""

    def __init__(self, run: Run, builders: Mapping[str, Callable[[Linker, BoundNode], None]]) -> None:
        self.run = run
        self.values: dict[int, Value] = {}
        self.records: list[tuple[str, list[Value | int | None], list[Size], list[float]]] = []
        self.nodes: list[int] = []
        self.weights: dict[int, int] = {}
        self.kept: list[Any] = []
        self.meetings: dict[Any, Any] = {}
        self.pointers: list[int] = [0] * len(run.inputs)
        self.temporaries: list[tuple[Size, int]] = []
        self.made: list[tuple[int, Value]] = []
        self.aliases: dict[int, int] = {}
        self._free: dict[tuple[Size, int], list[int]] = {}
        self._places = {number: place for place, number in enumerate(run.inputs)}
        self._last = self._last_reads()
        self._dims: dict[str, Symbol] = {}
        for node in run.nodes:
            self._learn(node)
        for at, node in enumerate(run.nodes):
            if node.op not in builders or node.kernel not in [f"native/{node.op}:{name}" for name in KERNELS]:
                raise NotLinked(node.kernel)
            builders[node.op](self, node)
            self.nodes += [at] * (len(self.records) - len(self.nodes))
            self._release(at)

    def _learn(self, node: BoundNode) -> None:
        """Where the sizes that change can be read: at the inputs of the run."""
        for name, number in zip(node.inputs, node.sources, strict=True):
            kind = node.call.inputs.get(name) if node.call else None
            if kind is not None and number in self._places:
                for axis, size in enumerate(kind.shape):
                    if isinstance(size, str):
                        self._dims.setdefault(size, (self._places[number], "shape", axis))

    def size(self, dim: int | str) -> Size:
        """A size of the graph."""
        if isinstance(dim, int):
            return dim
        if dim not in self._dims:
            raise NotLinked(f"size {dim}")
        return self._dims[dim], 1

    def source(self, node: BoundNode, name: str) -> Value | None:
        """An array that a node reads; None where it is not given."""
        if name not in node.inputs:
            return None
        number = node.sources[node.inputs.index(name)]
        if number not in self.values:
            if number not in self._places or node.call is None:
                raise NotLinked(f"{node.op}: {name}")
            kind = node.call.inputs[name]
            if kind is None or not kind.shape:
                raise NotLinked(f"{node.op}: {name}: {kind}")
            lead, *tail = kind.shape
            if any(isinstance(n, str) for n in tail) and name not in ("k_pages", "v_pages", "block_table"):
                raise NotLinked(f"{node.op}: {name}: shape {kind.shape}")
            fixed = tuple(n for n in tail if isinstance(n, int))
            stride = prod(fixed) * numpy_dtype(kind.dtype).itemsize
            self.values[number] = Value(self._places[number], self.size(lead), fixed, kind.dtype, stride)
        return self.values[number]

    def weight(self, node: BoundNode, name: str = "weight") -> int | None:
        """The slot of a packed weight; None where it is an array."""
        number = node.sources[node.inputs.index(name)]
        if number not in self.run.constants:
            return None
        if number not in self.weights:
            made = structure(self.run.constants[number])
            self.kept += [made, self.run.constants[number]]
            self.weights[number] = len(self.pointers)
            self.pointers.append(ctypes.addressof(made))
        return self.weights[number]

    def constant(self, array: np.ndarray) -> int:
        """The slot of an array of the linker's own."""
        self.kept.append(array)
        return self.address(array.ctypes.data)

    def address(self, at: int) -> int:
        """The slot of what lies at an address, and outlives the run."""
        self.pointers.append(at)
        return len(self.pointers) - 1

    def of_array(self, node: BoundNode, name: str, what: str, axis: int) -> Size:
        """A size or stride of an input of the run."""
        number = node.sources[node.inputs.index(name)]
        return (self._places[self.aliases.get(number, number)], what, axis), 1

    def new(self, node: BoundNode, place: int = 0) -> Value:
        """The array that a node makes."""
        number, kind = node.targets[place], node.types[place]
        if (
            not kind.shape
            or not all(isinstance(n, int) for n in kind.shape[1:])
            or kind.dtype not in (*DTYPES, "int32")
        ):
            raise NotLinked(f"{node.op}: output {kind}")
        lead, *tail = kind.shape
        columns = prod(int(n) for n in tail)
        stride = columns * numpy_dtype(kind.dtype).itemsize
        value = Value(0, self.size(lead), tuple(int(n) for n in tail), kind.dtype, stride)
        if number in self.run.outputs:
            value = replace(value, slot=len(self.pointers))
            self.pointers.append(0)
            self.made.append((number, value))
        else:
            free = self._free.setdefault((value.rows, stride), [])
            if not free:
                free.append(len(self.temporaries))
                self.temporaries.append((value.rows, stride))
            value = replace(value, slot=~free.pop())
        self.values[number] = value
        return value

    def view(self, number: int, value: Value) -> None:
        """A node's output that is a part of one of its inputs."""
        if number in self.run.outputs:
            raise NotLinked("a view as an output")
        self.values[number] = value

    def alias(self, number: int, source: int) -> None:
        """A node's output that is one of the run's inputs, written in place."""
        self.aliases[number] = self.aliases.get(source, source)
        self.values[number] = self.values[source]

    def add(
        self, op: str, arrays: list[Value | int | None], sizes: list[Size], numbers: list[float] | None = None
    ) -> None:
        """A record."""
        self.records.append((op, arrays, sizes, numbers or []))

    def _last_reads(self) -> dict[int, int]:
        """By value the last node that reads it, or a view of it: found from the end on."""
        last: dict[int, int] = {}
        for at, node in enumerate(self.run.nodes):
            for number in node.sources:
                last[number] = at
            for number in node.targets:
                last.setdefault(number, at)
        return last

    def _release(self, at: int) -> None:
        """Temporaries that no later node reads are used again."""
        busy = {value.slot for number, value in self.values.items() if self._last.get(number, -1) > at}
        free = {~place for places in self._free.values() for place in places}
        for place, key in enumerate(self.temporaries):
            if ~place not in busy and ~place not in free:
                self._free[key].append(place)


def _nothing() -> None:
    """What a reference gives where there is no array."""


class LinkedStep:
    """Calls the library once for a whole run. Calls from several threads wait for one another."""

    every: ClassVar[weakref.WeakSet[LinkedStep]] = weakref.WeakSet()

    def __init__(self, linker: Linker) -> None:
        self._kept, self._meetings = linker.kept, linker.meetings.values()
        self._outputs = linker.run.outputs
        self._aliases = {n: linker._places[source] for n, source in linker.aliases.items()}
        self._made = linker.made
        self._symbols: dict[Symbol, int] = {}
        inputs, slots = len(linker.run.inputs), len(linker.pointers)
        records = [self._record(slots, *one) for one in linker.records]
        temporaries = [self._temporary(rows, stride) for rows, stride in linker.temporaries]
        self._records = (Record * len(records))(*records)
        self._temporaries = (Temporary * len(temporaries))(*temporaries)
        self._pointers = (ctypes.c_void_p * slots)(*linker.pointers)
        self._sizes = (ctypes.c_int64 * (len(self._symbols) + 1))()
        self._sizes[len(self._symbols)] = 1
        for temporary in self._temporaries:
            if temporary.symbol < 0:
                temporary.symbol = len(self._symbols)
        self._told: list[list[tuple[int, str, int]]] = [[] for _ in range(inputs)]
        for (place, what, axis), index in self._symbols.items():
            self._told[place].append((index, what, axis))
        self._forget()
        self._written = set(self._aliases.values())
        self._apart = {place: axis for place, what, axis in sorted(self._symbols) if what == "strides"}
        self._run, self._threads = library().tinyllm_run, thread_count()
        self._nodes, self._count = linker.nodes, len(linker.run.nodes)
        self.every.add(self)

    def _forget(self) -> None:
        """Nothing was given yet, and nobody is calling: so it is in the child of a fork, where the threads that were
        are gone."""
        self._lock = threading.Lock()
        self._seen: list[Callable[[], Any]] = [_nothing] * len(self._told)

    def _symbol(self, symbol: Symbol) -> int:
        return self._symbols.setdefault(symbol, len(self._symbols))

    def _record(self, slots: int, op: str, arrays: list[Any], sizes: list[Size], numbers: list[float]) -> Record:
        places, offsets = [], []
        for array in arrays:
            value = array if isinstance(array, Value) else None
            slot = -1 if array is None else array if value is None else value.slot
            places.append(slots + ~slot if slot < -1 or (value and slot < 0) else slot)
            offsets.append(value.offset if value else 0)
        symbols = {n: self._symbol(size[0]) for n, size in enumerate(sizes) if isinstance(size, tuple)}
        factors = [size[1] if isinstance(size, tuple) else size for size in sizes]
        return record(op, places, factors, numbers, offsets, symbols)

    def _temporary(self, rows: Size, stride: int) -> Temporary:
        if isinstance(rows, tuple):
            return Temporary(symbol=self._symbol(rows[0]), bytes=rows[1] * stride)
        return Temporary(symbol=-1, bytes=rows * stride)

    def timed(self, *arrays: np.ndarray) -> tuple[tuple[np.ndarray, ...], list[float]]:
        """What the run gives, and the seconds of each node: 0 of views, which no record stands for."""
        seconds, of_nodes = (ctypes.c_double * len(self._records))(), [0.0] * self._count
        given = self(*arrays, seconds=seconds)
        for at, took in zip(self._nodes, seconds, strict=True):
            of_nodes[at] += took
        return given, of_nodes

    def __call__(self, *arrays: np.ndarray, seconds: Any = None) -> tuple[np.ndarray, ...]:
        """What the run gives, for its inputs. seconds: filled with the time of each record."""
        with self._lock:
            given = list(arrays)
            for place, array in enumerate(given):
                if self._seen[place]() is not array:
                    self._take(place, given)
            made = {}
            for number, value in self._made:
                rows = value.rows if isinstance(value.rows, int) else self._sizes[self._symbols[value.rows[0]]]
                made[number] = np.empty((rows, *value.tail), numpy_dtype(value.dtype))
                self._pointers[value.slot] = made[number].ctypes.data
            failed = self._run(
                self._records,
                len(self._records),
                self._pointers,
                len(self._pointers),
                self._temporaries,
                len(self._temporaries),
                self._sizes,
                self._threads,
                seconds,
            )
        for meeting in self._meetings:
            meeting.check()
        if failed:
            raise MemoryError("native: no memory for a step's temporary arrays")
        return tuple(made[n] if n in made else given[self._aliases[n]] for n in self._outputs)

    def _take(self, place: int, given: list[np.ndarray]) -> None:
        """Note where an array lies that was not here at the step before, and what of its sizes matters."""
        array = given[place]
        if place not in self._apart:
            array = int32(array) if array.dtype.kind in "iu" else contiguous(array)
        elif not are_neighbours(array, self._apart[place]) or (place in self._written and not array.flags.writeable):
            array = array.copy()
        self._seen[place] = weakref.ref(given[place]) if array is given[place] else _nothing
        given[place] = array
        self._pointers[place] = array.ctypes.data
        for index, what, axis in self._told[place]:
            self._sizes[index] = getattr(array, what)[axis]


def _forget_all() -> None:
    for linked in LinkedStep.every:
        linked._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
