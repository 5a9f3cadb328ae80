"""The filters and tests of templates, paid for before they run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2

from tinyllm.models.text.template_budget import CALL, ITEM, Budget, BudgetError
from tinyllm.models.text.template_growth import growth_of_indent, growth_of_percent, growth_of_replacing
from tinyllm.models.text.template_tree import HOLD, PAY, READ, SEEK, WRITE


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_LAZY = words("map reject rejectattr select selectattr")
_AT_ONCE = words("attr count d default first items last length")
_THROUGH = words("batch groupby join list max min reverse slice sort sum unique")
_TEXTS = words(
    "abs capitalize center dictsort e escape float forceescape format indent int lower replace round safe string title "
    "trim truncate upper urlencode wordcount"
)
_QUICK_TESTS = words(
    "boolean callable defined escaped false filter float integer iterable mapping none number sameas sequence string "
    "test true undefined"
)
_MOST_PRECISION = 300
_MOST_INDENT = 32


def bounded_filters(known: Mapping[str, Any]) -> dict[str, Any]:
    """Jinja's filters that chat templates may use, with `tojson` as transformers has it. The others are left out:
    urlize, wordwrap, striptags and their like take time that goes with the square of a text."""
    names = _LAZY | _AT_ONCE | _THROUGH | _TEXTS
    made = {name: _bounded(name, known[name]) for name in names}
    return made | {"tojson": _tojson, PAY: _pay, READ: _read, SEEK: _seek, WRITE: _write, HOLD: _hold}


def bounded_tests(known: Mapping[str, Any]) -> dict[str, Any]:
    """Jinja's tests. Those that look no further than a value's kind stay as they are."""
    return {name: test if name in _QUICK_TESTS else _bounded_test(name, test) for name, test in known.items()}


def _bounded(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @jinja2.pass_context
    def run(context: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget: Budget = context.budget
        budget.spend(CALL)
        given = (*args, *kwargs.values())
        for argument in given:
            budget.read(argument)
        texts = sum(len(argument) for argument in given if isinstance(argument, str))
        if name in _LAZY:
            return budget.each(_called(original, context, value, args, kwargs), CALL + texts)
        if name in _THROUGH:
            value = _gone_through(budget, name, value, texts, given)
        elif name not in _AT_ONCE:
            budget.read(value)
        if name in _GROWTH:
            _GROWTH[name](budget, value, *args, **kwargs)
        return budget.hold(_called(original, context, value, args, kwargs))

    return run


def _called(
    original: Callable[..., Any], context: Any, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """A filter or test with what jinja2's decorators say it wants first."""
    wanted = getattr(getattr(original, "jinja_pass_arg", None), "name", None)
    first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
    return original(*([] if wanted is None else [first[wanted]]), value, *args, **kwargs)


def _gone_through(budget: Budget, name: str, value: Any, texts: int, given: tuple[Any, ...]) -> Any:
    """The value of a filter that goes through its items, as a list where they come one by one."""
    if isinstance(value, Iterator) and name != "reverse":
        value = list(budget.each(value))
    before = budget.left
    if name not in ("batch", "list", "reverse", "slice"):
        budget.read(value)
    if hasattr(value, "__len__"):
        length = len(value)
        budget.spend(length * (texts + (ITEM if isinstance(value, str) else 1)))
        if name == "sum" and any(isinstance(argument, (list, tuple)) for argument in given):
            budget.spend(length * (before - budget.left))  # each list is copied for each that follows
    if name in ("batch", "slice"):
        budget.spend(ITEM * sum(abs(argument) for argument in given if isinstance(argument, int)))
    return value


def _center(budget: Budget, value: Any, width: Any = 80) -> None:
    budget.spend(abs(width))


def _format(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> None:
    budget.write(value)
    growth_of_percent(budget, str(value), kwargs or args)


def _indent(budget: Budget, value: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    growth_of_indent(budget, value, width)


def _replace(budget: Budget, value: Any, old: Any, new: Any, count: Any = None) -> None:
    budget.write(value)
    growth_of_replacing(budget, str(value), str(old), str(new))


def _round(budget: Budget, value: Any, precision: Any = 0, method: Any = "common") -> None:
    if not isinstance(value, (int, float)) or not isinstance(precision, int) or abs(precision) > _MOST_PRECISION:
        raise BudgetError(f"round: expected a number and at most {_MOST_PRECISION} digits, got others")


def _words(budget: Budget, value: Any) -> None:
    budget.spend(ITEM * len(str(value)))


_GROWTH: dict[str, Callable[..., None]] = {
    "center": _center,
    "format": _format,
    "indent": _indent,
    "replace": _replace,
    "round": _round,
    "title": _words,
    "wordcount": _words,
}


def _bounded_test(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @jinja2.pass_context
    def run(context: Any, value: Any, *args: Any) -> Any:
        if name in ("divisibleby", "even", "odd") and isinstance(value, str):
            raise BudgetError(f"{name}: expected a number, got a text")  # % would format it
        context.budget.spend(CALL)
        context.budget.read(value)
        for argument in args:
            if not (name == "in" and isinstance(argument, dict)):
                context.budget.read(argument)
        return _called(original, context, value, args, {})

    return run


@jinja2.pass_context
def _tojson(
    context: Any,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without Jinja's HTML escapes."""
    budget: Budget = context.budget
    budget.spend(CALL)
    budget.write(value)
    width = indent if isinstance(indent, int) else len(indent or "")
    if width > _MOST_INDENT:
        raise BudgetError(f"tojson: expected an indent of at most {_MOST_INDENT}, got more")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    pieces = []
    for piece in encoder.iterencode(value):
        budget.spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)


@jinja2.pass_context
def _pay(context: Any, units: int) -> bool:
    return bool(context.budget.spend(units))


@jinja2.pass_context
def _read(context: Any, value: Any) -> Any:
    context.budget.read(value)
    return value


@jinja2.pass_context
def _seek(context: Any, value: Any) -> Any:
    """What `in` looks through: of an object, one place."""
    if not isinstance(value, dict):
        context.budget.read(value)
    return value


@jinja2.pass_context
def _write(context: Any, value: Any) -> Any:
    context.budget.write(value)
    return value


@jinja2.pass_context
def _hold(context: Any, value: Any) -> Any:
    return context.budget.hold(value)
