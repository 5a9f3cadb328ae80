"""Cold is cold: the copies that take turns exceed the caches, and where they cannot, the caches are swept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench.conftest import CACHE, silu, with_kernel
from tinyllm.bench.buffers import (
    MOST_COPIES,
    MOST_MEMORY,
    UNKNOWN_CACHE,
    Plan,
    cache_bytes,
    cold_times,
    plan,
    rotation,
    spare_memory,
)
from tinyllm.bench.ops import bench_ops

MB = 2**20


def cpus(folder: Path, *caches: tuple[str, str, str, str, str]) -> Path:
    """A machine's description: CPU, level, type, size, and who shares the cache."""
    for number, (cpu, level, kind, size, owners) in enumerate(caches):
        where = folder / cpu / "cache" / f"index{number}"
        where.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", owners)):
            (where / name).write_text(text + "\n")
    return folder


def test_caches_are_read_from_the_machine(tmp_path: Path) -> None:
    """The last level counts, each cache of it once, instructions not at all."""
    one, two = ("3", "Unified", "32768K", "0-1"), ("3", "Unified", "16M", "2-3")
    found = cpus(
        tmp_path,
        ("cpu0", "1", "Data", "32K", "0"),
        ("cpu0", "4", "Instruction", "99M", "0"),
        ("cpu0", *one),
        ("cpu1", *one),
        ("cpu2", *two),
    )
    assert cache_bytes(cpus=found) == 48 * MB


def test_a_machine_that_does_not_tell(tmp_path: Path) -> None:
    """Nothing, half of it, or nonsense: a size that most machines stay under. Other devices say nothing of their
    caches."""
    assert cache_bytes(cpus=tmp_path / "none") == UNKNOWN_CACHE == 64 * MB
    broken = cpus(tmp_path, ("cpu0", "3", "Unified", "much", "0"))
    assert cache_bytes(cpus=broken) == UNKNOWN_CACHE
    assert cache_bytes("cuda", cpus=cpus(tmp_path / "b", ("cpu0", "3", "Unified", "1M", "0"))) == UNKNOWN_CACHE


def test_copies_take_a_part_of_the_memory(tmp_path: Path) -> None:
    """A quarter of what is free, never more than the cap."""
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 9 kB\nMemAvailable: 4096 kB\n")
    assert spare_memory(info) == MB
    info.write_text("MemAvailable: 999999999999 kB\n")
    assert spare_memory(info) == spare_memory(tmp_path / "none") == MOST_MEMORY


@pytest.mark.parametrize("cache", [MB, 32 * MB, 768 * MB])
@pytest.mark.parametrize("held", [1, 4096, MB, 100 * MB])
@pytest.mark.parametrize("touched", [1, 4096, 10**9])
def test_copies_exceed_the_cache_or_it_is_swept(held: int, touched: int, cache: int) -> None:
    """What a whole turn reads is more than the cache, and stays within memory; the copy just used is not counted on to
    be evicted."""
    memory = 256 * MB
    found = plan(held, touched, cache, memory)
    if found.by == "rotation":
        assert (found.copies - 1) * min(held, touched) > cache
        assert found.copies * held <= memory and found.copies <= MOST_COPIES
    else:
        assert found.copies == 2
        assert cache // min(held, touched) * max(held, memory // MOST_COPIES) > memory // 4, (
            "a rotation would have fitted"
        )


def test_the_bench_rotates_over_more_than_the_cache(small_machine: None) -> None:
    """Cold calls come back to an address only after other inputs of more than the cache were read; hot ones at once."""
    seen: list[int] = []

    def spy(x: Any) -> Any:
        if x.shape[0] == 1:
            seen.append(x.ctypes.data)
        return silu(x)

    (r, _) = bench_ops(with_kernel("silu", spy), ["numpy"], ["silu"], 100, lambda text: None).results
    nbytes = 1536 * 4
    assert r.cold_by == "rotation" and len(set(seen[1:])) == r.copies and (r.copies - 1) * nbytes > CACHE
    last: dict[int, int] = {}
    gaps = []
    for place, address in enumerate(seen[1:]):
        gaps.append(place - last[address] if address in last else None)
        last[address] = place
    first_cold = next(i for i in range(len(gaps)) if gaps[i] is None and i)  # the second copy: the first is the hot one
    assert set(gaps[1 : first_cold - 1]) == {1}, "hot calls read one and the same input"
    revisits = [g for g in gaps[first_cold:] if g is not None]
    assert all(g * nbytes > CACHE for g in revisits)


def test_a_rotation_goes_round() -> None:
    """Each in its turn, then the first again."""
    order: list[str] = []
    run = rotation([lambda: order.append("a"), lambda: order.append("b"), lambda: order.append("c")])
    for _ in range(5):
        run()
    assert order == ["a", "b", "c", "a", "b"]


def test_a_sweep_comes_before_each_timed_call() -> None:
    """Sweep, then the other copy, which warms the code, then the one that is timed; only that one is timed."""
    order: list[str] = []
    calls = [lambda: order.append("warm"), lambda: order.append("cold")]
    times = cold_times(calls, Plan(2, "sweep"), lambda: order.append("sweep"), 3, 1.0)
    assert order == ["cold", *["sweep", "warm", "cold"] * 3]
    assert len(times) == 3


def test_only_the_cold_call_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the sweep nor the warming call counts."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def takes(seconds: float) -> Any:
        return lambda: clock.__setitem__(0, clock[0] + seconds)

    assert cold_times([takes(100.0), takes(1.0)], Plan(2, "sweep"), takes(1000.0), 2, 0.0) == [1.0, 1.0]
