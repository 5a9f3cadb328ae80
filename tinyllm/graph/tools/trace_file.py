"""Reads what `tinyllm trace --json` prints: the seconds that each node of a graph took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tinyllm.errors import InvalidInputError, quoted
from tinyllm.graph.graph import Graph

StepName = Literal["prefill", "decode"]
_BEGINS = {"prefill": "prompt of ", "decode": "token "}
"""How the names of the steps in the file begin."""
MOST = 64 << 20
"""Most bytes of such a file."""
_BETWEEN = ("copy",)
"""Ops of a program that its graph does not have: arrays that go from backend to backend."""


def read_trace(path: Path, step: StepName, graph: Graph, kernels: Mapping[str, str]) -> tuple[str, dict[str, float]]:
    """What the file calls the step, and per node of the graph its seconds; those of copies are beside them.

    kernels: those of the graph's nodes, which must be those that were traced.

    Raises:
        InvalidInputError: a file that no trace wrote, or that is another graph's, which says what differs.
    """
    name, nodes = _step(path, step)
    seconds: dict[str, float] = {}
    for number, node in enumerate(nodes):
        if not isinstance(node, dict) or not isinstance(node.get("name"), str) or not _is_time(node.get("seconds")):
            raise _no_trace(path, f"{quoted(node)} as node {number} of {name!r}")
        seconds[node["name"]] = seconds.get(node["name"], 0.0) + node["seconds"]
        if node.get("op") in _BETWEEN:
            continue
        if node["name"] not in kernels:
            raise InvalidInputError(f"{path}: node {quoted(node['name'])}: this graph has none of that name")
        if (traced := node.get("kernel", kernels[node["name"]])) != kernels[node["name"]]:
            raise InvalidInputError(
                f"{path}: node {quoted(node['name'])}: expected the kernel that runs it here, {kernels[node['name']]}, "
                f"got {quoted(traced)}; the backend, dtype and --fast must be those of the trace"
            )
    if lost := next((node.name for node in graph.nodes if node.name not in seconds), None):
        raise InvalidInputError(f"{path}: {name}: node {quoted(lost)} of this graph is not in it")
    return name, seconds


def _step(path: Path, step: StepName) -> tuple[str, list[Any]]:
    """The name of a step in the file, and its nodes."""
    try:
        with open(path, "rb") as file:
            text = file.read(MOST + 1)
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > MOST:
        raise InvalidInputError(f"{path}: expected at most {MOST >> 20} MiB, got more")
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_trace(path, f"no JSON ({error})") from error
    if not isinstance(whole, dict):
        raise _no_trace(path, quoted(whole))
    for name, found in whole.items():
        if name.startswith(_BEGINS[step]):
            if not isinstance(found, dict) or not isinstance(found.get("nodes"), list):
                raise _no_trace(path, f"{quoted(found)} for {name!r}")
            return name, found["nodes"]
    raise _no_trace(path, f"no step that begins with {_BEGINS[step]!r} among {quoted(list(whole))}")


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _no_trace(path: Path, got: str) -> InvalidInputError:
    return InvalidInputError(f"{path}: expected what tinyllm trace --json prints, got {got}")
