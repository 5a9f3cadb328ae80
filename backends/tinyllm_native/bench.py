"""`tinyllm native bench`: how fast products with packed weights are, at each level that runs here.

One row against a weight reads memory, as decoding does, and is held against what this machine reads at most, measured
in the same run. Many rows compute, as a prompt does. Each level is measured by a process of its own, as a process loads
one library.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import ceil
from statistics import median
from typing import Any

import numpy as np

from tinyllm.errors import BackendUnavailableError, TinyllmError
from tinyllm.plugins import invalid, numpy_dtype
from tinyllm_native.builder.levels import levels, machine
from tinyllm_native.find import VARIABLE, find_library, library_path
from tinyllm_native.library import library
from tinyllm_native.linear import EXACT, ROUNDED, Packed, sizes_of, structure
from tinyllm_native.packing import CELL, FORMATS, LANES, MINIMUMS, OF_8_BITS, TWO_LEVELS, ZEROS, _Format
from tinyllm_native.records import DTYPES, Record, pointer, record
from tinyllm_native.threads import cores, thread_count

SCHEMES = (*FORMATS, *DTYPES)
"""What can be measured: GGUF's formats by the names of their schemes, and dense weights by their dtypes."""
OF_HALVES = "avx512vnni"
"""The level that multiplies dense weights in bfloat16."""
DEFAULT = ("q4_0", "q4_1", "q8_0", "q4_k", "q6_k", "float32", "bfloat16")
READERS: dict[str, Callable[[np.ndarray], Any]] = {
    "largest of int32": lambda part: part.view(np.int32).max(),
    "float32 dot": lambda part: np.dot(part, part),
}
"""Ways to read memory by numpy, all cores at the same time; the quickest is the machine's bandwidth."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    schemes: names of `SCHEMES`. rows, columns: of the weight that one row is multiplied with. cold: bytes that the
    copies of it exceed, which take turns, so that none is in a cache. many: rows of x against `many_rows` rows of a
    weight. read: bytes that the bandwidth is measured with. rounds: how often each is timed.
    """

    schemes: tuple[str, ...] = DEFAULT
    rows: int = 32768
    columns: int = 1536
    cold: int = 2**28
    many: int = 128
    many_rows: int = 4096
    read: int = 2**29
    rounds: int = 7


QUICK = Plan(rows=8192, cold=2**27, many_rows=2048, rounds=5)
"""Quicker and rougher: the copies of a weight may stay in the caches of a large processor."""


@dataclass(frozen=True)
class Speed:
    """How fast products with a scheme's weights are at a level, medians.

    bits: that a weight takes as it is packed. gb_s: of the packed weight, one row. exact, rounded: GFLOP/s of many
    rows, activations exact, and as one byte, or with dense weights both in bfloat16; `rounded` is None where a level
    rounds nothing.
    """

    level: str
    scheme: str
    bits: float
    gb_s: float
    exact: float
    rounded: float | None


@dataclass(frozen=True)
class Report:
    """Speeds, and what they are held against.

    read_gb_s: what this machine reads at most, by the way `read_by`. threads: that the library works on.
    """

    speeds: tuple[Speed, ...]
    read_gb_s: float
    read_by: str
    threads: int
    plan: Plan

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        speeds = [asdict(speed) | {"of_read": speed.gb_s / self.read_gb_s} for speed in self.speeds]
        return {**asdict(self), "plan": asdict(self.plan), "speeds": speeds}


def check_schemes(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        InvalidInputError: one of them is none of `SCHEMES`.
    """
    for name in names:
        if name not in SCHEMES:
            raise invalid("native bench", "--scheme", f"one of {', '.join(SCHEMES)}", repr(name))
    return tuple(dict.fromkeys(names))


def levels_here() -> list[str]:
    """The levels that were compiled and that this processor has, lowest first, whatever the variable allows.

    Raises:
        BackendUnavailableError: there is no library.
    """
    library_path()
    found, order = find_library(), list(levels(machine()))
    return [level for level in order[: order.index(found.runs) + 1] if level in found.levels]


def measure(plan: Plan, chosen: Sequence[str], step: Callable[[str], None] = lambda text: None) -> Report:
    """Measure levels, one after the other, and the bandwidth before each of them.

    Args:
        step: is told what is measured.

    Raises:
        TinyllmError: a level could not be measured; says why.
    """
    speeds: list[Speed] = []
    read: dict[str, float] = {}
    for level in chosen:
        step(f"reading memory, then {level}")
        for name, gb_s in read_bandwidth(plan.read).items():
            read[name] = max(gb_s, read.get(name, 0.0))
        for speed in _of_level(level, plan):
            speeds.append(speed)
            step(f"{level} {speed.scheme}")
    read_by = max(read, key=lambda name: read[name])
    return Report(tuple(speeds), read[read_by], read_by, thread_count(), plan)


def read_bandwidth(nbytes: int, rounds: int = 5) -> dict[str, float]:
    """GB/s that all cores read together at most, by each way to read: the quickest round counts."""
    parts = np.array_split(np.ones(nbytes // 4, np.float32), cores())
    best: dict[str, float] = {}
    with ThreadPoolExecutor(cores()) as pool:
        for name, reader in READERS.items():
            seconds = min(_times(lambda reader=reader: list(pool.map(reader, parts)), rounds))  # type: ignore[misc]
            best[name] = nbytes / seconds / 1e9
    return best


def drawn(scheme: str, rows: int, columns: int) -> Packed:
    """A packed weight of random codes, its scales such that no number is extreme. No weight has to be packed for it."""
    form = _form(scheme, columns)
    tiles, cells, groups = ceil(rows / LANES), ceil(columns / CELL), ceil(columns / form.group)
    rng = np.random.default_rng(0)
    if not form.bits:
        dtype = numpy_dtype(scheme)
        packed = {"codes": np.resize(rng.standard_normal(2**20, np.float32).astype(dtype), (tiles, columns, LANES))}
    else:
        codes = rng.integers(0, 256, 2**20, np.uint8)
        packed = {"codes": np.resize(codes, (tiles, cells, 64 * form.bits)), "in_floats": np.zeros(tiles, np.uint8)}
        for name in ("scales", "minima") if form.minimums in (MINIMUMS, ZEROS) else ("scales",):
            if form.scaled >= TWO_LEVELS:
                packed[name] = rng.integers(1, 32, (tiles, groups, LANES), np.uint8)
            else:
                sizes = rng.uniform(0.01, 0.02, (tiles, groups, LANES))
                packed[name] = sizes.astype(numpy_dtype(list(DTYPES)[form.scaled]))
        if form.scaled == OF_8_BITS:
            packed["supers"] = rng.uniform(0.5, 1, (tiles, LANES)).astype(np.float32)
        elif form.scaled >= TWO_LEVELS:
            packed["supers"] = rng.uniform(0.001, 0.002, (tiles, columns // 256, 2, LANES)).astype(np.float16)
    kind = DTYPES[scheme] if scheme in DTYPES else DTYPES["float32"]
    numbers = (form.bits, form.zero, form.table, form.scaled, form.group, int(form.minimums), 0, rows, columns, kind)
    packed["header"] = np.array(numbers, np.int64)
    return packed


def _form(scheme: str, columns: int) -> _Format:
    """How weights of a scheme are packed."""
    return FORMATS[scheme] if scheme in FORMATS else _Format(0, scaled=DTYPES[scheme], group=columns)


def bytes_of(weight: Packed) -> int:
    """What a product reads of a packed weight."""
    return sum(weight[name].nbytes for name in ("codes", "scales", "minima", "supers") if name in weight)


def products(weights: Sequence[Packed], x: np.ndarray, limbs: int) -> tuple[Callable[[], None], np.ndarray]:
    """A call that multiplies x with each weight, one after the other, in one step of the library, as a model does; and
    the array that it fills.

    The call raises `MemoryError` where there is not enough for scratch memory.
    """
    rows, columns = sizes_of(weights[0])
    y = np.full((len(x), rows), np.nan, np.float32)
    places: list[np.ndarray | ctypes.Structure] = [x, y, *map(structure, weights)]
    pointers = (ctypes.c_void_p * len(places))(*(pointer(place) for place in places))
    sizes = (len(x), columns, rows, x.strides[0], y.strides[0], DTYPES["float32"], DTYPES["float32"], limbs)
    made = [record("linear", [0, 2 + number, -1, 1], sizes) for number in range(len(weights))]
    records, one = (Record * len(made))(*made), (ctypes.c_int64 * 1)(1)

    def run(kept: Any = places) -> None:
        arguments = (records, len(made), pointers, len(kept), None, 0, one, thread_count(), None)
        if library().tinyllm_run(*arguments):
            raise MemoryError("native bench: no memory for scratch arrays")

    return run, y


def speeds_of(plan: Plan, level: str) -> Iterator[Speed]:
    """Measure the library of this process, whose level that is.

    Raises:
        TinyllmError: products that are not finite.
    """
    rng = np.random.default_rng(1)
    one, many = (rng.standard_normal((rows, plan.columns), np.float32) for rows in (1, plan.many))
    for scheme in plan.schemes:
        first, small = drawn(scheme, plan.rows, plan.columns), drawn(scheme, plan.many_rows, plan.columns)
        copies = [first, *({n: a.copy() for n, a in first.items()} for _ in range(ceil(plan.cold / bytes_of(first))))]
        seconds = _checked(copies, one, EXACT, plan.rounds)
        exact = _checked([small], many, EXACT, plan.rounds)
        rounds = scheme in FORMATS or level == OF_HALVES
        rounded = _checked([small], many, ROUNDED, plan.rounds) if rounds else None
        gflop = 2e-9 * plan.many * plan.many_rows * plan.columns
        yield Speed(
            level,
            scheme,
            8 * bytes_of(first) / (plan.rows * plan.columns),
            bytes_of(first) * len(copies) / seconds / 1e9,
            gflop / exact,
            None if rounded is None else gflop / rounded,
        )


def _checked(weights: Sequence[Packed], x: np.ndarray, limbs: int, rounds: int) -> float:
    """Median seconds of products that are finite."""
    run, y = products(weights, x, limbs)
    seconds = median(_times(run, rounds))
    if not np.isfinite(y).all():
        raise TinyllmError("native bench: a product is not finite")
    return seconds


def _times(run: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each round, after one that is not counted."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def _of_level(level: str, plan: Plan) -> Iterator[Speed]:
    """The speeds of a level as its process tells them, each as soon as it is there.

    Raises:
        TinyllmError: the process ended before; says with which words.
    """
    command = [sys.executable, "-m", __name__, json.dumps(asdict(plan))]
    environment = {**os.environ, VARIABLE: level}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        for line in process.stdout or ():
            yield Speed(**json.loads(line))
        said = process.stderr.read().strip().splitlines() if process.stderr else []
    if process.returncode:
        raise TinyllmError(f"native bench: {level}: {said[-1] if said else f'ended with code {process.returncode}'}")


def main() -> None:
    """`python -m tinyllm_native.bench PLAN`: measure the level that this process has, a line of JSON for each
    scheme."""
    given = json.loads(sys.argv[1])
    found = find_library()
    if not found.level:
        raise BackendUnavailableError(found.reason)
    for speed in speeds_of(Plan(**{**given, "schemes": tuple(given["schemes"])}), found.level):
        print(json.dumps(asdict(speed)), flush=True)


if __name__ == "__main__":
    main()
