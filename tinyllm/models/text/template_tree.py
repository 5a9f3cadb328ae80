"""A template's tree, so that what its loops and expressions cost is paid for as they run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from tinyllm.models.text.template_budget import STEP

PAY, READ, SEEK, WRITE, HOLD = " pay", " read", " seek", " write", " hold"
"""Filters by names that no template can write."""
_REFUSED = (nodes.Extends, nodes.Block, nodes.Include, nodes.Import, nodes.FromImport, nodes.EvalContextModifier)
_Looped = TypeVar("_Looped", nodes.For, nodes.Macro, nodes.CallBlock)


def priced(tree: nodes.Template) -> nodes.Template:
    """The tree with filters where something is to be paid for.

    Raises `jinja2.TemplateSyntaxError` for what speaks of other templates, or changes how this one escapes.
    """
    for node in tree.find_all(_REFUSED):
        raise jinja2.TemplateSyntaxError(f"{type(node).__name__}, which speaks of more than this template", node.lineno)
    made: nodes.Template = _Pricing().visit(tree)
    return made


class _Pricing(NodeTransformer):
    """A body is paid for each time it is entered, by its size; an operand where it is used."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        if node.test is not None:
            price = _filter(nodes.Const(STEP * _size([node.test])), PAY, node.lineno)
            node.test = nodes.And(price, node.test, lineno=node.lineno)
        return self._entered(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        return self._entered(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        return self._entered(node)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Const:
        return nodes.Const(node.data, lineno=node.lineno)  # written as any value is

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:
        self.generic_visit(node)
        node.nodes = [_filter(part, WRITE, node.lineno) for part in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _read(node.expr)
        for operand in node.ops:
            operand.expr = _read(operand.expr, SEEK if operand.op in ("in", "notin") else READ)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        node.key = _read(node.key)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            if isinstance(node.node, nodes.Const):  # of which Python's compiler would tell what it thinks
                node.node = _filter(node.node, READ, node.lineno)
            return _filter(node, HOLD, node.lineno)
        node.arg = _read(node.arg)
        return node

    def _entered(self, node: _Looped) -> _Looped:
        price = _filter(nodes.Const(STEP * (1 + _size(node.body))), PAY, node.lineno)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(price, lineno=node.lineno))
        return node


def _filter(node: nodes.Expr, name: str, line: int) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=line)


def _read(node: nodes.Expr, name: str = READ) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _filter(node, name, node.lineno)


def _size(body: Iterable[nodes.Node]) -> int:
    """How many nodes there are, without the bodies that are paid for by themselves."""
    count = 0
    for node in body:
        own: Any = ("body",) if isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock)) else ()
        count += 1 + _size(node.iter_child_nodes(exclude=own))
    return count
