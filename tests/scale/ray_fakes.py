"""Replicas of a fake model on a Ray of this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import psutil

from tests.openai.fakes import Program, make_llm
from tests.server.test_api import TEXT
from tinyllm.scale.deploy.replica import Plan
from tinyllm.scale.deploy.run import cluster, deployed
from tinyllm.scale.deploy.scaling import Scaling
from tinyllm.server.run import open_socket
from tinyllm.server.served_model import EngineSettings
from tinyllm.server.settings import MAX_BODIES, MAX_BODY

CPUS = 0.25
"""Of each replica: a fake one needs hardly any."""


def plan(delay: float = 0.0, **sizes: int) -> Plan:
    """A fake model whose steps take a time."""
    app = {"max_body": MAX_BODY, "max_bodies": MAX_BODIES, "receive_timeout": 20.0, "drain": 2.0}
    settings = EngineSettings(**{"pages": 2000, "page_size": 4, "max_running": 16} | sizes)
    return Plan("fake", partial(make_llm, Program(delay=delay)), settings, app=app, log_level="warning")


@contextmanager
def ray_here(most: int) -> Iterator[None]:
    """A Ray of this machine, with room for so many replicas. No process of it is left behind."""
    for who in ("HANDLE", "REPLICA"):  # how often the load is told, in seconds
        os.environ[f"RAY_SERVE_{who}_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "0.5"
    with cluster(None, Scaling(most, cpus=CPUS)):
        yield
    assert eventually(lambda: not ray_processes()), f"processes are left: {ray_processes()}"


@contextmanager
def serving(plan: Plan, scaling: Scaling, policy: str = "warm") -> Iterator[str]:
    """The address at which replicas answer."""
    with open_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
    with deployed(plan, scaling, "127.0.0.1", port, policy, {}):
        yield f"http://127.0.0.1:{port}"
    assert eventually(lambda: not replicas()), "replicas are left"


def ray_processes(of: int | None = None) -> list[str]:
    """Command lines of the processes that a process (None: this one) has started and that belong to Ray."""
    found = []
    for process in psutil.Process(of).children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:  # it has ended meanwhile
            continue
        if "ray" in line and process.status() != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


def replicas() -> list[psutil.Process]:
    """The processes of the replicas that this process has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ServeReplica:tinyllm:Replica"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether something becomes true within a time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.1)
    return False


def reply(url: str, number: int) -> tuple[bool, str, dict[str, Any] | None]:
    """Of a request: whether it was streamed, its text, and the error that its stream ended with."""
    body = TEXT | {"prompt": f"request {number}", "max_tokens": 40, "ignore_eos": True, "stream": number % 2 == 0}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
        response.read() if not body["stream"] else None
        assert response.status_code == 200, response.read()
        if not body["stream"]:
            return False, response.json()["choices"][0]["text"], None
        text = ""
        for line in response.iter_lines():
            event = line.removeprefix("data: ")
            if not event or event == "[DONE]":
                continue
            chunk = json.loads(event)
            if "error" in chunk:
                return True, text, chunk["error"]
            text += chunk["choices"][0]["text"]
    return True, text, None
