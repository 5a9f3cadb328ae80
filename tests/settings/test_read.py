"""What files and the environment set: which of them goes before the other, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tinyllm.errors import ConfigError
from tinyllm.settings import read
from tinyllm.settings.known import known_settings
from tinyllm.settings.read import DEFAULT, read_settings


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A working folder, and an environment whose user folder is beside it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "user" / "tinyllm").mkdir(parents=True)
    return tmp_path / "work", {"XDG_CONFIG_HOME": str(tmp_path / "user")}


@pytest.fixture(autouse=True)
def _linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read.sys, "platform", "linux")  # the user's file lies elsewhere on a Mac


def test_sources_are_told(machine: tuple[Path, dict[str, str]]) -> None:
    folder, environ = machine
    (folder / "tinyllm.toml").write_text("max_tokens = 7\nfast = true")
    environ["TINYLLM_MAX_TOKENS"] = "9"
    settings = read_settings(folder, environ)
    assert (settings["max_tokens"].value, settings["max_tokens"].source) == (9, "TINYLLM_MAX_TOKENS")
    assert (settings["fast"].value, settings["fast"].source) == (True, "tinyllm.toml")
    assert settings["model"].source == DEFAULT


def test_tables_in_files_and_variables(machine: tuple[Path, dict[str, str]]) -> None:
    """default < user file < [tool.tinyllm.serve] < [serve] in ./tinyllm.toml < TINYLLM_SERVE_PORT; each setting by
    itself."""
    folder, environ = machine

    def port() -> tuple[Any, str]:
        setting = read_settings(folder, environ)["serve.port"]
        return setting.value, setting.source

    assert port() == (8000, DEFAULT)
    user = folder.parent / "user" / "tinyllm" / "tinyllm.toml"
    user.write_text("[serve]\nport = 1\nmax_running = 11")
    assert port() == (1, str(user))
    (folder / "pyproject.toml").write_text("[tool.tinyllm.serve]\nport = 2")
    assert port() == (2, "pyproject.toml [tool.tinyllm]")
    (folder / "tinyllm.toml").write_text("[batch]\nmax_running = 12\n[serve]\nport = 3")
    assert port() == (3, "tinyllm.toml")
    environ["TINYLLM_SERVE_PORT"] = "4"
    assert port() == (4, "TINYLLM_SERVE_PORT")
    settings = read_settings(folder, environ)
    assert (settings["serve.max_running"].value, settings["batch.max_running"].value) == (11, 12)


@pytest.mark.parametrize(
    ("name", "in_file", "variable", "value"),
    [
        ("serve.cors", '["https://a.example", "b"]', "https://a.example, b,", ["https://a.example", "b"]),
        ("serve.max_body", '"3 MiB"', "3mib", 3 << 20),
        ("serve.max_body", '"2MB"', "2000000", 2_000_000),
        ("serve.max_body", "7", "7", 7),
        ("serve.timeout", "2", "2", 2.0),
        ("cache_size", '"20GB"', "20 gb", 20 * 10**9),
        ("cache_size", "0", "0", 0),
        ("serve.batch_invariant", "true", "yes", True),
        ("serve.log_level", '"debug"', "debug", "debug"),
    ],
)
def test_values_in_files_and_variables(
    machine: tuple[Path, dict[str, str]], name: str, in_file: str, variable: str, value: Any
) -> None:
    """A file and a variable say the same, in the type that the setting has."""
    folder, environ = machine
    (folder / "tinyllm.toml").write_text(f"{name} = {in_file}")
    spec = known_settings()[name]
    in_environ = read_settings(folder.parent, environ | {spec.variable: variable})[name].value
    assert read_settings(folder, environ)[name].value == value == in_environ
    assert type(in_environ) is spec.kind.type


def test_a_wrong_key_is_not_repeated(machine: tuple[Path, dict[str, str]]) -> None:
    folder, environ = machine
    (folder / "tinyllm.toml").write_text("[serve]\napi_key = 123456")
    with pytest.raises(ConfigError, match=r"toml:2: serve.api_key: expected str, got int$"):
        read_settings(folder, environ)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('backend = "numpy"\nfast = = 1', 2, "not valid TOML"),
        ('fast = true\n\nbackand = "numpy"', 3, "unknown setting 'backand'. Did you mean 'backend'"),
        ('model = "x"\nmax_tokens = "many"', 2, "max_tokens: expected int, got 'many'"),
        ("max_tokens = true", 1, "max_tokens: expected int, got True"),
        ("fast = 1", 1, "fast: expected bool, got 1"),
        ("\n\nmax_tokens = -5", 3, "max_tokens: expected an integer of at least 1, got -5"),
        ('fast = true\nmodel = """x\n', 2, "not valid TOML"),
        ('fast = true\n[model]\nname = "x"', 2, "model: expected str, got {'name': 'x'}"),
        ("port = 1\n[serve]\nport = 2", 1, "unknown setting 'port'. Known: "),
        ("fast = true\nserve = 3", 2, "serve: expected a table, got 3"),
        ("[[serve]]\nport = 1", 1, "serve: expected a table, got [{'port': 1}]"),
        ("[serv]\nport = 1", 1, "unknown setting 'serv'. Did you mean 'serve'"),
        ("'serve.port' = 1", 1, "unknown setting 'serve.port'"),
        ("[batch]\nmax_running = 3\n[serve]\nprot = 1", 4, "unknown setting 'serve.prot'. Did you mean 'port'"),
        (
            "[serve]\nmax_running = 0\n[batch]\nmax_running = 3",
            2,
            "serve.max_running: expected an integer of at least 1, got 0",
        ),
        ("cache_size = -1", 1, "cache_size: expected a number of bytes of at least 0, got -1"),
        ('cache_size = "much"', 1, "cache_size: expected bytes, such as 4000000, 4MB or 4MiB, got 'much'"),
        ("[batch]\nport = 1", 2, "unknown setting 'batch.port'. Known: cache_tokens, max_running"),
        ('[serve]\n\nport = "80"', 3, "serve.port: expected int, got '80'"),
        ("serve.port = 70000", 1, "serve.port: expected an integer from 0 to 65535, got 70000"),
        ("[serve]\nmax_waiting = -1", 2, "serve.max_waiting: expected an integer of at least 0, got -1"),
        ("[batch]\ncache_tokens = 63", 2, "batch.cache_tokens: expected an integer of at least 64, got 63"),
        ("[serve]\ntimeout = 0", 2, "serve.timeout: expected a number of at least 0.001, got 0.0"),
        ("[serve]\ndrain = nan", 2, "serve.drain: expected a number of at least 0, got nan"),
        ("[serve]\ndrain = true", 2, "serve.drain: expected float, got True"),
        ('[serve]\nlog_level = "loud"', 2, "serve.log_level: expected one of debug, info, warning, error, got 'loud'"),
        ('[serve]\ncors = "https://a.example"', 2, "serve.cors: expected a list of str, got 'https://a.example'"),
        ('[serve]\ncors = [\n"a",\n1]', 2, "serve.cors: expected a list of str, got ['a', 1]"),
        (
            '[serve]\nmax_body = "4 miles"',
            2,
            "serve.max_body: expected bytes, such as 4000000, 4MB or 4MiB, got '4 miles'",
        ),
        ("[serve]\nmax_body = 0", 2, "serve.max_body: expected a number of bytes of at least 1, got 0"),
        ("[serve]\nmax_body = 1.5", 2, "serve.max_body: expected bytes, as an integer or text such as '4MB', got 1.5"),
    ],
)
def test_malformed_file(machine: tuple[Path, dict[str, str]], text: str, line: int, words: str) -> None:
    """File, line, and what is wrong; the file stays as it was."""
    folder, environ = machine
    path = folder / "tinyllm.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings(folder, environ)
    assert str(caught.value).startswith(f"{path}:{line}: ") and words in str(caught.value)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("tool = 3", 1, "tool: expected a table, got 3"),
        ('[tool]\nother = 1\ntinyllm = "x"', 3, "tool.tinyllm: expected a table, got 'x'"),
        ('[tool.tinyllm-x]\nfast = true\n[tool]\ntinyllm = ""', 4, "tool.tinyllm: expected a table, got ''"),
        (
            "[tool.x]\nbackend = 1\n[tool.tinyllm]\nbackend = 2\n[tool.y]\nbackend = 3",
            4,
            "backend: expected str, got 2",
        ),
        ("[tool.x]\nlist = [\n'backend',\n]\n[tool]\ntinyllm.backend = 2", 6, "backend: expected str, got 2"),
        (
            "[serve]\nport = 0\n[tool.tinyllm.serve]\nport = -1",
            4,
            "serve.port: expected an integer from 0 to 65535, got -1",
        ),
        ("[tool.tinyllm]\nfast = true\nbackend = [\n'backend',\n]", 3, "backend: expected str, got ['backend']"),
    ],
)
def test_malformed_project_file(machine: tuple[Path, dict[str, str]], text: str, line: int, words: str) -> None:
    """The line is that of our own table, whatever stands in the tables of others."""
    folder, environ = machine
    (folder / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings(folder, environ)
    assert str(caught.value) == f"{folder / 'pyproject.toml'}:{line}: {words}"


def test_a_project_file_that_is_not_text(machine: tuple[Path, dict[str, str]]) -> None:
    folder, environ = machine
    (folder / "pyproject.toml").write_bytes(b"\n\xff\xfe")
    with pytest.raises(ConfigError, match=r"pyproject.toml:2: not valid TOML"):
        read_settings(folder, environ)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TINYLLM_FAST", "maybe"),
        ("TINYLLM_MAX_TOKENS", "1.5"),
        ("TINYLLM_MAX_TOKENS", "0"),
        ("TINYLLM_SERVE_PORT", "65536"),
        ("TINYLLM_SERVE_PORT", "tcp://10.0.0.1:80"),
        ("TINYLLM_SERVE_DRAIN", "nan"),
        ("TINYLLM_SERVE_LOG_LEVEL", "loud"),
        ("TINYLLM_SERVE_BATCH_INVARIANT", "2"),
        ("TINYLLM_SERVE_MAX_BODY", "4 MBit"),
        ("TINYLLM_BATCH_CACHE_TOKENS", "63"),
    ],
)
def test_malformed_variable(machine: tuple[Path, dict[str, str]], variable: str, text: str) -> None:
    folder, environ = machine
    with pytest.raises(ConfigError, match=f"{variable}: expected"):
        read_settings(folder, environ | {variable: text})
