"""Kernels that cheat a benchmark: each is right when it is first asked, and is caught when it is timed under guard."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench.conftest import Cli, FakeGauge, silu, with_kernel
from tinyllm.bench.guarded import PAST_ROOF, too_fast
from tinyllm.bench.limits import Limits
from tinyllm.bench.op_result import OpReport, Status
from tinyllm.bench.ops import Subjects, bench_ops

Kernel = Callable[[Any], Any]


def bench(kernel: Kernel, guarded: bool = True) -> OpReport:
    """Two rounds of silu on numpy by a kernel."""
    subjects = Subjects(guarded="numpy" if guarded else "")
    return bench_ops(with_kernel("silu", kernel), ["numpy"], ["silu"], 2, lambda text: None, subjects)


def caches() -> Kernel:
    """Computes once for each shape."""
    known: dict[Any, Any] = {}

    def kernel(x: Any) -> Any:
        if x.shape not in known:
            known[x.shape] = silu(x)
        return known[x.shape]

    return kernel


def keeps_by_place() -> Kernel:
    """Computes once for each place in memory, and holds on to it, so that no other array ever lies there."""
    known: dict[int, tuple[Any, Any]] = {}

    def kernel(x: Any) -> Any:
        if x.ctypes.data not in known:
            known[x.ctypes.data] = x, silu(x)
        return known[x.ctypes.data][1]

    return kernel


def after(calls: int, cheat: Kernel) -> Kernel:
    """Honest for some calls of each shape: those that a judge sees first."""
    seen: dict[Any, int] = {}

    def kernel(x: Any) -> Any:
        seen[x.shape] = seen.get(x.shape, 0) + 1
        return silu(x) if seen[x.shape] <= calls else cheat(x)

    return kernel


def writes_late(x: Any) -> Any:
    """Gives memory that another thread fills when the clock has stopped."""
    y = np.empty_like(x)

    def fill() -> None:
        time.sleep(0.002)
        y[...] = silu(x)

    threading.Thread(target=fill).start()
    return y


class Lazy(np.ndarray):
    """An array that computes when somebody looks at it."""


def computes_when_looked_at(x: Any) -> Any:
    return np.asarray(x).view(Lazy)


def half_of_its_input(x: Any) -> Any:
    """The second half of a row is taken to be as the first."""
    width = x.shape[-1] // 2
    return np.concatenate([silu(x[..., :width])] * 2, axis=-1)


def half_of_its_output(x: Any) -> Any:
    y = np.empty_like(x)
    y[..., : x.shape[-1] // 2] = silu(x[..., : x.shape[-1] // 2])
    return y


def one_buffer() -> Kernel:
    """Right while nobody calls it again."""
    made: dict[Any, Any] = {}

    def kernel(x: Any) -> Any:
        y = made.setdefault(x.shape, np.empty_like(x))
        y[...] = silu(x)
        return y

    return kernel


def in_place(x: Any) -> Any:
    """Right, and its input is gone."""
    x.flags.writeable = True
    x[...] = silu(x)
    return x


CHEATS: dict[str, tuple[Callable[[], Kernel], str]] = {
    "cached": (caches, "ulps"),
    "cached later": (lambda: after(2, caches()), "ulps"),
    "late": (lambda: after(1, writes_late), "ulps|nan|changed after"),
    "lazy": (lambda: after(1, computes_when_looked_at), "Lazy, not ndarray"),
    "its input": (lambda: after(1, lambda x: x), "ulps"),
    "half of its input": (lambda: after(1, half_of_its_input), "ulps"),
    "half of its output": (lambda: after(1, half_of_its_output), "nan|ulps"),
    "one buffer": (lambda: after(1, one_buffer()), "changed after the call had returned"),
    "in place": (lambda: after(1, in_place), "lies in the memory of its input x"),
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_caught(name: str, small_machine: None) -> None:
    """It gets no time, and the reason says which call gave it away."""
    make, words = CHEATS[name]
    for result in bench(make()).results:
        assert (result.status, result.cold) == (Status.WRONG, None), name
        assert any(word in result.reason for word in words.split("|")), result.reason
        assert result.reason.startswith(("cold call", "warm call"))


def test_without_guard_a_cache_goes_unseen(small_machine: None) -> None:
    """What the guard is for: the copies of the plain bench hold the same numbers."""
    assert {r.status for r in bench(caches(), guarded=False).results} == {Status.TIMED}


def test_an_honest_kernel_is_timed(small_machine: None) -> None:
    """Also one that keeps what it made by where its input lies: no two calls have the same place."""
    for kernel in (silu, keeps_by_place()):
        for result in bench(kernel).results:
            assert result.status is Status.TIMED and result.guarded and result.cold and result.hot, result.reason
            assert result.cold_by == "sweep" and 0 < result.read <= result.bytes


def test_what_is_faster_than_its_bytes_is_suspect(small_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held against what the machine reads at most; without guard nothing is said, as its data may be in a cache."""
    monkeypatch.setattr(FakeGauge, "measure", lambda self: Limits(1e-6, 100.0))
    monkeypatch.setattr(FakeGauge, "best", Limits(1e-6, 100.0))
    for result in bench(silu).results:
        assert result.status is Status.SUSPECT and "and this machine reads 0 at most" in result.reason
    assert {r.status for r in bench(silu, guarded=False).results} == {Status.TIMED}
    assert not too_fast(1000, 1e-6, 1.0) and not too_fast(int(1000 * PAST_ROOF), 1e-6, 1.0)
    assert "1600 bytes in 1.0 us are 2 GB/s" in too_fast(1600, 1e-6, 1.0)


def test_the_command_times_a_file_beside_a_backend(cli: Cli, small_machine: None, tmp_path: Path) -> None:
    """The file's kernel on the first backend, under guard; a cheat ends with code 1."""
    path = tmp_path / "kernel.py"
    call = ("bench", "ops", "--solution", str(path), "--ops", "silu", "--rounds", "1", "--json")
    path.write_text("import numpy as np\ndef run(x):\n    return x / (1 + np.exp(-x))\n")
    ran = cli(*call, "--backends", "numpy,torch")
    assert ran.code == 0, ran.err
    found = {(r["kernel"], r["guarded"]) for r in json.loads(ran.out)["results"]}
    assert found == {("numpy/silu:solution", True), ("torch/silu:plain", False)}
    path.write_text("import numpy as np\nY = {}\ndef run(x):\n    return Y.setdefault(x.shape, x / (1 + np.exp(-x)))\n")
    assert cli(*call, "--backends", "numpy").code == 1
    two = cli("bench", "ops", "--solution", str(path), "--ops", "silu,gelu")
    assert (two.code, two.err) == (2, "error: bench ops: --solution is one kernel of one op, got 2 in --ops\n")
