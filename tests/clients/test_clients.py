"""The scripts of those clients that are installed here (`openai`), against SmolLM2 over a real socket; the others run
by `make clients`, lm-evaluation-harness in a test of its own, too. And what tells of them: a script's lines, the
runner's verdict, the page of the documentation."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.clients.checks import API_KEY, Check, main, passes
from tests.clients.installed import CLIENTS, Client, Installed, NodeClient, PythonClient
from tests.clients.run import outcome, read
from tests.server.fakes import serving
from tinyllm import load
from tinyllm.server.served_model import ServedModel

FOLDER = Path(__file__).parent
PAGE = (FOLDER.parents[1] / "docs" / "clients.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `(\S+?)`.*?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def installed_checks() -> Iterator[tuple[str, Check]]:
    """(name, check) of each script whose client is installed."""
    installed = {distribution.name for distribution in distributions()}
    for client in CLIENTS:
        if isinstance(client, PythonClient) and client.distribution in installed and not client.wants_checkpoint:
            script = import_module(f"tests.clients.{client.name}")
            yield from ((f"{client.name}.{check.__name__}", check) for check in script.CHECKS)


@pytest.fixture(scope="module")
def base_url(smollm2_path: Path) -> Iterator[str]:
    model = ServedModel("smollm2", lambda: load(smollm2_path))
    with serving(model, load_seconds=120, api_key=API_KEY) as live:
        yield f"{live.url}/v1"
        assert live.settled()


CHECKS = dict(installed_checks())


@pytest.mark.parametrize("name", CHECKS)
def test_what_the_clients_of_users_do_first(name: str, base_url: str) -> None:
    CHECKS[name](base_url, "smollm2")


def good(base_url: str, model: str) -> None:
    pass


def bad(base_url: str, model: str) -> None:
    raise ValueError("two\nlines")


def test_a_check_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert passes(good, "", "") and not passes(bad, "", "")
    assert capsys.readouterr().out == "ok: good\nfailed: bad: ValueError: two lines\n"


@pytest.mark.parametrize("checks", [(good,), (bad,), (good, bad), (bad, good)])
def test_a_script_ends_with_1_where_a_check_failed(
    checks: tuple[Check, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises(SystemExit) as ended:
        main(checks)
    assert ended.value.code == int(bad in checks)
    assert len(capsys.readouterr().out.splitlines()) == len(checks), "all run, whatever becomes of one"


@pytest.mark.parametrize(
    ("printed", "code", "passed", "failed"),
    [
        ("ok: a\na line of the client's own\nok: b\n", 0, ["a", "b"], []),
        ("ok: a\nfailed: b: no\n", 1, ["a"], ["b: no"]),
        ("ok: a\n", 1, ["a"], ["ended with 1 after 1 checks"]),
        ("", 1, [], ["ended with 1 after 0 checks"]),
        ("", 0, [], ["ran no check"]),
    ],
)
def test_a_client_is_good_if_all_its_checks_ran_and_passed(
    printed: str, code: int, passed: list[str], failed: list[str]
) -> None:
    found = read(CLIENTS[0], "1", printed, code)
    assert (found.passed, found.failed) == (passed, failed)
    assert found.good == (not failed)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_script_gets_what_it_asks_for(
    client: Client, smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server, and the file that is served where its command line has that."""
    asks = isinstance(client, PythonClient) and "--checkpoint" in (FOLDER / f"{client.name}.py").read_text("utf-8")
    telling = [sys.executable, "-c", "import sys; print('ok:', *sys.argv[1:])"]
    monkeypatch.setattr(type(client), "install", lambda *_: Installed("1", telling))
    (given,) = outcome(client, tmp_path, "http://here/v1", upgrade=False).passed
    file = f" --checkpoint {smollm2_path}" if asks else ""
    assert given == f"--base-url http://here/v1 --model smollm2{file}"


def test_every_client_has_a_section() -> None:
    assert [*SECTIONS] == [client.package.partition("[")[0] for client in CLIENTS]
    for client in CLIENTS:
        assert client.package in SECTIONS[client.package.partition("[")[0]]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_what_the_page_shows_is_what_the_script_runs(client: PythonClient | NodeClient) -> None:
    """Every statement of Python stands in the script, or its value does; texts stand in it as they are."""
    section = SECTIONS[client.package.partition("[")[0]]
    blocks = [found for found in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.M | re.S) if found[0] != "sh"]
    path = FOLDER / (f"{client.name}.py" if isinstance(client, PythonClient) else f"{client.name}/main.js")
    script = path.read_text(encoding="utf-8")
    assert blocks
    for language, block in blocks:
        if language == "python":
            missing = [told for told in statements(block) if told not in statements(script)]
        else:
            missing = [line for line in block.splitlines() if line.strip() not in script]
        assert not missing, f"{path.name} does not run: {missing}"


def statements(code: str) -> set[str]:
    """Its statements: an assignment or a return by its value alone, an import by each of its names."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            found |= {f"from {node.module} import {alias.name}" for alias in node.names}
        elif isinstance(node, ast.stmt):
            found.add(ast.unparse(getattr(node, "value", None) or node))
    return found
