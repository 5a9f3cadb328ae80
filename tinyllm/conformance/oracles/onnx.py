"""The oracle `onnx`: ONNX's own node cases, each one run on ops of ours or listed with the reason why it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from tinyllm.conformance.oracles import onnx_attention, onnx_rows, onnx_weights
from tinyllm.conformance.oracles.mapped import Mapped, NotMappedError
from tinyllm.conformance.oracles.onnx_cases import OnnxCase, load

RUN = "run"


class Node(NamedTuple):
    """A type of node: the op of ours it is nearest to, and how its cases become calls, or why none does."""

    op: str
    mapping: Callable[[OnnxCase], list[Mapped]] | str


NODES: dict[str, Node] = {
    "Attention": Node("gqa", onnx_attention.attention),
    "FlexAttention": Node("gqa", onnx_attention.flex_attention),
    "LinearAttention": Node(
        "gqa", "there is no op of linear attention, whose state is a matrix and not a cache of keys"
    ),
    "RotaryEmbedding": Node("rope_rotate", onnx_rows.rotary_embedding),
    "RMSNormalization": Node("rms_norm", onnx_rows.rms_norm),
    "LayerNormalization": Node("layer_norm", onnx_rows.layer_norm),
    "Softmax": Node("softmax", onnx_rows.softmax),
    "Gelu": Node("gelu", onnx_rows.gelu),
    "Swish": Node("silu", onnx_rows.swish),
    "SwiGLU": Node("swiglu", onnx_rows.swiglu),
    "Sigmoid": Node("sigmoid", onnx_rows.sigmoid),
    "Add": Node("add", onnx_rows.add),
    "Mul": Node("mul", onnx_rows.mul),
    "Split": Node("split", onnx_rows.split),
    "MatMul": Node("linear", onnx_weights.matmul),
    "Gemm": Node("linear", onnx_weights.gemm),
    "Gather": Node("embedding", onnx_weights.gather),
    "DequantizeLinear": Node("dequantize", onnx_weights.dequantize),
    "QuantizeLinear": Node("quantize", "quantize finds its scales itself, and these cases give them"),
    "TensorScatter": Node("kv_append", onnx_weights.tensor_scatter),
}
"""The nodes that have to do with our ops; ONNX has some 200 more that have nothing to do with them."""


class Entry(NamedTuple):
    """A case of ONNX's: its type of node, `run` or the reason why not, the ops that run it (else the nearest one)."""

    case: str
    node: str
    how: str
    ops: tuple[str, ...]


@lru_cache(maxsize=1)
def judged() -> tuple[tuple[Entry, tuple[Mapped, ...]], ...]:
    """Every case of every node above, and the calls that it becomes.

    Raises:
        TinyllmError: onnx is not installed.
    """
    return tuple(_judged(case) for case in load(NODES))


def _judged(case: OnnxCase) -> tuple[Entry, tuple[Mapped, ...]]:
    node = NODES[case.node]
    try:
        if isinstance(node.mapping, str):
            raise NotMappedError(node.mapping)
        calls = tuple(node.mapping(case))
    except NotMappedError as error:
        return Entry(case.name, case.node, str(error), (node.op,)), ()
    return Entry(case.name, case.node, RUN, tuple(call.op for call in calls)), calls
