"""The kernels of aarch64 hold in the conformance kit: cross-compiled, and run by an emulator, call by call."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import registry

pytest.importorskip("tinyllm_native.find")
if not registry().probe("native").available:
    pytest.skip("no native library", allow_module_level=True)

from tinyllm_native import elements, linear, packing, paged_attention, records, recurrent, rope, rows
from tinyllm_native.builder import compiler, levels

from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.checks.values import values
from tinyllm.conformance.collect import trials
from tinyllm.conformance.result import BAD, Outcome
from tinyllm.conformance.run import run

EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
OPS = (
    *("linear", "embedding", "kv_append", "paged_attention", "softmax", "rms_norm", "layer_norm", "rope_rotate"),
    *("add", "mul", "scale", "swiglu", "geglu", "softcap", "sigmoid", "short_conv", "gated_delta"),
)
PROCESSORS = {"portable": "cortex-a53", "neon": "cortex-a76"}
"""By level one that has no more."""


class Far:
    """The library in an emulated process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.calls = process, 0

    def weight_of(self, arrays: Mapping[str, np.ndarray]) -> records.Weight:
        """In place of `records.weight_of`: a weight that knows its arrays."""
        weight = records.weight_of(arrays)
        weight.arrays = [arrays.get(name) for name in records.ARRAYS]
        return weight

    def run(self, op: str, arrays: Sequence[Any], sizes: Sequence[int], numbers: Sequence[float] = ()) -> None:
        """In place of `library.run`. What the call wrote is copied into the arrays."""
        slots = [-1 if array is None else place for place, array in enumerate(arrays)]
        message = [bytes(records.record(op, slots, sizes, numbers)), struct.pack("<i", len(arrays))]
        written = []
        for array in arrays:
            if array is None:
                message.append(struct.pack("<i", -1))
                continue
            is_weight = isinstance(array, records.Weight)
            parts = [np.frombuffer(bytes(array), np.uint8), *array.arrays] if is_weight else [array]
            written += parts[is_weight:]
            message.append(struct.pack("<i", len(parts)))
            for part in parts:
                given = b"" if part is None else np.ascontiguousarray(part).tobytes()
                message += [struct.pack("<q", -1 if part is None else len(given)), given]
        to, back = self.process.stdin, self.process.stdout
        assert to is not None and back is not None
        to.write(b"".join(message))
        to.flush()
        for part in written:
            if part is not None and part.nbytes:
                answer = np.frombuffer(back.read(part.nbytes), part.dtype).reshape(part.shape)
                if part.flags.writeable:
                    part[...] = answer
        self.calls += 1


@pytest.fixture(scope="module", params=list(PROCESSORS))
def far(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """A level of the library, on a processor that has no more."""
    level = request.param
    if EMULATOR is None or compiler.zig(architecture="aarch64") is None:
        pytest.skip("qemu-user or zig is not here: apt install qemu-user-static, pip install ziglang")
    program = tmp_path_factory.mktemp("far") / level
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", "-mcpu=generic"]
    flags = [flag for flag in levels.FLAGS if flag not in ("-fPIC", "-shared")]
    flags += [*compiler.ZIG_LEVELS.get(level, ()), f"-DTINYLLM_LEVEL_{level.upper()}", '-DTINYLLM_SOURCES="far"']
    files = [*sorted(levels.SOURCE.glob("*.c")), Path(__file__).with_name("far_calls.c")]
    subprocess.run([*command, *flags, f"-I{levels.SOURCE}", *map(str, files), "-o", str(program)], check=True)
    process = subprocess.Popen(
        [EMULATOR, "-cpu", PROCESSORS[level], str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        yield Far(process)
        process.kill()


@pytest.mark.parametrize("op", OPS)
def test_kernels_hold_on_aarch64(op: str, far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every smoke case of the op, with every scheme, against the float64 references."""
    for module in (elements, linear, packing, paged_attention, recurrent, rope, rows):
        monkeypatch.setattr(module, "run", far.run)
    for module in (linear, packing):
        monkeypatch.setattr(module, "weight_of", far.weight_of)
    before = far.calls
    plan = Plan("native", ops=(op,), dtypes=("float32", "float16"), kernels=("native", "rounded"))
    checks = [check for trial in trials(registry(), plan) for check in values(trial)]
    results = list(run(registry(), plan, checks))
    assert {r.id: r.message for r in results if r.outcome in BAD} == {}
    passed = sum(r.outcome is Outcome.PASS for r in results)
    assert passed > 3 and far.calls - before >= passed
