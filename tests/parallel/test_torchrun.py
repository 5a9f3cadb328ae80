"""One model over processes that a launcher started: the first is the user's, and the others follow."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.parallel.folders import talking_llama
from tinyllm.llm import load

torch = pytest.importorskip("torch")

CLI = ("-m", "tinyllm.cli.main")
TWO = ("--tensor-parallel", "2")
COUNT = ("--raw", "-n", "12", "abc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_llama(tmp_path_factory.mktemp("llama"))


def launched(*arguments: str, number: int = 2) -> list[subprocess.Popen[str]]:
    """Processes with the variables that a launcher sets."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, *arguments]
    return [
        subprocess.Popen(command, env=os.environ | place | {"RANK": str(rank)}, text=True, **pipes)
        for rank in range(number)
    ]


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """How each ended: its status, and what it said."""
    said = [process.communicate(timeout=60) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def test_torchrun_starts_one_model(folder: Path) -> None:
    """The first process answers, and the other says nothing."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *CLI]
    command += ["generate", "--model", str(folder), "--backend", "torch", *TWO, *COUNT]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"OMP_NUM_THREADS": "1"})
    one = load(folder, "torch").generate("abc", raw=True, max_tokens=12)
    assert (ran.returncode, ran.stdout) == (0, f"{one.text}\n"), ran.stderr
    assert ran.stderr.count("\n") == 1 and ran.stderr.startswith("prompt 3 tokens, ")


def test_a_number_that_is_not_the_launchers_is_told_once(folder: Path) -> None:
    options = ("generate", "--model", str(folder), "-b", "native", "--tensor-parallel", "3")
    first, other = ends(launched(*CLI, *options, *COUNT))
    message = "error: load: tensor_parallel: expected 2, as WORLD_SIZE says, got 3\n"
    assert first == (2, "", message) and other == (0, "", "")


def test_one_that_dies_ends_all(folder: Path) -> None:
    """A program of one's own: `load` does not return in the others."""
    code = (
        f"from tinyllm.llm import load; llm = load({str(folder)!r}, 'native', tensor_parallel=2)\n"
        "print('loaded', flush=True)\n"
        "while True: llm.logits([3, 4, 5])"
    )
    processes = launched("-c", code)
    assert processes[0].stdout is not None and processes[0].stdout.readline() == "loaded\n"
    processes[1].kill()
    (status, _, err), (_, out, _) = ends(processes)
    assert (status, out) == (1, "")
    seen_in_memory, seen_by_gloo = "process 1 of 2 ended: all have to be started again", "another process ended"
    assert "ModelGoneError: " in err and (seen_in_memory in err or seen_by_gloo in err)  # whoever is the first


@pytest.mark.parametrize("option", ["--tensor-parallel", "--pipeline-parallel"])
def test_a_signal_lets_running_replies_end(option: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes to all processes."""
    monkeypatch.setenv("TINYLLM_PIPELINE_TOKEN", "a text that nobody guesses")
    options = ("serve", "--model", str(folder), "--served-name", "tiny", "-b", "native", "--port", "0", option, "2")
    first, other = processes = launched(*CLI, *options)
    assert first.stdout is not None
    url = first.stdout.readline().split()[0]
    body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 240, "n": 16, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=20)
        while not httpx.get(f"{url}/status").json()["running"] and not reply.done():
            time.sleep(0.001)
        other.send_signal(signal.SIGSTOP)  # so that the reply is not done before
        for process in processes:
            process.send_signal(signal.SIGTERM)
        other.send_signal(signal.SIGCONT)
        assert reply.result().status_code == 200, reply.result().text
    (code, _, err), of_other = ends(processes)
    assert code == 0, err
    assert of_other == (0, "", "")
