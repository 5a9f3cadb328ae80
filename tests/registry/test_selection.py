"""Which backend runs what: who says so, and what is refused."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.registry.fakes import colour, registry
from tinyllm.errors import ConfigError
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import Selection, parse_pins, parse_selection, selected, use_backend
from tinyllm.settings import read
from tinyllm.settings.read import DEFAULT, read_settings

COLOURS = ("red", "blue", "green", "grey", "pink", "white")


def _chosen(folder: Path, environ: dict[str, str], argument: str | None = None) -> str:
    plugins = registry(*(colour(c) for c in COLOURS)).plugins
    asked = Registry(plugins, read_settings(folder, environ))
    return asked.backend_for("softmax", asked.select(argument)).name


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """best < user file < [tool.tinyllm] < ./tinyllm.toml < TINYLLM_BACKEND < use_backend < argument: each added one
    wins."""
    monkeypatch.setattr(read.sys, "platform", "linux")  # the user's file lies elsewhere on a Mac
    folder, environ = tmp_path / "work", {"XDG_CONFIG_HOME": str(tmp_path / "user")}
    (tmp_path / "user" / "tinyllm").mkdir(parents=True)
    folder.mkdir()
    assert _chosen(folder, environ) == "numpy"  # the highest score
    (tmp_path / "user" / "tinyllm" / "tinyllm.toml").write_text('backend = "white"')
    assert _chosen(folder, environ) == "white"
    (folder / "pyproject.toml").write_text('[tool.tinyllm]\nbackend = "pink"')
    assert _chosen(folder, environ) == "pink"
    (folder / "tinyllm.toml").write_text('backend = "grey"')
    assert _chosen(folder, environ) == "grey"
    environ["TINYLLM_BACKEND"] = "green"
    assert _chosen(folder, environ) == "green"
    with use_backend("blue"):
        assert _chosen(folder, environ) == "blue"
        assert _chosen(folder, environ, "red") == "red"
    assert _chosen(folder, environ) == "green"


@pytest.mark.parametrize(
    ("text", "selection"),
    [
        ("torch", Selection("torch")),
        ("torch:cuda", Selection("torch:cuda")),
        (" linear = torch , * = mlx ", Selection("mlx", (("linear", "torch"),))),
        ("sdpa=mlx,linear=torch:cpu", Selection(None, (("linear", "torch:cpu"), ("sdpa", "mlx")))),
    ],
)
def test_selection(text: str, selection: Selection) -> None:
    assert parse_selection(text, DEFAULT) == selection


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "linear=",
        "=torch",
        "torch,mlx",
        "linear=torch,linear=mlx",
        "*=a,*=b",
        "numpy:",
        ":cpu",
        "linear=torch:,*=numpy",
        5,
        None,
    ],
)
def test_malformed_selection(text: Any) -> None:
    with pytest.raises(ConfigError, match=f"argument: backend {re.escape(repr(text))}: expected NAME"):
        parse_selection(text, "argument")


def test_an_entry_of_an_op_goes_before_the_default() -> None:
    chosen = parse_selection("linear=red,*=grey", "x")
    assert [chosen.for_op(op) for op in ("linear", "quantize")] == ["red", "grey"]
    assert parse_selection("linear=red", "x").for_op("quantize") is None


def test_pins() -> None:
    assert parse_pins("mlx/sdpa=scratch, torch/linear = fused", "x") == {
        ("mlx", "sdpa"): "scratch",
        ("torch", "linear"): "fused",
    }
    for text in ("sdpa=scratch", "mlx/sdpa", "mlx/sdpa=", "mlx/sdpa=a=b"):
        with pytest.raises(ConfigError, match="x: kernels: expected BACKEND/OP=KERNEL"):
            parse_pins(text, "x")


def test_use_backend_is_seen_by_its_own_thread_alone() -> None:
    seen: list[Selection | None] = []
    with use_backend("red"):
        thread = threading.Thread(target=lambda: seen.append(selected()))
        thread.start()
        thread.join()
        assert selected() == Selection("red", (), "use_backend")
    assert seen == [None]


def test_use_backend_of_nothing() -> None:
    wrong: Any = None
    with pytest.raises(ConfigError, match="use_backend: backend None: expected NAME"), use_backend(wrong):
        pass


def test_use_backend_nests_and_ends_with_its_block() -> None:
    with use_backend("red"):
        with pytest.raises(RuntimeError), use_backend("blue"):
            raise RuntimeError
        assert selected() == Selection("red", (), "use_backend")
    assert selected() is None
