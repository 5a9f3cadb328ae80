"""`tinyllm deploy` as a process of its own, with a fake model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import httpx
import pytest

from tests.server.test_api import TEXT

pytestmark = pytest.mark.slow
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; pip install 'tinyllm[ray]'")


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.scale.fake_deploy", "--served-name", "fake", "--port", "0", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    found = subprocess.Popen(command, **pipes, text=True, env=os.environ | environment)
    try:
        yield found
    finally:
        found.terminate()
        found.communicate()


def test_a_missing_ray_is_told_with_its_extra() -> None:
    code = (
        "import sys; sys.modules['ray'] = None; from tinyllm.cli.main import main; "
        "sys.exit(main(['deploy', '--replicas', '2']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (1, "error: deploy: ray is not installed; pip install 'tinyllm[ray]'\n")


@needs_ray
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--min", "3", "--max", "2"), "deploy: min: expected at most --max, which is 2, got 3"),
        (("--policy", "best"), "policy: expected one of warm, least-loaded, round-robin, got 'best'"),
        (("--replicas", "2", "--cpus-per-replica", "5000"), "2 replicas of 5000 CPUs each do not fit: "),
        (("--address", "127.0.0.1:1"), "deploy: 127.0.0.1:1: the cluster cannot be joined"),
    ],
)
def test_what_cannot_be_deployed_is_told_in_a_line(arguments: tuple[str, ...], message: str) -> None:
    with process(*arguments) as found:
        out, err = found.communicate(timeout=60)
    assert found.returncode in (1, 2) and out == "", out
    assert err.startswith("error: ") and message in err and err.count("\n") == 1, err


@needs_ray
def test_a_model_that_cannot_be_loaded_is_told_in_a_line() -> None:
    with process("--cpus-per-replica", "0.5", FAKE_BROKEN="1") as found:
        _, err = found.communicate(timeout=120)
    assert found.returncode == 1 and err.count("\n") == 1, err
    assert err.startswith("error: deploy: the replicas could not be started: ") and "no such model: nowhere" in err


@needs_ray
def test_serves_until_a_signal_and_leaves_no_process() -> None:
    import psutil

    with process("--replicas", "2", "--cpus-per-replica", "0.5") as found:
        assert found.stdout is not None
        line = found.stdout.readline()
        assert line.endswith(" serves fake with 2 replicas\n"), found.communicate()
        assert httpx.post(f"{line.split()[0]}/v1/completions", json=TEXT, timeout=20).status_code == 200
        children = psutil.Process(found.pid).children(recursive=True)
        assert len(children) > 4
        found.send_signal(signal.SIGINT)
        assert found.wait(60) == 0
        _, left = psutil.wait_procs(children, timeout=10)
        assert left == []
