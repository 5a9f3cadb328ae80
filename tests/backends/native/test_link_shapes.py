"""Runs whose calls have other shapes than a decoder's: as one call where records can say them, else node by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.backends.native.test_link import node_by_node, normed
from tests.catalogue.harness import registry, with_kernels
from tests.graph.tiny import Tensors
from tinyllm.graph.bind import bind
from tinyllm.graph.graph import GraphBuilder
from tinyllm.plugins import Kernel, numpy_dtype
from tinyllm.registry.selection import parse_selection

X = ("T", 2, 8)
"""Rows of two heads of eight numbers."""


def _unknown(g: GraphBuilder, x: Any) -> Any:
    return g.add(g.softmax(normed(g, x)), x)


def _turned(g: GraphBuilder, x: Any, positions: tuple[int | str, ...] = ("T", 1), **more: Any) -> Any:
    x = normed(g, x)
    cos, sin = g.rope_angles(g.input("positions", positions), **({"dims": 8} | more))
    return normed(g, g.rope_rotate(x, cos, sin))


def _part_as_output(g: GraphBuilder, x: Any) -> Any:
    return g.split(normed(g, x), sizes=(3, 5))[1]


def _table(g: GraphBuilder, x: Any) -> Any:
    ids = g.input("ids", ("T", 3))
    return normed(g, g.embedding(ids, g.weight("table", (5, 8))))


def _made_table(g: GraphBuilder, x: Any) -> Any:
    return normed(g, g.embedding(g.input("ids", ("T",)), normed(g, x)))


def _parts(g: GraphBuilder, x: Any) -> Any:
    first, second = g.split_heads(normed(g, x), heads=(1, 3))
    return g.add(g.merge_heads(first), g.merge_heads(g.split(second, sizes=(1, 2), axis=-2)[0]))


def _gates(g: GraphBuilder, x: Any) -> Any:
    """Every op on elements, with attributes that are not their defaults."""
    x = g.scale(normed(g, x), factor=3.0)
    opened = g.mul(g.sigmoid(x), g.silu(g.softcap(x, cap=1.5)))
    gated = g.geglu(g.gelu(x, approximate="tanh"), g.swiglu(opened, x, limit=0.5, alpha=1.7, up_offset=1.0))
    return g.add(g.geglu(gated, x, approximate="none"), g.gelu(x))


def _norms(g: GraphBuilder, x: Any) -> Any:
    weight, bias = g.weight("weight", (8,)), g.weight("bias", (8,))
    both = g.layer_norm(x, weight, bias=bias, eps=1e-3)
    return g.rms_norm(g.layer_norm(both, weight), weight, eps=1e-3, offset=1.0)


def _norms_of_a_part(g: GraphBuilder, x: Any) -> Any:
    return _norms(g, normed(g, g.split_heads(normed(g, x), heads=(2, 3))[1], "of"))


def _number_a_row(g: GraphBuilder, x: Any) -> Any:
    return g.mul(normed(g, x), g.sigmoid(g.linear(x, g.weight("gate", (1, 8)))))


GRAPHS: dict[str, tuple[tuple[int | str, ...], Callable[[GraphBuilder, Any], Any]]] = {
    "an op without a record": (X, _unknown),
    "a norm of each head": (X, lambda g, x: g.add(normed(g, x), x)),
    "norms of heads of a part": (("T", 40), _norms_of_a_part),
    "a norm of one row": ((8,), lambda g, x: g.add(normed(g, x), x)),
    "a norm in four axes": (("T", 2, 3, 8), lambda g, x: g.add(normed(g, x), x)),
    "a product of one row": ((8,), lambda g, x: g.linear(normed(g, x), g.weight("w", (5, 8)))),
    "a product of each head": (X, lambda g, x: g.linear(normed(g, x), g.weight("w", (5, 8)))),
    "a sum with one row": (X, lambda g, x: g.add(normed(g, x), g.weight("row", (8,)))),
    "a sum of rows with one": (X, lambda g, x: g.add(normed(g, x), g.weight("one", (1, 2, 8)))),
    "a gate of one head": (X, lambda g, x: g.swiglu(normed(g, x), g.weight("one", (1, 1, 8)))),
    "gates of heads": (X, _gates),
    "norms of heads": (X, _norms),
    "a number a row": (("T", 8), _number_a_row),
    "a number a head": (X, _number_a_row),
    "a number for all rows": (("T", 8), lambda g, x: g.mul(normed(g, x), g.weight("one", (1, 1)))),
    "a number for rows of two": ((2, 2, 8), lambda g, x: g.mul(normed(g, x), g.weight("one", (2, 1)))),
    "angles": (X, _turned),
    "angles of several positions": (X, lambda g, x: _turned(g, x, ("T", 2))),
    "angles of a row": (("T", 8), lambda g, x: _turned(g, x, ("T",))),
    "angles of one position": (X, lambda g, x: _turned(g, x, (1, 1))),
    "angles of a part of a head": (X, lambda g, x: _turned(g, x, dims=4)),
    "ids of two axes": (X, _table),
    "a table that is made": (("N", 8), _made_table),
    "a part as an output": (("T", 8), _part_as_output),
    "parts": (("T", 16), _parts),
    "rows split": (X, lambda g, x: normed(g, g.split(normed(g, x), sizes=(1, 1), axis=1)[1])),
    "heads of each row": (X, lambda g, x: g.add(*g.split_heads(normed(g, x), heads=(2, 2)))),
    "heads merged in four axes": (("T", 3, 2, 8), lambda g, x: normed(g, g.merge_heads(normed(g, x)), "of")),
    "heads merged to one row": ((2, 8), lambda g, x: normed(g, g.merge_heads(normed(g, x)), "of")),
}
"""Calls of other shapes than a decoder has: the shape of x, and what is made of it."""


@pytest.mark.parametrize("strided", [False, True], ids=["whole", "strided"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", GRAPHS)
def test_other_shapes_give_the_same_bits(name: str, dtype: str, strided: bool) -> None:
    """Whether records say them or not; where they do not, the nodes run one by one."""
    shape, build = GRAPHS[name]
    g = GraphBuilder(registry().specs, dtype)
    graph = g.build(build(g, g.input("x", shape, dtype)))
    rng, sizes = np.random.default_rng(0), {"T": 6, "N": 5}
    inputs = {}
    for key, kind in graph.inputs.items():
        full = tuple(n if isinstance(n, int) else sizes[n] for n in kind.shape)
        ids = kind.dtype == "int32"
        array = (rng.integers(0, 5, full) if ids else rng.standard_normal(full)).astype(numpy_dtype(kind.dtype))
        inputs[key] = np.repeat(array, 2, -1)[..., ::2] if strided else array
    weights = Tensors(graph.tensors())
    chosen = parse_selection("native", "test")
    linked, alone = (bind(graph, asked, chosen, weights) for asked in (registry(), node_by_node()))
    assert len(alone.steps) > 1
    for _ in range(2):
        np.testing.assert_array_equal(linked(inputs, {})[0][0], alone(inputs, {})[0][0])


@pytest.mark.parametrize("backend", ["native", "*"])
def test_a_strangers_kernel_is_called(backend: str) -> None:
    """Also where the library has one for the op: it was chosen, so it runs."""

    def doubled(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(2 * (x + y))

    stranger = Kernel(backend, "add", "doubled", lambda: doubled, priority=99)
    g = GraphBuilder(registry().specs, "float32")
    x = normed(g, g.input("x", ("T", 8), "float32"))
    graph, chosen, given = g.build(g.add(x, x)), parse_selection("native", "test"), {"x": np.ones((3, 8), np.float32)}
    weights = Tensors(graph.tensors())
    plain, strange = (bind(graph, asked, chosen, weights) for asked in (registry(), with_kernels(stranger)))
    assert strange.report.kernels["add"] == f"{backend}/add:doubled"
    np.testing.assert_array_equal(strange(given, {})[0][0], 2 * plain(given, {})[0][0])


def test_what_records_do_not_say_runs_node_by_node() -> None:
    """An op that they lack keeps its run apart; one shape more of an op that they have does too."""

    def steps(name: str) -> list[str]:
        shape, build = GRAPHS[name]
        g = GraphBuilder(registry().specs, "float32")
        graph = g.build(build(g, g.input("x", shape, "float32")))
        bound = bind(graph, registry(), parse_selection("native", "test"), Tensors(graph.tensors()))
        return [one.op for one in bound.steps if one.op != "copy"]

    assert steps("a sum of rows with one") == ["rms_norm", "add"]
    assert steps("a part as an output") == ["rms_norm", "split"]
    assert steps("a number for rows of two") == ["rms_norm", "mul"]
    for name in (
        "angles",
        "a norm of each head",
        "a number a head",
        "norms of heads of a part",
        "gates of heads",
        "norms of heads",
        "a number a row",
    ):
        assert steps(name) == ["run"], name
