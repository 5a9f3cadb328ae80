"""Every level that was compiled and that this processor has holds in the conformance kit; the highest is the one that
all other tests run on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.catalogue.harness import registry

pytest.importorskip("tinyllm_native.find")
if not registry().probe("native").available:
    pytest.skip("no native library", allow_module_level=True)

from tinyllm_native.builder.levels import levels, machine
from tinyllm_native.find import VARIABLE, find_library

ROOT = Path(__file__).parents[3]
EVERY = list(levels(machine()))
OPS = (
    *("linear", "embedding", "kv_append", "paged_attention", "softmax", "rms_norm", "layer_norm", "rope_rotate"),
    *("swiglu", "geglu", "softcap", "sigmoid", "mul", "short_conv", "gated_delta"),
)
"""Ops whose C differs from level to level."""
KERNELS = ("native", "rounded")


@pytest.mark.parametrize("level", EVERY)
def test_a_level_holds(level: str) -> None:
    """Its kernels, in a process that is told to use it."""
    found = find_library()
    if level not in found.levels or EVERY.index(level) > EVERY.index(found.runs):
        pytest.skip(f"{level}: not compiled, or not of this processor")
    if level == found.level:
        pytest.skip(f"{level}: what all other tests run on")
    command = [sys.executable, "-m", "tinyllm.cli.main", "check", "native", "--tier", "smoke", "--json"]
    command += [word for op in OPS for word in ("--op", op)] + [word for name in KERNELS for word in ("--kernel", name)]
    path = os.pathsep.join((str(ROOT), str(ROOT / "backends")))
    environ = os.environ | {"PYTHONPATH": path, VARIABLE: level}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    bad = {r["id"]: r.get("message") for r in report["results"] if r["outcome"] not in ("pass", "unsupported")}
    assert not bad and done.returncode == 0
    passed = {r["op"] for r in report["results"] if r["outcome"] == "pass" and r["kernel"] in KERNELS}
    assert passed == set(OPS)
    assert report["versions"]["level"] == level
