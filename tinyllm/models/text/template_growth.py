"""How much longer than its value and arguments a text may come out, paid for before it is made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tinyllm.models.text.template_budget import ITEM, Budget, BudgetError

_MOST_DIGITS = 12


def digits(text: str) -> Iterable[int]:
    """The numbers that stand in a text, such as the widths of a format."""
    for found in re.finditer(r"\d+", text):
        yield int(found[0]) if len(found[0]) <= _MOST_DIGITS else 10**_MOST_DIGITS


def growth_of_percent(budget: Budget, form: str, values: Any) -> None:
    """`form % values`: each place may take all of the values, and be as wide as the numbers in the form say."""
    budget.spend(2 * len(form) + sum(digits(form)))
    if re.search(r"%[^%a-zA-Z]*\*", form):
        raise BudgetError("expected widths that stand in the format itself, got *")
    for _ in range(form.count("%")):
        budget.write(values)


def growth_of_replacing(budget: Budget, text: str, old: Any, new: Any) -> None:
    """`text.replace(old, new)`."""
    if isinstance(old, str) and isinstance(new, str):
        budget.spend(text.count(old) * len(new))


def growth_of_indent(budget: Budget, text: Any, width: Any) -> None:
    """A text whose lines, each at least one character, begin with a width more."""
    budget.write(text)
    length = len(text) if isinstance(text, str) else len(str(text))
    budget.spend((length + 1) * (1 + (len(width) if isinstance(width, str) else abs(width))))


def growth_of_method(
    budget: Budget, text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """A method of a text. Returns its arguments: of those that come one by one, a list."""
    if name == "join" and args:
        joined = args[0] if isinstance(args[0], (list, tuple, str)) else list(budget.each(args[0]))
        budget.spend(len(joined) * (len(text) + (ITEM if isinstance(joined, str) else 1)))
        budget.read(joined)
        return (joined, *args[1:])
    if name == "replace" and len(args) > 1:
        growth_of_replacing(budget, text, args[0], args[1])
    elif name in ("center", "ljust", "rjust", "zfill") and args and isinstance(args[0], int):
        budget.spend(max(0, args[0]))
    elif name in ("split", "rsplit", "splitlines"):
        separator = args[0] if args else kwargs.get("sep")
        cuts = text.count(separator) if isinstance(separator, str) and separator else len(text) // 2
        most = args[1] if len(args) > 1 else kwargs.get("maxsplit", -1)
        budget.spend(ITEM * (min(cuts, most) if isinstance(most, int) and most >= 0 else cuts))
    return args
