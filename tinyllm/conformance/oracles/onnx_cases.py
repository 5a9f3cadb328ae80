"""ONNX's own node cases, as its wheel makes them: the arguments of a node by the names of ONNX's schema, and its
outputs."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllm.errors import TinyllmError

CASES = "onnx.backend.test.case.node"
EXPANDED = "_expanded"
"""In the names of cases that are another one again, its node replaced by the nodes that define it."""


@dataclass(frozen=True)
class OnnxCase:
    """A node, what goes in and what comes out; absent arguments are left out. Graphs among the attributes are ONNX's
    own objects."""

    name: str
    node: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    attributes: Mapping[str, Any]

    def word(self, name: str, default: str) -> str:
        """An attribute that is a word."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)


def load(nodes: Collection[str]) -> list[OnnxCase]:
    """The cases of these node types. The wheel makes them anew each time, from the same seed.

    Raises:
        TinyllmError: onnx is not installed, or keeps its cases elsewhere.
    """
    try:
        onnx = importlib.import_module("onnx")
        package = importlib.import_module(CASES)
    except ImportError as error:
        raise TinyllmError(f"--oracle onnx needs the onnx package ({error}); pip install 'tinyllm[onnx]'") from error
    state = np.random.get_state()  # ONNX seeds the one generator that all share
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for node in sorted(nodes):  # this version of ONNX may not have it yet
                for name in (f"{CASES}.{node.lower()}", f"{CASES}.{_snake(node)}"):
                    if importlib.util.find_spec(name):
                        importlib.import_module(name)
    finally:
        np.random.set_state(state)
    made = getattr(package, "_NodeTestCases", None)
    if made is None:
        where = f"onnx {onnx.__version__} keeps its node cases elsewhere than in {CASES}"
        raise TinyllmError(f"--oracle onnx: {where}; pip install 'tinyllm[onnx]'")
    return [
        _case(onnx, case) for case in made if EXPANDED not in case.name and case.model.graph.node[0].op_type in nodes
    ]


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _case(onnx: Any, case: Any) -> OnnxCase:
    (node,) = case.model.graph.node
    schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
    ((inputs, outputs),) = case.data_sets
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    given, wanted = _named(onnx, node.input, schema.inputs, inputs), _named(onnx, node.output, schema.outputs, outputs)
    return OnnxCase(case.name, node.op_type, given, wanted, attributes)


def _named(onnx: Any, edges: Iterable[str], formal: Any, values: Iterable[Any]) -> dict[str, Any]:
    """Values by the schema's names; a variadic one's are numbered. An edge without a name is an argument left out."""
    edges, names = list(edges), [f.name for f in formal]
    names += [f"{names[-1]}_{i}" for i in range(1, len(edges) - len(names) + 1)]
    present = [name for name, edge in zip(names, edges, strict=False) if edge]
    return {
        name: np.asarray(value) if isinstance(value, np.ndarray | np.generic) else onnx.numpy_helper.to_array(value)
        for name, value in zip(present, values, strict=True)
    }
