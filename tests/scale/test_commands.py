"""`tinyllm route` and `tinyllm simulate` on the command line, and the files that go with them."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Cli, cli
from tests.openai.fakes import Program, make_llm
from tests.server.fakes import serving
from tinyllm.scale.simulate.measure import measure
from tinyllm.scale.simulate.step_times import StepTimes
from tinyllm.scale.simulate.trace import made_up, read_trace, write_trace

__all__ = ["cli"]
ROOT = Path(__file__).parents[2]
TIMES = StepTimes((0, 512), (0, 1), ((0.0, 0.01), (0.1, 0.11)))


@contextmanager
def router(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from tinyllm.cli.main import main; raise SystemExit(main())", "route"]
    found = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield found
    finally:
        found.kill()
        found.communicate()


@pytest.mark.slow
def test_a_router_as_a_process_of_its_own() -> None:
    with serving() as server, router(server.url, "--port", "0") as found:
        assert found.stdout is not None
        line = found.stdout.readline()
        assert "routes to 1 replicas, warm" in line
        assert httpx.get(f"{line.split()[0]}/v1/models").json()["data"][0]["id"] == "fake"
        found.send_signal(signal.SIGTERM)
        assert found.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "route: url: expected at least one address of a server, such as http://a:8000, got none"),
        (["nowhere"], "route: url: expected an address such as http://a:8000, got 'nowhere'"),
        (["http://a", "--policy", "hot"], "route: policy: expected one of warm, least-loaded, round-robin, got 'hot'"),
        (["http://a", "--api-key", " "], "route: api-key: expected some text, got none"),
        (["http://a", "--allowed-host", "http://b"], "route: allowed-host: expected a name without scheme or port"),
    ],
)
def test_routes_that_cannot_be(cli: Cli, arguments: list[str], told: str) -> None:
    found = cli("route", *arguments)
    assert found.code == 2 and found.err.startswith(f"error: {told}") and found.err.count("\n") == 1


def test_a_port_that_is_taken(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = cli("route", "http://a", "--port", str(port))
    assert found.code == 2 and f"error: route: 127.0.0.1:{port}: expected an address that is free" in found.err


def test_policies_are_compared(cli: Cli, tmp_path: Path) -> None:
    times, saved = tmp_path / "times.json", tmp_path / "trace.jsonl"
    TIMES.write(times)
    made = ("--requests", "40", "--rate", "5", "--policy", "warm,round-robin", "--save-trace", str(saved))
    runs = json.loads(cli("simulate", "--times", str(times), *made, "--json").out)["runs"]
    assert [run["policy"] for run in runs] == ["warm", "round-robin"] and runs[0]["hit_rate"] > runs[1]["hit_rate"]
    assert json.loads(cli("simulate", "--times", str(times), "--trace", str(saved), "--json").out)["runs"] == runs
    table = cli("simulate", "--times", str(times), "--trace", str(saved)).out.splitlines()
    assert table[0].startswith("POLICY\tTOK/S") and [row.split("\t")[0] for row in table[1:]] == ["warm", "round-robin"]


LINE = '{"timestamp": 1, "input_length": 513, "output_length": 2, "hash_ids": [1, 2]}'


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("no JSON", "expected a JSON object, got 'no JSON'"),
        ("[1]", "expected a JSON object, got [1]"),
        (LINE.replace("513", "0"), "input_length: expected an integer from 1 to 2147483647, got 0"),
        (LINE.replace("2,", "2.5,", 1), "output_length: expected an integer from 1 to 2147483647, got 2.5"),
        (LINE.replace("1,", "NaN,", 1), "timestamp: expected a number from 0 to 8796093022208, got nan"),
        (LINE.replace("1,", "1e300,", 1), "timestamp: expected a number from 0 to"),
        (LINE.replace("2,", f"{10**400},", 1), "output_length: expected an integer from 1 to"),
        ("[" * 100_000, "expected a JSON object, got '[["),
        ("\udcff", "expected a JSON object, got '\ufffd'"),
        (LINE.replace(", 2]", "]"), "hash_ids: expected 2 integers from 0 to 2147483647, one for each 512 tokens"),
        (LINE.replace(", 2]", ", -2]"), "hash_ids: expected 2 integers"),
    ],
)
def test_a_line_that_is_no_request_is_named(cli: Cli, tmp_path: Path, line: str, told: str) -> None:
    times, trace = tmp_path / "times.json", tmp_path / "trace.jsonl"
    TIMES.write(times)
    trace.write_bytes(f"{LINE}\n\n{line}\n".encode(errors="surrogateescape"))
    found = cli("simulate", "--times", str(times), "--trace", str(trace))
    assert found.code == 2 and found.err.startswith(f"error: simulate: {trace}:3: {told}")


def test_what_cannot_be_simulated(cli: Cli, tmp_path: Path) -> None:
    times, other = tmp_path / "times.json", tmp_path / "other.json"
    TIMES.write(times)
    other.write_text("{}")
    for arguments, told in {
        ("--replicas", "0"): "simulate: replicas: expected an integer of at least 1, got 0",
        ("--policy", "hot"): "simulate: policy: expected one of warm, least-loaded, round-robin, got 'hot'",
        ("--trace", "nowhere.jsonl"): "simulate: nowhere.jsonl: cannot be read: No such file",
        ("--trace", str(tmp_path)): f"simulate: {tmp_path}: cannot be read",
        ("--times", "nowhere.json"): "simulate: nowhere.json: no table of step times: No such file",
        ("--times", str(other)): f"simulate: {other}: expected format 'tinyllm step times' of version 1",
        ("--cache-tokens", "64"): "simulate: cache-tokens: expected at least the",
        ("--trace", "x", "--seed", "0", "--rate", "2"): "simulate: trace: expected no option beside it that makes up "
        "requests, got --rate, --seed",
        ("--measure", "x", "--replicas", "2"): "simulate: measure: expected no option beside it that runs requests, "
        "got --replicas",
    }.items():
        found = cli("simulate", "--times", str(times), *arguments)
        assert found.code == 2 and found.err.startswith(f"error: {told}"), (arguments, found.err)


def test_a_table_is_measured_and_kept(tmp_path: Path) -> None:
    table = measure(make_llm(), (0, 8), (0, 1, 2), 16)
    assert table.seconds[0][0] == 0 and all(value > 0 for row in table.seconds for value in row[1:])
    table.write(tmp_path / "new" / "times.json")
    assert StepTimes.read(tmp_path / "new" / "times.json") == table
    assert TIMES.nanoseconds(256, 0) == 50_000_000 and TIMES.nanoseconds(0, 3) == 30_000_000


def test_steps_are_timed_that_hold_what_the_table_says() -> None:
    """And none in which some of those that are to decode still read their prompts: the clock counts tokens."""
    program = Program()
    table = measure(make_llm(program), (0, 8, 40), (0, 1, 16), 128, clock=lambda: float(sum(program.sizes)))
    assert table.seconds == tuple(tuple(float(p + d) for d in table.decoding) for p in table.prompt_tokens)


def test_requests_are_written_as_they_are_read(tmp_path: Path) -> None:
    made = list(made_up(30, 5.0, 3, 600, 100, 10, seed=4))
    write_trace(tmp_path / "trace.jsonl", made)
    assert read_trace(tmp_path / "trace.jsonl") == made == list(made_up(30, 5.0, 3, 600, 100, 10, seed=4))
    assert all(a.at <= b.at for a, b in pairwise(made))


def test_the_image_builds_what_it_runs() -> None:
    """As far as can be seen without building it: stages, what is copied, no root, no package lists left, a command that
    there is."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "examples" / "Dockerfile").read_text())
    lines = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    words = [word for word, _ in lines]
    assert words[0] == words[words.index("FROM", 1)] == "FROM" and set(words) <= {
        *("FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "EXPOSE", "ENTRYPOINT", "CMD")
    }
    images = [rest.split(" AS ") for word, rest in lines if word == "FROM"]
    assert all(re.fullmatch(r"[\w/.-]+:[\w.-]+", image) and image.split(":")[1] != "latest" for image, *_ in images)
    stages = {name for _, *names in images for name in names}
    assert {*re.findall(r"--from=(\w+)", text)} <= stages
    assert "USER" in words[len(words) - words[::-1].index("FROM") :] and "USER root" not in text
    for rest in (rest for word, rest in lines if word == "RUN" and "apt-get install" in rest):
        assert all(
            part in rest for part in ("apt-get update", "--yes", "--no-install-recommends", "/var/lib/apt/lists")
        )
    entry, command = (json.loads(rest) for word, rest in lines if word in ("ENTRYPOINT", "CMD"))
    assert _help(*entry[1:], *command)


def test_the_pods_run_commands_that_there_are() -> None:
    """With options that there are, on ports that services and probes name, longer to end than replies have."""
    yaml = pytest.importorskip("yaml")
    found = {
        (part["kind"], part["metadata"]["name"]): part["spec"]
        for file in sorted((ROOT / "examples" / "kubernetes").glob("*.yaml"))
        for part in yaml.safe_load_all(file.read_text())
    }
    names = {name for kind, name in found if kind == "Service"}
    assert names == {name for kind, name in found if kind != "Service"} == {"tinyllm", "tinyllm-route"}
    for (kind, name), spec in found.items():
        if kind == "Service":
            continue
        pod, service = spec["template"]["spec"], found["Service", name]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels == service["selector"]
        (container,) = pod["containers"]
        ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
        args = container["args"]
        assert _help(*args) and args[args.index("--port") + 1] == ports["http"]
        assert service["ports"][0].get("targetPort", service["ports"][0]["port"]) in ("http", int(ports["http"]))
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] == "http"
            assert container[probe]["httpGet"]["path"] in ("/ready", "/health")
        assert pod["terminationGracePeriodSeconds"] > float(args[args.index("--drain") + 1])
    route = found["Deployment", "tinyllm-route"]["template"]["spec"]["containers"][0]["args"]
    replicas = [f"http://tinyllm-{n}.tinyllm:8000" for n in range(found["StatefulSet", "tinyllm"]["replicas"])]
    assert [word for word in route if word.startswith("http")] == replicas


def _help(name: str, *arguments: str) -> bool:
    """Whether a command has all the options that it is given."""
    from tinyllm.cli.app import command

    known = {option for parameter in command().commands[name].params for option in parameter.opts}
    return {word for word in arguments if word.startswith("--")} <= known
