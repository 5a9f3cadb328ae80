"""Which backend runs what: who says so, and what is refused."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.registry.fakes import colour, registry
from tinyllm.errors import ConfigError, UnknownNameError
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import Selection, nearest, parse_pins, parse_selection, selected, use_backend
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
        ("b.*=x, a.?=y,add=z,*=w", Selection("w", (("add", "z"),), per_node=(("b.*", "x"), ("a.?", "y")))),
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
        "a.*=x,a.*=y",
        "a.*=",
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


NODE = "model.layers.3.mlp.gate_proj.linear+model.layers.3.mlp.up_proj.linear"


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        ("*=grey", "grey"),
        ("linear=red,*=grey", "red"),
        ("*.mlp.*=blue,linear=red,*=grey", "blue"),
        ("*=grey,linear=red,*.mlp.*=blue", "blue"),
        ("*.mlp.*=blue,model.layers.3.*=green", "green"),
        ("model.layers.3.*=green,*.mlp.*=blue", "blue"),
        ("*.up_proj.linear=green", "green"),
        ("*.gate_proj.linear=green", "green"),
        ("model.layers.[0-4].*=green", "green"),
        ("model.layers.?.mlp.*=green", "green"),
        ("model.layers.1?.*=blue,*=grey", "grey"),
        ("*.down_proj.*=blue,*=grey", "grey"),
        ("*.mlp=blue", None),
    ],
)
def test_of_choices_that_fit_a_node_the_narrower_kind_wins_and_then_the_later(text: str, backend: str | None) -> None:
    """A pattern goes before an op, an op before the default, and of patterns the later one; merged calls go by any of
    their names."""
    assert parse_selection(text, "x").for_node(NODE, "linear") == backend


@given(st.permutations(["*=grey", "linear=red", "add=blue"]), st.sampled_from(["linear", "add", "silu"]))
def test_choices_of_ops_come_in_any_order(parts: list[str], op: str) -> None:
    chosen = parse_selection(",".join(parts), "x")
    assert chosen.for_op(op) == chosen.for_node("a.b", op) == {"linear": "red", "add": "blue"}.get(op, "grey")


def test_the_nearest_names_are_those_that_were_meant() -> None:
    names = [f"model.layers.{n}.{part}" for n in range(30) for part in ("mlp.swiglu", "attn.rope", "add")]
    assert nearest("model.layer.7.*", names, 1) == ["model.layers.7.add"]
    assert nearest("*.mlpp.*", names, 1) == ["model.layers.0.mlp.swiglu"]
    assert nearest("a.*", []) == []


def test_backends_of_patterns_are_looked_at() -> None:
    """An unknown one is an error before any model is there; an op call by itself goes by no pattern."""
    asked = registry(colour("red"))
    with pytest.raises(UnknownNameError, match=r"argument: unknown backend 'rad'\. Did you mean 'red'"):
        asked.select("a.*=rad")
    assert asked.backend_for("softmax", asked.select("*.softmax=red,*=numpy")).name == "numpy"
    assert asked.backend_for("softmax", asked.select("*.softmax=red,*=numpy"), "a.softmax").name == "red"


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
