"""Jinja for templates that come with downloads: nothing outside is reached, and all that is done is paid for."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import jinja2
import jinja2.ext
import jinja2.parser
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace

from tinyllm.models.text.template_budget import CALL, ITEM, Budget, BudgetError
from tinyllm.models.text.template_filters import bounded_filters, bounded_tests, words
from tinyllm.models.text.template_growth import digits, growth_of_method, growth_of_percent
from tinyllm.models.text.template_tree import priced

MOST_NODES = 1 << 15
"""Nodes of a template's tree: the time to compile one goes with them."""
_LONGEST_INTEGER = 4096  # bits
_LONGEST_FORM = 200
_METHODS: dict[type, frozenset[str]] = {
    str: words(
        "capitalize casefold center count endswith find format format_map index isalnum isalpha isascii isdecimal "
        "isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition "
        "removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith "
        "strip swapcase title upper zfill"
    ),
    list: words("copy count index"),
    tuple: words("count index"),
    dict: words("copy get items keys values"),
    int: words("bit_length"),
    float: words("is_integer"),
}
"""What may be called of Python's own values: what costs no more than its value and arguments, or than is foreseen."""


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant says, for training; at inference it is its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance variable

    def parse(self, parser: jinja2.parser.Parser) -> list[nodes.Node]:
        """What stands inside the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class BudgetContext(Context):
    """The variables of one rendering, and what is left to it."""

    budget: Budget


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up, so that templates give the same text. Nothing is computed while compiling."""

    context_class = BudgetContext
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, jinja2.ext.loopcontrols],
            optimized=False,
            finalize=_written,
        )
        filters, tests = dict[str, Any](self.filters), dict[str, Any](self.tests)
        self.filters, self.tests = bounded_filters(filters), bounded_tests(tests)
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def template(self, source: str) -> jinja2.Template:
        """The template of a source. Raises `jinja2.TemplateError`, or what Python's compiler does, where it is none."""
        parsed = self.parse(source)
        if sum(1 for _ in parsed.find_all(nodes.Node)) > MOST_NODES:
            raise BudgetError(f"more than {MOST_NODES} expressions and texts")
        tree = priced(parsed)
        tree.set_environment(self)
        return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    def render(self, template: jinja2.Template, variables: Mapping[str, Any], base: int) -> str:
        """A template's text, out of a budget that begins with `base`. Raises whatever a template may raise."""
        context = template.new_context(dict(variables))
        if not isinstance(context, BudgetContext):
            raise TypeError(f"template: expected one of this sandbox, got {template!r}")
        context.budget = Budget(variables.values(), base)
        return "".join(template.root_render_func(context))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call, paid for before and after."""
        budget: Budget = __context.budget
        budget.spend(CALL + ITEM * (len(args) + len(kwargs)))
        if not isinstance(__obj, (Macro, LoopContext)) and __obj is not Namespace:
            for value in (*args, *kwargs.values()):
                budget.read(value)
        owner = getattr(__obj, "__self__", None)
        if owner is not None and type(owner).__module__ in ("builtins", "markupsafe") and callable(__obj):
            args = _method_arguments(budget, owner, __obj.__name__, args, kwargs)
        formatted = getattr(__obj, "__wrapped__", None)
        if isinstance(getattr(formatted, "__self__", None), str):  # what the sandbox has for `str.format`
            return budget.hold(_formatted(__self, budget, formatted, args, kwargs))
        return budget.hold(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator, paid for before it runs."""
        budget: Budget = context.budget
        if operator == "+" and isinstance(left, str):
            budget.write(left)
            budget.write(right)
        elif operator == "%" and isinstance(left, str):
            growth_of_percent(budget, left, right)
        elif operator == "*":
            _multiplied(budget, left, right)
        elif isinstance(left, int) and isinstance(right, int):
            _check_integers(operator, left, right)
        elif operator == "+" and isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
            budget.spend(ITEM * (len(left) + len(right)))
        return self.binop_table[operator](left, right)


@jinja2.pass_context
def _written(context: Any, value: Any) -> Any:
    context.budget.write(value)
    return value


def _method_arguments(
    budget: Budget, owner: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The arguments of a method of one of Python's own values, paid for with what it makes of them."""
    kind = next((kind for kind in _METHODS if isinstance(owner, kind)), None)
    if kind is None or name not in _METHODS[kind]:
        raise SecurityError(f"{type(owner).__name__}.{name} is no method that templates may call")
    if kind in (str, list, tuple):
        budget.read(owner)
    return growth_of_method(budget, owner, name, args, kwargs) if kind is str else args


def _multiplied(budget: Budget, left: Any, right: Any) -> None:
    if isinstance(left, int):
        left, right = right, left
    if isinstance(left, (str, list, tuple)) and isinstance(right, int):
        budget.spend(max(0, right) * len(left) * (1 if isinstance(left, str) else ITEM))
    elif isinstance(left, int) and isinstance(right, int):
        _check_integers("*", left, right)


def _check_integers(operator: str, left: int, right: int) -> None:
    bits = max(left.bit_length(), right.bit_length())
    if operator == "**":
        bits = left.bit_length() * max(1, right)
    if bits > _LONGEST_INTEGER:
        raise BudgetError(f"expected integers of at most {_LONGEST_INTEGER} bits, got {operator} of longer ones")


class _Formatter(SandboxedFormatter):
    """`str.format`, paid for field by field."""

    def __init__(self, environment: jinja2.Environment, budget: Budget) -> None:
        super().__init__(environment)
        self._budget = budget

    def format_field(self, value: Any, format_spec: str) -> Any:
        """One field."""
        self._budget.spend(CALL + sum(digits(format_spec)))
        self._budget.write(value)
        return super().format_field(value, format_spec)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """`!r` and its like."""
        if conversion is not None:
            self._budget.write(value)
            self._budget.write(value)
        return super().convert_field(value, conversion)


def _formatted(
    environment: jinja2.Environment, budget: Budget, method: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str:
    text = method.__self__
    if type(text) is not str:
        raise SecurityError("format of an escaped text is no method that templates may call")
    if method.__name__ == "format_map":
        (kwargs,), args = args, ()
    budget.write(text)
    return _Formatter(environment, budget).vformat(text, args, kwargs)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    if not isinstance(form, str) or len(form) > _LONGEST_FORM:
        raise BudgetError(f"strftime_now: expected a form of at most {_LONGEST_FORM} characters, got another")
    return datetime.datetime.now().strftime(form)
