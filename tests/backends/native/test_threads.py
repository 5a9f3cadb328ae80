"""How many threads there are, that their number changes no result, and that a process which forks goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import registry
from tinyllm.errors import InvalidInputError, ThreadsWarning, TinyllmWarning
from tinyllm.plugins import ArrayType, Call, QuantType

pytest.importorskip("tinyllm_native.library")
if not registry().probe("native").available:
    pytest.skip("no native library", allow_module_level=True)

from tinyllm_native import library, threads
from tinyllm_native.elements import add, softcap, swiglu
from tinyllm_native.linear import embedding, linear
from tinyllm_native.packing import pack
from tinyllm_native.paged_attention import paged_attention
from tinyllm_native.rope import rope_angles, rope_rotate
from tinyllm_native.rows import rms_norm, softmax

ROOT = Path(__file__).parents[3]
COUNTS = (5, 2, 1, 3)
"""Numbers of threads: first more than later, so that some have no part in what follows."""


def _asked(monkeypatch: pytest.MonkeyPatch, text: str | None) -> int:
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    if text is not None:
        monkeypatch.setenv(threads.VARIABLE, text)
    return threads.thread_count.__wrapped__()


@pytest.mark.parametrize("text", ["0", "257", "-1", "2.0", "two", " 2", "1e1", "0x2"])
def test_a_number_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        _asked(monkeypatch, text)
    assert str(caught.value) == f"native: TINYLLM_NATIVE_THREADS: expected a number from 1 to 256, got {text!r}"


def test_the_number_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    """Up to the cores without a word; without the variable, or with an empty one, all of them."""
    monkeypatch.setattr(threads, "cores", lambda: 6)
    assert [_asked(monkeypatch, text) for text in ("1", "5", "6", "", None)] == [1, 5, 6, 6, 6]
    assert not recwarn.list


def test_more_than_there_are_cores_are_taken_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 2)
    with pytest.warns(ThreadsWarning) as said:
        assert _asked(monkeypatch, "3") == 3
    (line,) = [str(w.message) for w in said]
    assert line == "TINYLLM_NATIVE_THREADS=3: more threads than the 2 cores that may be used: slower"
    assert issubclass(ThreadsWarning, TinyllmWarning)


def test_commands_say_so_in_one_line() -> None:
    """Both the error and the warning."""
    for text, code, start in (
        ("many", 2, "error: native: TINYLLM_"),
        ("256", 0, "warning: TINYLLM_NATIVE_THREADS=256"),
    ):
        command = [sys.executable, "-m", "tinyllm.cli.main", "check", "native", "--case", "native/add:native[5,f32]"]
        done = _run(command, **{threads.VARIABLE: text})
        assert done.returncode == code and done.stderr.startswith(start), done.stderr
        assert done.stderr.count("\n") == 1


def _run(command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(ROOT), str(ROOT / "backends")))
    given = os.environ | {"PYTHONPATH": path} | environ
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1000 1000000", 1),
        ("max 100000\n", threads.MOST),
        ("max", threads.MOST),
        ("", threads.MOST),
        ("100000", threads.MOST),
        ("100000 0", threads.MOST),
    ],
)
def test_a_quota_is_rounded_up_to_cores(tmp_path: Path, text: str, wanted: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert threads.quota(tmp_path / "cpu.max") == wanted
    assert threads.quota(tmp_path / "other") == threads.MOST


def test_cores_are_those_that_affinity_and_quota_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for given in (3, 8, threads.MOST):
        monkeypatch.setattr(threads, "quota", lambda given=given: given)
        assert threads.cores() == min(given, 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(1000)), raising=False)
    monkeypatch.setattr(threads, "quota", lambda: 500)
    assert threads.cores() == threads.MOST


def _packed(name: str, shape: tuple[int, int], dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    kind: ArrayType | QuantType = ArrayType(shape, dtype)
    weight: Any = rng.standard_normal(shape).astype(np.float32)
    if name:
        weight = registry().plugins.schemes[name].draw(rng, shape)
        kind = weight.type
    return pack(weight, Call("linear", {"x": ArrayType((1, shape[1]), dtype), "weight": kind}, {}))


def _numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def _attention(lengths: tuple[int, ...], new: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    k, v = (rng.standard_normal((24, 2, 16, 32)).astype(np.float32) for _ in range(2))
    table = rng.permutation(24).reshape(2, 12)[: len(lengths)]
    starts = np.cumsum([0, *new])
    return paged_attention(_numbers(sum(new), 6, 32), k, v, starts, np.array(lengths), table)


BITWISE: dict[str, Callable[[], Any]] = {
    "a dense product": lambda: linear(_numbers(7, 300), _packed("", (333, 300)), bias=_numbers(333)),
    "a dense product of a row": lambda: linear(_numbers(1, 300), _packed("", (333, 300))),
    "a product": lambda: linear(_numbers(7, 512), _packed("q4_k", (333, 512))),
    "a product of a row": lambda: linear(_numbers(1, 512), _packed("q8_0", (333, 512))),
    "a product with few rows of weights": lambda: linear(_numbers(3, 512), _packed("q6_k", (5, 512))),
    "a table": lambda: embedding(np.arange(40) % 33, _packed("q5_1", (33, 512))),
    "packing": lambda: _packed("q3_k", (333, 512)),
    "a sum": lambda: add(_numbers(67, 512), _numbers(512)),
    "a gate": lambda: swiglu(_numbers(67, 512), _numbers(67, 512)),
    "a cap of one row": lambda: softcap(_numbers(1, 40009), cap=2.0),
    "a norm": lambda: rms_norm(_numbers(67, 512), _numbers(512)),
    "weights": lambda: softmax(_numbers(67, 512)),
    "turns": lambda: rope_rotate(_numbers(67, 8, 64), *rope_angles(np.arange(67)[:, None], dims=64)),
}
ROUNDED: dict[str, Callable[[], Any]] = {
    "decode": lambda: _attention((190, 7), (1, 1)),
    "prefill": lambda: _attention((150, 99), (150, 40)),
    "one": lambda: _attention((192,), (1,)),
}
"""Attention adds the parts of its keys, whose number depends on that of the threads."""


@pytest.mark.parametrize("name", [*BITWISE, *ROUNDED])
def test_their_number_changes_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Bits stay where each output is made by one thread; the same number of threads always gives the same bits."""
    call = {**BITWISE, **ROUNDED}[name]
    given = []
    for count in COUNTS:
        monkeypatch.setattr(library, "thread_count", lambda count=count: count)
        twice = [call(), call()]
        given += [{"": one} if isinstance(one, np.ndarray) else one for one in twice]
        for key in given[-1]:
            np.testing.assert_array_equal(given[-1][key], given[-2][key])
    for other in given[1:]:
        for key, array in given[0].items():
            if name in BITWISE:
                np.testing.assert_array_equal(other[key], array)
            else:
                np.testing.assert_allclose(other[key], array, rtol=1e-5, atol=1e-6)


FORKS = """
import os, signal, threading, time
import numpy as np
from tests.backends.native.test_threads import _packed
from tests.graph.test_program import IDS, logits, program
from tinyllm_native.linear import linear

bound, packed, x = program("native"), _packed("q4_1", (4096, 512)), np.ones((6, 512), np.float32)
wanted, product = logits(bound, IDS, [4]), linear(x, packed)
going, busy = threading.Event(), [0]


def right():
    return (logits(bound, IDS, [4]) == wanted).all() and (linear(x, packed) == product).all()


def work():
    while not going.is_set():
        assert right()
        busy[0] += 1


working = [threading.Thread(target=work) for _ in range(2 if BUSY else 0)]
for thread in working:
    thread.start()
for number in range(30):
    before = busy[0]
    child = os.fork()
    if not child:
        signal.alarm(20)
        os._exit(0 if right() and right() else 3)
    assert os.waitpid(child, 0)[1] == 0, number
    if not working:
        assert right()
    deadline = time.monotonic() + 20
    while working and busy[0] == before:
        assert time.monotonic() < deadline, "the parent does not go on"
        time.sleep(0.001)
going.set()
for thread in working:
    thread.join(20)
    assert not thread.is_alive()
print("done", flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "busy"])
def test_a_child_computes_and_its_parent_goes_on(busy: bool) -> None:
    """Also where other threads are in the middle of a step, whose locks and memory the child has as they are."""
    code = f"BUSY = {busy}\n{FORKS}"
    done = _run([sys.executable, "-W", "ignore", "-c", code], **{threads.VARIABLE: "3"})
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
