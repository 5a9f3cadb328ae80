"""What a weight is made of is its type: no op and no decision goes by a name that begins with `quantized_`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinyllm.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("tinyllm", "backends") for path in sorted((ROOT / folder).rglob("*.py"))]
GONE = re.compile(r"\b(quantized_linear|quantized_embedding|use_quantized)\b")


def literals(tree: ast.AST) -> Iterator[str]:
    """Every string but docstrings, which are statements of their own."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node) if not isinstance(node, ast.Expr) else ():
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                yield child.value


def test_no_op_has_the_prefix() -> None:
    assert [op for op in CATALOGUE if op.startswith("quantized_")] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_string_has_the_prefix(path: Path) -> None:
    """Nothing can be compared with it, cut off by it, or looked up by it; and no text speaks of the ops that had it."""
    text = path.read_text(encoding="utf-8")
    assert [word for word in literals(ast.parse(text)) if word.startswith("quantized_")] == []
    assert GONE.findall(text) == []
