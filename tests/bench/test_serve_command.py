"""`tinyllm bench serve` as it is typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.conftest import Cli
from tests.bench.openai_server import Manners, serving

QUICK = ("bench", "serve", "--requests", "3", "--prompt-tokens", "5", "-n", "4")


def test_json_plot_and_exit_code(cli: Cli, tmp_path: Path) -> None:
    """One object on stdout, a picture in its file."""
    pytest.importorskip("matplotlib")
    with serving(Manners(tokens=3)) as url:
        ran = cli(*QUICK, "--url", url, "--rate", "500", "--seed", "7", "--json", "--plot", str(tmp_path / "load.png"))
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert (found["load"]["rate"], found["load"]["concurrency"], found["load"]["seed"]) == (500.0, None, 7)
    assert found["target"]["model"] == "first" and found["summary"]["completion_tokens"] == 9
    assert (tmp_path / "load.png").read_bytes()[:4] == b"\x89PNG"


def test_a_table_through_a_pipe(cli: Cli) -> None:
    """Tabs; the load is one at a time where nothing is said."""
    with serving(Manners(faults={2: 503})) as url:
        ran = cli(*QUICK, "--url", url)
    table = [line.split("\t") for line in ran.out.splitlines()]
    assert ran.code == 0 and table[0] == ["MS", "P50", "P90", "P99", "MEAN", "MAX"]
    assert [cells[0] for cells in table[1:5]] == [
        "time to first token",
        "time per output token",
        "between chunks",
        "end to end",
    ]
    assert "2 of 3 requests succeeded" in ran.out and "error 503: 1 times: too many requests" in ran.out
    assert "3 requests, 1 at a time" in ran.err


def test_nothing_succeeded_is_a_failure(cli: Cli) -> None:
    with serving(Manners(faults=dict.fromkeys(range(1, 9), 500))) as url:
        ran = cli(*QUICK, "--url", url, "--endpoint", "completions")
    assert ran.code == 1 and "0 of 3 requests succeeded" in ran.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "1", "--concurrency", "2"], "bench serve: expected a rate or a concurrency, got both"),
        (["--rate", "-1"], "rate: expected None or a finite number above 0, got -1.0"),
        (["--url", "host"], "--url: expected an address such as http://127.0.0.1:8000, got 'host'"),
        (["--endpoint", "x"], "--endpoint: expected chat or completions, got 'x'"),
        (["--extra", "{"], "--extra: expected a JSON object, got no JSON"),
        (["--extra", "[]"], "--extra: expected a JSON object, got []"),
        (["--plot", "x.gif"], "bench serve: --plot: expected a file that ends in .png or .svg, got x.gif"),
        (["--api-key", "schlüssel"], "--api-key: expected ASCII"),
    ],
)
def test_wrong_calls(cli: Cli, options: list[str], message: str) -> None:
    """One line, before anything is sent."""
    ran = cli(*QUICK, *options)
    assert ran.code == 2 and ran.err.count("\n") == 1 and message in ran.err


def test_no_server_there(cli: Cli) -> None:
    ran = cli(*QUICK, "--url", "http://127.0.0.1:9")
    assert ran.code == 1 and ran.err.startswith("error: http://127.0.0.1:9/v1: cannot be reached")


@pytest.mark.slow
def test_ctrl_c_shows_what_was_measured() -> None:
    """The table of the requests that were done, how many they are, and exit code 130."""
    manners = Manners(gap=0.02)
    with serving(manners) as url:
        command = [sys.executable, "-m", "tinyllm.cli.main", *QUICK, "--requests", "1000", "--url", url, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 30
        while len(manners.bodies) < 6:
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    found = json.loads(out)
    assert process.returncode == 130 and "Traceback" not in err and err.endswith("interrupted\n")
    done = len(found["requests"])
    assert 1 <= done < 1000 and found["summary"]["succeeded"] == done and found["target"]["model"] == "first"
    assert found["notes"] == [f"broken off when {done} of 1000 requests were done; those that ran then are left out"]
