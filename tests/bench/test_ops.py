"""Benches of ops: only what is right is timed, on what would run in a model, and each time is held against the
machine."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.bench.conftest import LIMITS, FakeGauge, silu, with_kernel
from tests.catalogue.harness import backends, registry
from tinyllm.bench.limits import Gauge, Limits, highest
from tinyllm.bench.op_result import OpReport, OpResult, Speed, Status, placed, speed
from tinyllm.bench.ops import bench_cases, bench_ops
from tinyllm.catalogue import CATALOGUE
from tinyllm.conformance.example import Example, make_example
from tinyllm.errors import TinyllmError, UnknownNameError
from tinyllm.plugins.backend import Backend
from tinyllm.plugins.kernel import EVERY_CPU
from tinyllm.registry.registry import Registry
from tinyllm.spec.types import Call


def bench(where: Registry, *ops: str, on: tuple[str, ...] = ("numpy",), rounds: int = 2) -> OpReport:
    """A run without its progress."""
    return bench_ops(where, on, ops, rounds, lambda text: None)


def decode(report: OpReport) -> OpResult:
    """The first result of its decode cases."""
    return next(r for r in report.results if r.phase == "decode")


@pytest.mark.parametrize("op", sorted(CATALOGUE))
def test_every_op_is_right_and_has_a_cost(op: str, small_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bench case runs on its chosen kernel and holds; what it costs is not nothing, views aside."""
    monkeypatch.setattr("tinyllm.bench.ops._timed", lambda *args: args[-1])
    made: dict[str, Example] = {}  # once for all backends, as what is expected takes long to compute
    monkeypatch.setattr(
        "tinyllm.bench.ops.make_example", lambda *drawn: made.setdefault(drawn[1].id, make_example(*drawn))
    )
    found = bench(registry(), op, on=tuple(backends())).results
    assert [(r.backend, r.case, r.reason) for r in found if r.status is not Status.TIMED] == []
    cases = [case.id for case in bench_cases(CATALOGUE[op])]
    assert sorted((r.backend, r.case) for r in found) == sorted(product(backends(), cases))
    for r in found:
        assert r.kernel.startswith((f"{r.backend}/", f"{EVERY_CPU}/"))
        assert r.first_call is not None and r.prepare is not None
        assert r.bytes or r.flops or op in ("split", "split_heads", "merge_heads")


def test_cases_have_a_phase() -> None:
    """The tables are by phase, so that a case without one would stand apart."""
    phases = {OpResult(s.name, c.id, "numpy", "cpu").phase for s in registry().specs.values() for c in bench_cases(s)}
    assert phases == {"decode", "prefill"}


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("op", ["silu", "kv_append", "embedding", "quantize", "split"])
def test_a_time_says_what_it_amounts_to(op: str, backend: str, small_machine: None) -> None:
    """Rates are those of the median; ops that consume an input are called again and again; a table's few rows are swept
    out."""
    for r in bench(registry(), op, on=(backend,)).results:
        assert r.status is Status.TIMED, r.reason
        assert r.cold and r.hot
        for found in (r.cold, r.hot):
            assert 0 < found.low <= found.median <= found.high
            assert found.gb_s == pytest.approx(r.bytes / found.median / 1e9)
            assert found.gflop_s == pytest.approx(r.flops / found.median / 1e9)
            assert found.of_roof == LIMITS.share(r.bytes, r.flops, found.median)
        assert r.copies == 2 if r.cold_by == "sweep" else r.copies >= 2
        assert r.cold_by == "rotation" or op in ("kv_append", "embedding")


def test_a_wrong_kernel_is_not_timed(small_machine: None) -> None:
    """One element off by a thousandth is enough; it is called once, for the judge, and never again."""
    calls = []

    def nearly(x: Any) -> Any:
        calls.append(x.shape)
        y = silu(x)
        y[..., -1] *= 1.001
        return y

    report = bench(with_kernel("silu", nearly), "silu")
    assert calls == [(1, 1536), (128, 1536)]
    for r in report.results:
        assert (r.status, r.kernel) == (Status.WRONG, "numpy/silu:ours")
        assert (r.cold, r.hot, r.vs_best, r.first_call) == (None,) * 4
        assert "ulps" in r.reason and "1535)" in r.reason


def test_one_that_fails_does_not_stop_the_others(small_machine: None) -> None:
    """What it raised is told, whether at once or only later; the other ops are timed."""

    def broken(x: Any) -> Any:
        raise ZeroDivisionError("no reason at all")

    report = bench(with_kernel("silu", broken), "silu", "add")
    assert {(r.op, r.status) for r in report.results} == {("silu", Status.FAILED), ("add", Status.TIMED)}
    assert (
        decode(OpReport(tuple(r for r in report.results if r.op == "silu"))).reason
        == "ZeroDivisionError: no reason at all"
    )


def test_what_is_declined_is_no_failure(small_machine: None) -> None:
    """A kernel that is pinned and declines the call is reported as unsupported, with its reason."""
    where = with_kernel("silu", silu, supports=lambda call: "only on Sundays")
    where.pins[("numpy", "silu")] = "ours"
    found = bench(where, "silu").results
    assert {r.status for r in found} == {Status.UNSUPPORTED} and all("only on Sundays" in r.reason for r in found)


def test_the_first_call_is_apart(small_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that compiles at its first call pays for it there; packing is counted apart from both."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    seen: set[tuple[int, ...]] = set()

    def compiling(x: Any) -> Any:
        clock[0] += 1.0 if x.shape in seen else 100.0
        seen.add(x.shape)
        return silu(x)

    def pack(x: Any, call: Call) -> Any:
        clock[0] += 7.0
        return x

    r = decode(bench(with_kernel("silu", compiling, prepare=pack, prepares=("x",)), "silu"))
    assert (r.prepare, r.first_call) == (7.0, 100.0)
    assert r.hot and r.cold and (r.hot.median, r.hot.high, r.cold.median, r.cold.high) == (1.0,) * 4


def test_waiting_is_timed(small_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that computes later is waited for inside the time."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    backend = registry().backend("numpy")

    def wait(*arrays: Any) -> None:
        assert [a.shape for a in arrays] in ([(1, 1536)], [(128, 1536)])
        clock[0] += 3.0

    monkeypatch.setattr(backend, "synchronize", wait, raising=False)
    r = decode(bench(registry(), "silu"))
    assert r.hot and r.cold and (r.first_call, r.hot.median, r.cold.median) == (3.0, 3.0, 3.0)


def test_limits_that_cannot_be_measured_cost_only_the_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong `linear` sets no roof, however fast it is; the reason is told."""
    monkeypatch.setattr("tinyllm.bench.ops.cache_bytes", lambda device: 2**18)
    monkeypatch.setattr("tinyllm.bench.limits.LEAST_ROWS", 64)

    def instant(x: Any, weight: Any, *, bias: Any = None) -> Any:
        return np.zeros((*x.shape[:-1], weight.shape[0]), x.dtype)

    report = bench(with_kernel("linear", instant), "silu", "linear")
    assert report.limits == report.roofs == {}
    assert re.match(r"numpy: its limits could not be measured: its linear is wrong on \[1, 4096\]", report.notes[0])
    assert {(r.op, r.status) for r in report.results} == {("silu", Status.TIMED), ("linear", Status.WRONG)}
    silus = [r.cold for r in report.results if r.op == "silu"]
    assert all(s and s.of_roof is None and s.gb_s > 0 for s in silus)


def test_the_roof_is_the_machines(small_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares are those of the best that any available backend reached on the device, though one alone is compared; one
    that cannot be measured is told."""

    available = [n for n in registry().plugins.backends if n != "numpy" and registry().probe(n).available]
    others = [n for n in available if registry().backend(n).device == "cpu"]
    if not others:
        pytest.skip("needs another backend on the CPU")
    broken: list[str] = []

    class Unequal(FakeGauge):
        def __init__(self, backend: Backend, *_: Any) -> None:
            super().__init__()
            self.backend = backend.name

        def measure(self) -> Limits:
            if self.backend in broken:
                raise TinyllmError("no product")
            return self.best

        @property
        def best(self) -> Limits:
            return Limits(10.0, 100.0) if self.backend == "numpy" else Limits(40.0, 50.0)

    monkeypatch.setattr("tinyllm.bench.ops.Gauge", Unequal)
    report = bench(registry(), "silu")
    assert report.limits == {"numpy": Limits(10.0, 100.0)} and report.roofs == {"cpu": Limits(40.0, 100.0)}
    cold = decode(report).cold
    assert cold and cold.of_roof == pytest.approx(cold.gb_s / 40.0) and report.notes == ()
    broken += others
    report = bench(registry(), "silu")
    assert report.roofs == {"cpu": Limits(10.0, 100.0)}
    assert sorted(report.notes) == [f"{name}: left out of the roof: no product" for name in sorted(others)]


def test_limits_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both, from what is read and computed, and the weight that is read exceeds twice the caches."""
    monkeypatch.setattr("tinyllm.bench.limits.LEAST_ROWS", 16)
    monkeypatch.setattr("tinyllm.bench.limits.SIDE", 8)
    monkeypatch.setattr("tinyllm.bench.limits.timed", lambda run, rounds: [run() is None or 0.5, 2.0])
    monkeypatch.setattr("tinyllm.bench.limits._checked", lambda *args: lambda: 1)
    gauge = Gauge(registry().backend("numpy"), lambda x, weight: lambda: 1, cache=2**20)
    assert gauge.bytes >= 2 * 2**20
    monkeypatch.setattr("tinyllm.bench.limits.timed", lambda run, rounds: [2.0, 0.5])
    assert gauge.measure() == Limits(gauge.bytes / 0.5 / 1e9, 2 * 8**3 / 0.5 / 1e9)
    monkeypatch.setattr("tinyllm.bench.limits.timed", lambda run, rounds: [4.0])
    assert gauge.measure().gb_s == pytest.approx(gauge.bytes / 0.5 / 1e9), "the better of two measurements"


def test_a_product_of_the_wrong_shape_is_no_product() -> None:
    """It would be measured as something else."""
    with pytest.raises(TinyllmError, match="its linear is wrong"):
        Gauge(registry().backend("numpy"), lambda x, weight: lambda: (x @ weight.T)[..., :-1], cache=0)


def test_the_roof() -> None:
    """Bandwidth up to the ridge, computing past it; what only moves is held against the bandwidth, what does nothing
    against nothing."""
    limits = Limits(10.0, 100.0)
    assert [limits.roof(x) for x in (0.1, 10.0, 1000.0)] == [1.0, 100.0, 100.0]
    assert limits.share(10**9, 10**9, 0.2) == pytest.approx(0.5)
    assert limits.share(10**9, 10**12, 20.0) == pytest.approx(0.5)
    assert limits.share(10**9, 0, 0.4) == pytest.approx(0.25)
    assert limits.share(0, 10**11, 4.0) == pytest.approx(0.25)
    assert limits.share(0, 0, 1.0) is None
    assert highest([Limits(1.0, 9.0), Limits(2.0, 3.0)]) == Limits(2.0, 9.0)


def test_ratios_are_between_backends_of_one_case() -> None:
    """numpy's time over one's own, and the best one's; results that were not timed take no part."""

    def result(backend: str, seconds: float, case: str = "decode:1") -> OpResult:
        s = speed([seconds], 10**9, 0)
        return OpResult("op", case, backend, "cpu", bytes=10**9, cold=s, hot=s)

    wrong = OpResult("op", "decode:1", "fast", "cpu", status=Status.WRONG)
    found = placed(
        [result("numpy", 4.0), result("torch", 2.0), result("mlx", 8.0), result("mlx", 1.0, "prefill:1"), wrong],
        {"cpu": LIMITS},
    )
    assert [(r.backend, r.vs_numpy, r.vs_best) for r in found] == [
        ("torch", 2.0, 1.0),
        ("numpy", 1.0, 0.5),
        ("mlx", 0.5, 0.25),
        ("fast", None, None),
        ("mlx", None, 1.0),
    ]
    assert found[0].cold and found[0].cold.of_roof == pytest.approx(0.05)


def test_median_and_spread() -> None:
    """One slow round counts for no more than it is."""
    assert speed([1.0, 9.0, 2.0], 4 * 10**9, 6 * 10**9) == Speed(2.0, 1.0, 9.0, 2.0, 3.0)
    assert speed([1.0, 9.0, 2.0], 0, 0).spread == 4.0


def test_an_unknown_op_is_refused() -> None:
    """With the nearest name."""
    with pytest.raises(UnknownNameError, match=r"unknown op 'sofmax'\. Did you mean 'softmax'"):
        bench(registry(), "sofmax")
