"""Commands that plugins bring: run as tinyllm's own are, and loaded for nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from tests.registry import fakes
from tinyllm.cli.main import main
from tinyllm.registry import registry
from tinyllm.registry.registry import Registry

Install = Callable[..., Registry]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("greet", "hello", "Ada")`: exit code, stdout and stderr of a command line with the greeter installed."""
    installed = install("greeter")
    monkeypatch.setattr(registry, "default_registry", lambda: installed)

    def running(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        return code, *capsys.readouterr()

    return running


def test_it_runs(run: Run) -> None:
    assert run("greet", "hello", "Ada") == (0, "Hello, Ada.\n", "")


def test_it_has_help_and_no_options_of_the_root(run: Run) -> None:
    code, out, _ = run("greet", "--help")
    assert code == 0 and "Greetings." in out and "hello" in out and "--install-completion" not in out


def test_its_errors_are_one_line(run: Run) -> None:
    assert run("greet", "shout") == (1, "", "error: greet: nobody shouts here\n")


def test_an_unknown_command_stays_unknown(run: Run) -> None:
    code, _, err = run("qqq")
    assert code == 2 and err == "error: No such command 'qqq'.\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lost", "command 'lost': loading 'greeter.nowhere:app' failed: ModuleNotFoundError"),
        ("plain", "command 'plain': load: expected a typer.Typer, got <function hello"),
    ],
)
def test_a_broken_one_says_what_is_wrong(run: Run, name: str, words: str) -> None:
    code, _, err = run(name)
    assert code == 1 and err.startswith(f"error: {words}") and err.count("\n") == 1


def test_a_broken_plugin_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the command that was asked for has the plugin's name."""
    broken = fakes.registry(found=[EntryPoint("torn", "no_such_module_anywhere", "tinyllm")])
    monkeypatch.setattr(registry, "default_registry", lambda: broken)
    assert main(["torn"]) == 1
    assert capsys.readouterr().err.startswith("error: command 'torn': its plugin is broken: ModuleNotFoundError")


def test_doctor_names_them(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 0 and any("tinyllm greet" in row and "commands" in row for row in out.splitlines())


def test_own_commands_load_no_plugin(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither help nor a command of tinyllm's own asks for the registry by itself; a command's module waits longer."""
    found = install("greeter")
    assert "greet" in found.plugins.commands and "greeter.commands" not in sys.modules

    def never() -> Any:
        raise AssertionError("plugins were loaded")

    monkeypatch.setattr(registry, "default_registry", never)
    assert main(["--help"]) == 0 and main(["report", "--help"]) == 0
    with pytest.raises(AssertionError, match="plugins were loaded"):
        main(["--debug", "greet"])
