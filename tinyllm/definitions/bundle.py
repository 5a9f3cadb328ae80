"""The source of a function with all that it needs of this package: text that runs by itself, with numpy alone."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import textwrap
from collections.abc import Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any

from tinyllm.errors import UnsupportedError

PACKAGE = __name__.partition(".")[0]
PLAIN = (bool, int, float, str, type(None))
"""Constants that are written as they are; tuples of these as well."""


def bundle(function: FunctionType, instead: Mapping[Any, str], classes: Iterable[type] = ()) -> str:
    """The functions, classes and constants that a function uses, each before what uses it, and it itself.

    Docstrings and the hints of arguments are left out: they would name types that are not needed.

    Args:
        instead: functions with the text that stands in their place. classes: of values that it is given, which it
            may name nowhere.

    Raises:
        UnsupportedError: it uses something that has no source, or two things of one name.
    """
    found: dict[str, tuple[Any, str]] = {}
    for each in classes:
        _add(each.__name__, each, found, instead)
    _add(function.__name__, function, found, instead)
    texts = [text for _, text in found.values()]
    imports = sorted(text for text in texts if text.startswith(("import ", "from ")))
    return "\n\n".join(["\n".join(imports), *(text for text in texts if text not in imports)]).strip()


def _add(name: str, value: Any, found: dict[str, tuple[Any, str]], instead: Mapping[Any, str]) -> None:
    if name in found:
        if found[name][0] is not value and found[name][0] != value:
            raise UnsupportedError(f"its formula uses two things called {name}")
        return
    if isinstance(value, FunctionType) and value in instead:
        found[name] = value, instead[value]
        return
    if text := _imported(name, value):
        found[name] = value, text
        return
    if callable(value):
        tree = _tree(value)
        found[name] = value, ""  # one that calls itself is there already
        for used in _names(tree):
            if (known := _global(value, used)) is not _ABSENT:
                _add(used, known, found, instead)
        del found[name]
        found[name] = value, ast.unparse(tree)  # after what it uses
        if (own := getattr(tree, "name", name)) != name:
            found[f"{name} ="] = value, f"{name} = {own}"
        return
    if not _plain(value):
        raise UnsupportedError(f"its formula uses {name}, a {type(value).__name__}")
    found[name] = value, f"{name} = {value!r}"


def _imported(name: str, value: Any) -> str:
    """The import of a module, or of something that another package has; empty for what is this package's own."""
    if isinstance(value, ModuleType):
        if value.__name__.partition(".")[0] not in {*sys.stdlib_module_names, "numpy"}:
            raise UnsupportedError(f"its formula uses the module {value.__name__}")
        return f"import {value.__name__}" + (f" as {name}" if name != value.__name__ else "")
    module, own = (str(getattr(value, attribute, "")) for attribute in ("__module__", "__name__"))
    if not callable(value) or module.partition(".")[0] == PACKAGE:
        return ""
    if getattr(sys.modules.get(module), own, None) is not value:
        raise UnsupportedError(f"its formula uses {name}, which cannot be imported")
    return f"from {module} import {own}" + (f" as {name}" if name != own else "")


_ABSENT = object()


def _global(value: Any, name: str) -> Any:
    """What a name stands for where a function or class was written; `_ABSENT` for locals and builtins."""
    known = vars(sys.modules[value.__module__])
    return known[name] if name in known and not hasattr(builtins, name) else _ABSENT


def _plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(_plain, value)))


def _tree(value: Any) -> ast.AST:
    """The definition, without docstrings, and without hints but for a class's fields."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    except (OSError, TypeError, SyntaxError) as error:
        raise UnsupportedError(f"its formula has no source: {error}") from error
    if not isinstance(tree, (ast.FunctionDef, ast.ClassDef)):
        raise UnsupportedError("its formula is no function")
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return tree


def _names(tree: ast.AST) -> list[str]:
    """The names that are read and not its own, in the order of the text; those in hints, which are never looked at, are
    left out."""
    nodes = list(ast.walk(tree))
    hints = {id(part) for node in nodes if isinstance(node, ast.AnnAssign) for part in ast.walk(node.annotation)}
    names = [node for node in nodes if isinstance(node, ast.Name) and id(node) not in hints]
    own = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return list(dict.fromkeys(node.id for node in names if node.id not in own))
