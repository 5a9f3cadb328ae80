"""A server one of whose processes died: it says so, answers who waits, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from starlette.testclient import TestClient

from tests.parallel.folders import talking_llama
from tinyllm.llm import load
from tinyllm.server.app import make_app
from tinyllm.server.served_model import ServedModel

LONG = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 200, "ignore_eos": True}
GONE = "the model is gone (tensor_parallel: process 1 of 2 ended by SIGKILL: load the model again)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[ServedModel, TestClient]]:
    """A model of two processes behind a server that any host may run; the end of its processes is waited for."""
    model = ServedModel("tiny", lambda: load(folder, "native", tensor_parallel=2))
    with TestClient(make_app(model, drain=1.0), raise_server_exceptions=False) as client:
        assert model.thread.wait(30)
        others = ranks()
        assert others and client.get("/health").status_code == client.get("/ready").status_code == 200
        yield model, client
    assert psutil.wait_procs(others, timeout=10)[1] == []


def ranks(pid: int | None = None) -> list[psutil.Process]:
    """The other processes of one that has a model."""
    return [p for p in psutil.Process(pid).children() if "rank_process" in " ".join(p.cmdline())]


def until(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether a condition holds within a time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


def test_running_requests_fail_and_health_says_why(served: tuple[ServedModel, TestClient]) -> None:
    model, client = served
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(client.post, "/v1/completions", json=LONG) for _ in range(3)]
        assert until(lambda: model.thread.stats().running)
        ranks()[0].kill()
        answers = [request.result(10) for request in running]
    answers.append(client.post("/v1/completions", json=LONG))
    answers += [client.get("/health"), client.get("/ready")]
    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(503, "stopped")] * 6
    assert all(a.json()["error"]["message"].startswith(GONE) for a in answers)


def test_health_is_bad_before_anybody_asks_for_a_reply(served: tuple[ServedModel, TestClient]) -> None:
    model, client = served
    ranks()[0].kill()
    assert until(lambda: client.get("/health").status_code == 503)
    assert client.get("/health").json()["error"]["message"].startswith(GONE)
    assert client.get("/ready").status_code == 503 and not model.ready


def test_the_command_ends_with_the_cause(folder: Path) -> None:
    arguments = ("--model", str(folder), "--backend", "native", "--tensor-parallel", "2", "--port", "0")
    command = [sys.executable, "-m", "tinyllm.cli.main", "serve", *arguments]
    serve = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert serve.stdout is not None and " serves " in serve.stdout.readline()
    (other,) = ranks(serve.pid)
    other.kill()
    _, told = serve.communicate(timeout=20)
    assert serve.returncode == 1
    assert told.splitlines()[-1] == "error: tensor_parallel: process 1 of 2 ended by SIGKILL: load the model again"
    assert not psutil.pid_exists(other.pid)
